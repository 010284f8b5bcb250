"""Renders Vietnamese addresses as pictures of handwritten lines: data to try the pipeline on, the same for one seed.

The fonts come from PyPI, all under the SIL Open Font License. Every line draws its pen, paper and hand from a stream of
its own, so a line does not depend on how much chance the lines before it used.
"""

from functools import lru_cache
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from handwriting.errors import ConfigError
from handwriting.fonts import Face, Family
from handwriting.rendered_lines import write_split
from handwriting.rendering import pick, render
from pipeline.places import HAMLETS, PLACES, STREETS

PARTS = {"validation": 0.08, "test": 0.08, "user_data": 0.04}
"""Fraction of the lines in each split but train, which gets the rest."""
LEAST_LINES = 13  # below it the smallest split would round to no line
SHORTEST, LONGEST = 10, 32  # characters
SPREAD = 0.3  # steady hands: a few hundred lines are to be enough to learn from
PATTERNS = (
    "{house} {street}", "{house} {street}", "{house} {street}, {district}", "{house} {street}, {province}",
    "Số {number} {street}", "Số {number} {street}, {district}", "{house} {street}, {ward}", "{street}, {district}",
    "Ngõ {number} {street}", "Hẻm {house} {street}", "Kiệt {house} {street}, Huế", "{ward}, {district}",
    "{district}, {province}", "{ward}, {province}", "P. {ward}, {district}", "{ward} - {province}", "{street} ({ward})",
    "Thôn {hamlet}, {ward}", "Xóm {small}, {ward}", "Ấp {hamlet}, {district}", "Tổ {small}, P. {ward}",
    "KP.{small}, P.{ward}", "{house} {street}, Q.{quarter}", "P.{small}, Q.{quarter}, TP.HCM", "Đ/c: {house} {street}",
    "Lô {letter}{small}, KĐT {hamlet}", "Căn #{number}, {street}", "Km {number}+{hundreds}, {ward}",
)


class Font(NamedTuple):
    """A font file inside an installed package.

    Attributes:
        package: The package to import; its distribution is pinned in `setup.cfg`.
        file: Path inside the package.
        share: Fraction of the lines that it writes.
        stroke: Most px that a broad pen adds around its strokes.
    """

    package: str
    file: str
    share: float
    stroke: float


FONTS = (
    Font("fontpkg_dancing_script", "files/DancingScript[wght].ttf", 0.5, 0.8),
    Font("fontpkg_pacifico", "files/Pacifico-Regular.ttf", 0.3, 0.4),
    Font("fontpkg_lobster", "files/Lobster-Regular.ttf", 0.2, 0.0),
)


def make_samples(out: Path, *, lines: int = 600, seed: int = 7) -> dict[str, int]:
    """Writes the bucket layout `out/<split>/images/NNNN.png` and `out/<split>/labels.json`.

    Args:
        out: Folder to write to; files of the same names are overwritten.
        lines: How many lines in all splits together; no text occurs twice.
        seed: The same seed and versions of the fonts and libraries give the same bytes.

    Returns:
        Lines of each split: train, validation, test and user_data.

    Raises:
        ConfigError: There are too few lines to give each split one.
    """
    if lines < LEAST_LINES:
        raise ConfigError(f"{lines} lines do not fill {len(PARTS) + 1} splits; ask for {LEAST_LINES} or more")
    counts = {split: round(lines * part) for split, part in PARTS.items()}
    counts = {"train": lines - sum(counts.values()), **counts}
    numbered = enumerate(make_texts(np.random.default_rng(seed), lines))
    for split, count in counts.items():
        write_split(out / split, (
            (f"{place:04}.png", text, draw(text, np.random.default_rng([seed, number])))
            for place, (number, text) in enumerate(islice(numbered, count), 1)))
    return counts


def make_texts(rng: np.random.Generator, count: int) -> list[str]:
    """Returns `count` different addresses of 10 to 32 characters, NFC, in random order."""
    texts: dict[str, None] = {}  # a set that keeps its order
    while len(texts) < count:
        text = compose(rng)
        if SHORTEST <= len(text) <= LONGEST:
            texts[text] = None
    return list(texts)


def compose_texts(count: int, seed: int) -> list[str]:
    """Returns texts of three addresses on average, as long as people's own lines are."""
    rng = np.random.default_rng(seed)
    return [", ".join(compose(rng) for _ in range(rng.geometric(0.33))) for _ in range(count)]


def compose(rng: np.random.Generator) -> str:
    """Returns one address of any length; its ward, district and province belong together."""
    ward, district, province = pick(rng, PLACES)
    number = int(rng.integers(1, 400))
    house = pick(rng, ("{0}", "{0}", "{0}/{1}", "{0}{2}")).format(number, rng.integers(1, 60), pick(rng, "ABCD"))
    return pick(rng, PATTERNS).format(
        house=house, number=number, street=pick(rng, STREETS), hamlet=pick(rng, HAMLETS),
        ward=ward, district=district, province=province,
        small=rng.integers(1, 20), quarter=rng.integers(1, 13), hundreds=100 * rng.integers(1, 10),
        letter=pick(rng, "ABCDEGHK"))


def draw(text: str, rng: np.random.Generator) -> Image.Image:
    """Draws a text in one of the fonts, each in its share of the lines."""
    return render(text, sample_families()[rng.choice(len(FONTS), p=[font.share for font in FONTS])], rng, SPREAD)


@lru_cache(maxsize=1)
def sample_families() -> tuple[Family, ...]:
    """Returns the fonts, in the order of `FONTS`."""
    faces = [Face(files(font.package).joinpath(font.file).read_bytes()) for font in FONTS]
    return tuple(Family(face.name, (face,), font.stroke) for face, font in zip(faces, FONTS))
