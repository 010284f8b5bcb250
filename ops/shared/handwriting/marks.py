"""Draws the marks above and below letters by hand, since most handwriting fonts have none but those of a few languages.

A letter is split as Unicode does (NFD): 'ấ' is an 'a', a circumflex and an acute.
"""

import unicodedata
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import ImageDraw, ImageFont

Points = tuple[tuple[float, float], ...]


class Bar(NamedTuple):
    """A stroke across a letter.

    Attributes:
        base: The letter without it.
        x: Its middle, share of the letter's width from the left.
        y: Its middle, share of the letter's height from the top.
        rise: Of its right end, in heights of a mark.
    """

    base: str
    x: float
    y: float
    rise: float = 0.0


BARS = {"đ": Bar("d", 0.8, 0.2), "Đ": Bar("D", 0.15, 0.5), "ħ": Bar("h", 0.25, 0.2), "ł": Bar("l", 0.5, 0.5, 0.5),
        "Ł": Bar("L", 0.25, 0.5, 0.5), "ø": Bar("o", 0.5, 0.5, 0.9), "Ø": Bar("O", 0.5, 0.5, 0.9)}
"""Crossed letters, which NFD keeps whole."""
# Strokes of each mark, in heights of a mark: x from its middle to the right, y from the letter away.
_TURN = tuple((0.4 * np.cos(angle), 0.4 + 0.4 * np.sin(angle)) for angle in np.linspace(0, 2 * np.pi, 9))
ABOVE: dict[str, tuple[Points, ...]] = {
    "\u0300": (((-0.3, 1), (0.3, 0)),),  # grave
    "\u0301": (((-0.3, 0), (0.3, 1)),),  # acute
    "\u0302": (((-0.6, 0), (0, 0.9), (0.6, 0)),),  # circumflex
    "\u0303": (((-0.7, 0.2), (-0.3, 0.8), (0.3, 0.2), (0.7, 0.8)),),  # tilde
    "\u0304": (((-0.6, 0.4), (0.6, 0.4)),),  # macron
    "\u0306": (((-0.6, 0.8), (-0.3, 0.2), (0.3, 0.2), (0.6, 0.8)),),  # breve
    "\u0307": (((0, 0.4), (0.1, 0.45)),),  # dot
    "\u0308": (((-0.4, 0.4), (-0.35, 0.45)), ((0.4, 0.4), (0.45, 0.45))),  # diaeresis
    "\u0309": (((-0.3, 0.8), (0, 1.1), (0.3, 0.8), (0, 0.4), (0, 0)),),  # hook
    "\u030a": (_TURN,),  # ring
    "\u030b": (((-0.4, 0), (-0.1, 0.9)), ((0.2, 0), (0.5, 0.9))),  # double acute
    "\u030c": (((-0.6, 0.9), (0, 0), (0.6, 0.9)),),  # caron
}
BELOW: dict[str, tuple[Points, ...]] = {
    "\u0323": (((0, 0.5), (0.1, 0.55)),),  # dot
    "\u0326": (((0.1, 0.3), (-0.1, 1)),),  # comma
    "\u0327": (((0, 0), (0, 0.4), (0.3, 0.6), (0.1, 0.9), (-0.3, 0.9)),),  # cedilla
    "\u0328": (((0.4, 0), (0.1, 0.5), (0.5, 0.8)),),  # ogonek
}
HORN = "\u031b"  # at the upper right corner
SIZE = 0.45  # height of a mark, of the letter x
PEN = 0.6  # its stroke's width, of the width of a full stop


@lru_cache(maxsize=None)
def split(character: str) -> tuple[str, str]:
    """Returns the letter below a character's marks, and the marks; none where it has any that cannot be drawn here."""
    if character in BARS:
        return BARS[character].base, character
    parts = unicodedata.normalize("NFD", character)
    known = all(mark in ABOVE or mark in BELOW or mark == HORN for mark in parts[1:])
    return (parts[0], parts[1:]) if known else (character, "")


def draw_marks(canvas: ImageDraw.ImageDraw, place: tuple[float, float], font: ImageFont.FreeTypeFont, base: str,
               marks: str, pen: float, rng: np.random.Generator) -> None:
    """Draws the marks of a letter that stands there already.

    Args:
        canvas: To draw on, with ink 255.
        place: Where the letter's base line begins, px.
        font: The letter's.
        base: The letter.
        marks: As `split` has them.
        pen: Px that a broad pen adds to both sides of a stroke.
        rng: Moves and turns them a bit.
    """
    left, top, right, bottom = font.getbbox(base, anchor="ls")
    unit = SIZE * -font.getbbox("x", anchor="ls")[1] * rng.uniform(0.8, 1.25)
    dot = font.getbbox(".", anchor="ls")
    width = max(2, round(PEN * (dot[2] - dot[0]) + 2 * pen))

    def line(points: Points, x: float, y: float, upwards: int) -> None:
        moved = [(place[0] + x + unit * (px + rng.normal(0, 0.06)),
                  place[1] + y + unit * upwards * (py + rng.normal(0, 0.06))) for px, py in points]
        canvas.line(moved, fill=255, width=width, joint="curve")

    middle, above = (left + right) / 2 + unit * rng.normal(0, 0.15), float(top)
    for mark in marks:
        if mark in BARS:
            _, x, y, rise = BARS[mark]
            line(((-0.8, -rise), (0.8, rise)), left + x * (right - left), top + y * (bottom - top), -1)
        elif mark == HORN:
            line(((-0.3, -0.4), (0.1, -0.2), (0.3, 0.5)), right, top, -1)
        elif mark in BELOW:
            for points in BELOW[mark]:
                line(points, (left + right) / 2, max(0, bottom), 1)
        else:
            above -= unit * rng.uniform(0.2, 0.5)
            for points in ABOVE[mark]:
                line(points, middle, above, -1)
            above -= 0.8 * unit
            middle += unit * rng.uniform(0, 0.3)  # a second mark stands above the first, or to its right
