"""Renders Vietnamese addresses as pictures of handwritten lines: data to try the pipeline on, the same for one seed.

The fonts come from PyPI, all under the SIL Open Font License. Every line draws its pen, paper and hand from a stream of
its own, so a line does not depend on how much chance the lines before it used.
"""

import io
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from handwriting.errors import ConfigError
from pipeline.places import HAMLETS, PLACES, STREETS

Item = TypeVar("Item")

PARTS = {"validation": 0.08, "test": 0.08, "user_data": 0.04}
"""Fraction of the lines in each split but train, which gets the rest."""
LEAST_LINES = 13  # below it the smallest split would round to no line
SHORTEST, LONGEST = 10, 32  # characters
FONT_SIZE = 64  # px of the first drawing, before the line is scaled to its picture
PNG_LEVEL = 2  # paper noise hardly packs, and packing it harder took most of the time
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
        stroke: Most px that a broad pen adds around its strokes at `FONT_SIZE`.
        weights: Lightest and boldest setting of a variable font, or nothing.
    """

    package: str
    file: str
    share: float
    stroke: float
    weights: tuple[float, float] | None = None


FONTS = (
    Font("fontpkg_dancing_script", "files/DancingScript[wght].ttf", 0.5, 0.8, (400, 700)),
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
        images = out / split / "images"
        images.mkdir(parents=True, exist_ok=True)
        labels = {}
        for place in range(1, count + 1):
            number, text = next(numbered)
            labels[f"{place:04}.png"] = text
            picture = render(text, np.random.default_rng([seed, number]))
            picture.save(images / f"{place:04}.png", compress_level=PNG_LEVEL)
        (out / split / "labels.json").write_text(json.dumps(labels, ensure_ascii=False, indent=1), encoding="utf-8")
    return counts


def make_texts(rng: np.random.Generator, count: int) -> list[str]:
    """Returns `count` different addresses of 10 to 32 characters, NFC, in random order."""
    texts: dict[str, None] = {}  # a set that keeps its order
    while len(texts) < count:
        text = compose(rng)
        if SHORTEST <= len(text) <= LONGEST:
            texts[text] = None
    return list(texts)


def compose(rng: np.random.Generator) -> str:
    """Returns one address of any length; its ward, district and province belong together."""
    ward, district, province = _pick(rng, PLACES)
    number = int(rng.integers(1, 400))
    house = _pick(rng, ("{0}", "{0}", "{0}/{1}", "{0}{2}")).format(number, rng.integers(1, 60), _pick(rng, "ABCD"))
    return _pick(rng, PATTERNS).format(
        house=house, number=number, street=_pick(rng, STREETS), hamlet=_pick(rng, HAMLETS),
        ward=ward, district=district, province=province,
        small=rng.integers(1, 20), quarter=rng.integers(1, 13), hundreds=100 * rng.integers(1, 10),
        letter=_pick(rng, "ABCDEGHK"))


def render(text: str, rng: np.random.Generator) -> Image.Image:
    """Draws a text as one handwritten line: 70 to 110 px high, RGB or grey, dark ink on light paper."""
    font = FONTS[rng.choice(len(FONTS), p=[font.share for font in FONTS])]
    ink = _crop(_bend(_draw(text, font, rng), rng))
    ink = _frame(ink, int(rng.integers(70, 111)), rng)
    picture = Image.fromarray(_colour(ink, rng))
    return picture if rng.random() < 0.7 else picture.convert("L")


def load_font(font: Font, weight: float = 0.5) -> ImageFont.FreeTypeFont:
    """Loads a font at `FONT_SIZE`; `weight` 0 is its lightest and 1 its boldest setting, if it has any."""
    data = files(font.package).joinpath(font.file).read_bytes()
    # the basic layout is part of Pillow; the other one depends on a library of the machine, and pictures would too
    loaded = ImageFont.truetype(io.BytesIO(data), FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)
    if font.weights:
        light, bold = font.weights
        loaded.set_variation_by_axes([light + weight * (bold - light)])
    return loaded


def _pick(rng: np.random.Generator, items: Sequence[Item]) -> Item:
    return items[int(rng.integers(len(items)))]


def _draw(text: str, font: Font, rng: np.random.Generator) -> np.ndarray:
    """Draws a text in the middle of an empty sheet: uint8 [H, W], ink 255; the rim leaves room to bend it."""
    face, stroke = load_font(font, rng.random()), rng.uniform(0, font.stroke)
    left, top, right, bottom = face.getbbox(text, stroke_width=stroke)
    sheet = Image.new("L", (int(right - left) + 2 * FONT_SIZE, int(bottom - top) + 2 * FONT_SIZE))
    ImageDraw.Draw(sheet).text((FONT_SIZE - left, FONT_SIZE - top), text, fill=255, font=face, stroke_width=stroke)
    return np.asarray(sheet)


def _bend(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Slants, tilts and sways the writing, as no hand keeps to the ruler: uint8 [H, W] -> the same shape."""
    y, x = np.mgrid[:ink.shape[0], :ink.shape[1]].astype(np.float32)
    slant, tilt, sway = rng.uniform(-0.15, 0.2), rng.uniform(-0.012, 0.012), rng.uniform(0, 1.5)
    period, phase = rng.uniform(4, 10) * FONT_SIZE, rng.uniform(0, 2 * np.pi)
    middle_y, middle_x = ink.shape[0] / 2, ink.shape[1] / 2
    from_x = x + slant * (y - middle_y)
    from_y = y + tilt * (x - middle_x) + sway * np.sin(2 * np.pi * x / period + phase)
    return cv2.remap(ink, from_x.astype(np.float32), from_y.astype(np.float32), cv2.INTER_LINEAR)


