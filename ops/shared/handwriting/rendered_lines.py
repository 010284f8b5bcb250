"""Renders lines from texts and fonts alone: something to train on before there are labels."""

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from handwriting.ahead import made_ahead
from handwriting.alphabet import Alphabet
from handwriting.errors import ConfigError
from handwriting.fonts import Family
from handwriting.packing import LABELS
from handwriting.rendering import pick, render
from handwriting.text import clean_text

log = logging.getLogger(__name__)

VALIDATION = 30  # one of so many lines is for validation
SHORTEST, LONGEST = 12, 65  # characters, unless a text is shorter
SHUFFLED, EXCHANGED = 0.35, 0.3  # share of the lines, and of their letters, that become any others of the alphabet
TRIES = 1000  # texts drawn for one line until there is a font for it
PNG_LEVEL = 2  # paper noise hardly packs, and packing it harder took most of the time
UNSAVED = 16  # pictures that may wait to be written while more are drawn


def render_lines(out: Path, texts: Sequence[str], families: Sequence[Family], alphabet: Alphabet, *,
                 lines: int = 6000, seed: int = 0) -> dict[str, int]:
    """Writes the bucket layout `out/{train,validation}/images/NNNNN.png` and `labels.json` beside them.

    A line is a passage of a text in a font that has all of its letters. In a third of the lines some letters become any
    others of the alphabet, so that each is seen, whatever the texts are.

    Args:
        out: Folder to write to; files of the same names are overwritten.
        texts: What to write; those with a character outside the alphabet are left out.
        families: Fonts to write it in.
        alphabet: What the reader shall know.
        lines: How many.
        seed: The same seed, texts, fonts and versions of the libraries give the same bytes.

    Returns:
        Lines of each split.

    Raises:
        ConfigError: Too few lines, no text within the alphabet, or no font for the texts.
    """
    if lines < VALIDATION:
        raise ConfigError(f"{lines} lines leave none for validation; ask for {VALIDATION} or more")
    known = _known(texts, alphabet)
    _warn_of_letters_without_font(families, alphabet)
    validation = range(VALIDATION, lines + 1, VALIDATION)
    splits = {"train": [number for number in range(1, lines + 1) if number not in validation], "validation": validation}

    def drawn(number: int) -> tuple[str, str, Image.Image]:
        rng = np.random.default_rng([seed, number])
        text, family = _choose(known, families, alphabet, rng)
        return f"{number:05}.png", text, render(text, family, rng)

    for split, numbers in splits.items():
        write_split(out / split, map(drawn, tqdm(numbers, desc=f"rendering {split}", disable=None)))
    return {split: len(numbers) for split, numbers in splits.items()}


def write_split(folder: Path, lines: Iterable[tuple[str, str, Image.Image]]) -> None:
    """Writes `images/NAME` and labels.json of a split from names, texts and pictures.

    A picture is written while the next ones are drawn: a third of the time goes into its PNG.
    """
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)

    def save(line: tuple[str, str, Image.Image]) -> tuple[str, str]:
        name, text, picture = line
        picture.save(images / name, compress_level=PNG_LEVEL)
        return name, text

    labels = dict(made_ahead(save, lines, threads=1, ahead=UNSAVED))
    (folder / LABELS).write_text(json.dumps(labels, ensure_ascii=False, indent=1), encoding="utf-8")


def read_texts(path: Path) -> list[str]:
    """Reads the lines of a text file that are not empty.

    Raises:
        ConfigError: It is absent, or not UTF-8.
    """
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as a UTF-8 text file: {error}") from error


def _known(texts: Sequence[str], alphabet: Alphabet) -> list[str]:
    cleaned = list(filter(None, map(clean_text, texts)))
    known = [text for text in cleaned if not alphabet.unknown(text)]
    if not known:
        raise ConfigError(f"none of {len(cleaned)} texts is within the alphabet; give others, or another alphabet")
    if len(known) < len(cleaned):
        log.warning("%d of %d texts have a character outside the alphabet and are left out",
                    len(cleaned) - len(known), len(cleaned))
    return known


def _warn_of_letters_without_font(families: Sequence[Family], alphabet: Alphabet) -> None:
    nowhere = [c for c in alphabet.characters if all(family.lacks(c) for family in families)]
    if nowhere:
        log.warning("no font has %s: a reader will not learn them from these lines", " ".join(nowhere))


def _choose(texts: Sequence[str], families: Sequence[Family], alphabet: Alphabet,
            rng: np.random.Generator) -> tuple[str, Family]:
    """Returns what the next line says, and a font that has all of it."""
    for _ in range(TRIES):
        text = _passage(pick(rng, texts), rng)
        if rng.random() < SHUFFLED:
            text = _exchange(text, alphabet, rng)
        able = [family for family in families if not family.lacks(text)]
        if able:
            return text, pick(rng, able)
    raise ConfigError(f"no font has all letters of {text!r}, nor of {TRIES - 1} other texts; give fonts of that script")


def _passage(text: str, rng: np.random.Generator) -> str:
    """Takes some words from any place of a text; they may end within a word, as the network reads letters."""
    words = text.split(" ")
    begin = int(rng.integers(len(words))) if rng.random() < 0.5 else 0
    return " ".join(words[begin:])[:rng.integers(SHORTEST, LONGEST + 1)].strip()


def _exchange(text: str, alphabet: Alphabet, rng: np.random.Generator) -> str:
    """Makes some letters any others of the alphabet; blanks stay."""
    letters = [c for c in alphabet.characters if c != " "]
    return "".join(pick(rng, letters) if c != " " and rng.random() < EXCHANGED else c for c in text)
