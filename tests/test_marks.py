import numpy as np
import pytest
from PIL import Image, ImageDraw

from handwriting.alphabet import VIETNAMESE
from handwriting.marks import draw_marks, split
from pipeline.samples import sample_families

FONT = sample_families()[2].faces[0].font  # Pacifico
LINE = 160  # y of the base line


def drawn(character, seed=0):
    """Ink of a letter's marks alone, bool [H, W], and the box of the letter below them."""
    base, marks = split(character)
    sheet = Image.new("L", (200, 240))
    draw_marks(ImageDraw.Draw(sheet), (60, LINE), FONT, base, marks, 0.0, np.random.default_rng(seed))
    left, top, right, bottom = FONT.getbbox(base, anchor="ls")
    return np.asarray(sheet) > 0, (60 + left, LINE + top, 60 + right, LINE + bottom)


@pytest.mark.parametrize("character, base, marks", [
    ("ấ", "a", "\u0302\u0301"), ("ợ", "o", "\u031b\u0323"), ("Đ", "D", "Đ"), ("ł", "l", "ł"), ("č", "c", "\u030c"),
    ("a", "a", ""), (" ", " ", ""), ("語", "語", ""), ("ß", "ß", ""),
    ("\u1e6f", "\u1e6f", "")])  # a line below: nothing here draws it
def test_a_letter_is_split_from_marks_that_can_be_drawn(character, base, marks):
    assert split(character) == (base, marks)


def test_every_letter_of_vietnamese_can_be_drawn_from_those_of_english():
    assert {split(character)[0] for character in VIETNAMESE if character.isalpha()} <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


@pytest.mark.parametrize("character", "àáâãăảāȧäåőč")
def test_marks_above_stand_above_their_letter(character):
    ink, (_, top, _, _) = drawn(character)
    rows = np.flatnonzero(ink.any(axis=1))
    assert len(rows) and rows[-1] <= top + 4 and rows[0] > top - 60


@pytest.mark.parametrize("character", "ạșçą")
def test_marks_below_stand_below_the_base_line(character):
    ink, _ = drawn(character)
    rows = np.flatnonzero(ink.any(axis=1))
    assert len(rows) and rows[0] >= LINE - 6 and rows[-1] < LINE + 40


@pytest.mark.parametrize("character", "đĐħłŁøØ")
def test_bars_cross_their_letter(character):
    ink, (left, top, right, bottom) = drawn(character)
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    assert top - 8 <= rows[0] and rows[-1] <= bottom + 8
    assert columns[0] < right and columns[-1] > left


def test_a_horn_stands_at_the_upper_right_corner():
    ink, (left, top, right, bottom) = drawn("ơ")
    rows, columns = np.nonzero(ink)
    assert abs(rows.mean() - top) < 15 and abs(columns.mean() - right) < 10


def test_two_marks_do_not_cover_each_other():
    both, first = drawn("ấ")[0], drawn("â")[0]
    assert np.flatnonzero(both.any(axis=1))[0] < np.flatnonzero(first.any(axis=1))[0] - 5


def test_no_two_marks_look_alike_and_no_mark_twice_the_same():
    shapes = [drawn(character)[0].tobytes() for character in "àáâãăảāȧäåőčạ"]
    assert len(set(shapes)) == len(shapes)
    assert drawn("á", 1)[0].tobytes() != drawn("á", 2)[0].tobytes()