def _crop(ink: np.ndarray) -> np.ndarray:
    """Cuts the empty rim off: uint8 [H, W] -> uint8 [h, w]."""
    x, y, width, height = cv2.boundingRect(ink)
    return ink[y:y + height, x:x + width]


def _frame(ink: np.ndarray, height: int, rng: np.random.Generator) -> np.ndarray:
    """Scales the writing into a picture of `height` px with margins of its own: float32 [height, W], ink 1."""
    above, below = (round(height * share) for share in rng.uniform(0.04, 0.14, 2))
    before, after = (round(height * share) for share in rng.uniform(0.06, 0.3, 2))
    inner = height - above - below
    stretch = rng.uniform(0.92, 1.08)  # broad and narrow hands
    width = round(ink.shape[1] * inner / ink.shape[0] * stretch)
    scaled = cv2.resize(ink, (width, inner), interpolation=cv2.INTER_AREA)
    framed = cv2.copyMakeBorder(scaled, above, below, before, after, cv2.BORDER_CONSTANT, value=0)
    return cv2.GaussianBlur(framed, (0, 0), rng.uniform(0.2, 0.9)).astype(np.float32) / 255


def _colour(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Puts the ink (float32 [H, W], 0 to 1) on shaded, noisy paper: uint8 [H, W, 3] RGB."""
    paper = rng.uniform(222, 250) + np.array([0, rng.uniform(-4, 0), rng.uniform(-18, 0)])  # white to cream
    pen = np.array(_pick(rng, ((25, 25, 30), (20, 40, 130), (30, 60, 170), (90, 90, 95)))) + rng.uniform(-15, 15)
    y, x = np.linspace(-1, 1, ink.shape[0])[:, None, None], np.linspace(-1, 1, ink.shape[1])[None, :, None]
    shade = rng.uniform(-6, 6) * x + rng.uniform(-4, 4) * y
    noise = rng.normal(0, rng.uniform(0.5, 3), (*ink.shape, 1))
    cover = ink[..., None] * rng.uniform(0.8, 1)
    return np.clip((1 - cover) * (paper + shade) + cover * pen + noise, 0, 255).astype(np.uint8)
