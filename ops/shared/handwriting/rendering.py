"""Draws a text in a font as one line that somebody may have written."""

from collections.abc import Sequence
from typing import TypeVar

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from handwriting.alphabet import describe
from handwriting.errors import ConfigError
from handwriting.fonts import FONT_SIZE, Family
from handwriting.marks import ABOVE, draw_marks, split

Item = TypeVar("Item")

BY_HAND = 0.5  # share of the lines whose marks are drawn by hand also where the font has them
RIM = FONT_SIZE  # px around the text of the first drawing, room to bend it
PENS = ((25, 25, 30), (20, 40, 130), (30, 60, 170), (90, 90, 95))  # RGB: black, two blues, pencil


def render(text: str, family: Family, rng: np.random.Generator, spread: float = 1.0) -> Image.Image:
    """Draws a text as one line: 70 to 110 px high, RGB or grey, dark ink on light paper.

    Args:
        text: At least one character; `family` has all of them.
        family: The font.
        rng: Decides on pen, paper and hand.
        spread: How much hands differ and letters dance, 0 to 1.
    """
    ink = _crop(_bend(_draw(text, family, rng, spread), rng, spread))
    ink = _frame(ink, int(rng.integers(70, 111)), rng, spread)
    picture = Image.fromarray(_colour(ink, rng))
    return picture if rng.random() < 0.7 else picture.convert("L")


def pick(rng: np.random.Generator, items: Sequence[Item]) -> Item:
    """Returns one of the items, each as likely as the others."""
    return items[int(rng.integers(len(items)))]


def _draw(text: str, family: Family, rng: np.random.Generator, spread: float) -> np.ndarray:
    """Draws letter by letter, up and down a bit, on an empty sheet: uint8 [H, W], ink 255."""
    pen, weight = max(0.0, rng.uniform(-0.4, 1)) * family.stroke, rng.random()
    for face in family.faces:
        face.set_weight(weight)
    by_hand = rng.random() < BY_HAND * spread
    letters = [_letter(character, family, by_hand) for character in text]
    jitter, tracking, blank = spread * rng.uniform(0, 1.5), spread * rng.uniform(-1.5, 4), rng.uniform(0.8, 1.8)
    steps = [font.getlength(base) * (1 + spread * (blank - 1) * (base == " ")) + tracking + rng.normal(0, jitter / 2)
             for base, _, font in letters]
    starts = np.cumsum([0.0, *steps])
    sheet = Image.new("L", (int(starts.max()) + 3 * RIM, 4 * FONT_SIZE))
    canvas = ImageDraw.Draw(sheet)
    for (base, marks, font), start in zip(letters, starts):
        place = (RIM + start, 2.5 * FONT_SIZE + rng.normal(0, jitter))
        canvas.text(place, base, fill=255, font=font, stroke_width=pen, anchor="ls")
        if marks:
            draw_marks(canvas, place, font, base, marks, pen, rng)
    return np.asarray(sheet)


def _letter(character: str, family: Family, by_hand: bool) -> tuple[str, str, ImageFont.FreeTypeFont]:
    """Returns what to draw of a font, and what marks by hand: where the font has the letter whole, none if it can."""
    base, marks = split(character)
    whole, bare = family.face(character), family.face(base)
    if bare and marks and (by_hand or not whole):
        dotless = "\u0131"  # an i that has another mark has no dot
        if base == "i" and any(mark in ABOVE for mark in marks) and dotless in bare.characters:
            base = dotless
        return base, marks, bare.font
    if not whole:
        raise ConfigError(f"the font {family.name} has no {describe(character)}")
    return character, "", whole.font


def _bend(ink: np.ndarray, rng: np.random.Generator, spread: float) -> np.ndarray:
    """Slants, tilts and sways the writing and lets it grow and shrink: uint8 [H, W] -> the same shape."""
    # A column and a row, and factors of Python's own, so that all that is as large as the sheet stays in float32.
    y, x = np.arange(ink.shape[0], dtype=np.float32)[:, None], np.arange(ink.shape[1], dtype=np.float32)
    slant, tilt = spread * rng.uniform(-0.2, 0.3), rng.uniform(-0.012, 0.012)
    sway = spread * rng.uniform(0, 4) * np.sin(_wave(x, rng.uniform(4, 12) * FONT_SIZE, rng))
    size = 1 + spread * rng.uniform(0, 0.15) * np.sin(_wave(x, rng.uniform(3, 14) * FONT_SIZE, rng))
    middle_y, middle_x = ink.shape[0] / 2, ink.shape[1] / 2
    from_x = x + slant * (y - middle_y)
    from_y = (y - middle_y) * size + (middle_y + tilt * (x - middle_x) * min(1.0, 500 / middle_x) + sway)
    return cv2.remap(ink, from_x, from_y, cv2.INTER_LINEAR)


def _wave(x: np.ndarray, period: float, rng: np.random.Generator) -> np.ndarray:
    return 2 * np.pi * x / period + rng.uniform(0, 2 * np.pi)


def _crop(ink: np.ndarray) -> np.ndarray:
    """Cuts the empty rim off: uint8 [H, W] -> uint8 [h, w]."""
    x, y, width, height = cv2.boundingRect(ink)
    return ink[y:y + height, x:x + width]


def _frame(ink: np.ndarray, height: int, rng: np.random.Generator, spread: float) -> np.ndarray:
    """Scales the writing into a picture of `height` px with margins of its own: float32 [height, W], ink 1."""
    above, below = (round(height * share) for share in rng.uniform(0.04, 0.1 + 0.1 * spread, 2))
    before, after = (round(height * share) for share in rng.uniform(0.05, 0.4, 2))
    inner = height - above - below
    stretch = 1 + spread * rng.uniform(-0.2, 0.2)  # broad and narrow hands
    width = max(1, round(ink.shape[1] * inner / ink.shape[0] * stretch))
    scaled = cv2.resize(ink, (width, inner), interpolation=cv2.INTER_AREA)
    framed = cv2.copyMakeBorder(scaled, above, below, before, after, cv2.BORDER_CONSTANT, value=0)
    framed = cv2.GaussianBlur(framed, (0, 0), rng.uniform(0.2, 1)).astype(np.float32) / 255
    pressure = 0.5 + 0.5 * np.sin(_wave(np.arange(framed.shape[1]), rng.uniform(0.5, 5) * FONT_SIZE, rng))
    return framed * (1 - spread * rng.uniform(0, 0.4) * pressure).astype(np.float32)


def _colour(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Puts the ink (float32 [H, W], 0 to 1) on shaded, noisy paper: uint8 [H, W, 3] RGB."""
    white = rng.uniform(222, 250)
    paper = (white, white + rng.uniform(-4, 0), white + rng.uniform(-18, 0))  # white to cream
    pen, lighter = pick(rng, PENS), rng.uniform(-15, 15)
    y, x = (np.linspace(-1, 1, size, dtype=np.float32) for size in ink.shape)
    shade = rng.uniform(-6, 6) * x + rng.uniform(-4, 4) * y[:, None]
    noise = rng.standard_normal(ink.shape, np.float32) * rng.uniform(0.5, 3)
    cover = ink * rng.uniform(0.8, 1)
    channels = [np.clip((1 - cover) * (shade + sheet) + cover * (stroke + lighter) + noise, 0, 255).astype(np.uint8)
                for sheet, stroke in zip(paper, pen)]
    return cv2.merge(channels)
