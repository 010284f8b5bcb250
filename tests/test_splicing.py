"""Lines spliced of others: every letter keeps its picture, every join stands between letters that some line joins."""

import itertools

import numpy as np
import pytest
from helpers import drawing

from handwriting.alphabet import Alphabet
from handwriting.ctc import STEP
from handwriting.image import WHITE
from handwriting.splicing import LEAST, Letters, letter_starts, spliced

HEIGHT, LETTER = 16, 8
TEXTS = ("Phường Bến Nghé, Quận Một", "Phường Bến Thành, Quận Hai", "Xã Tân Thành, Huyện Bến Lức")


def letters(text):
    """A line whose every letter is LETTER columns of its own shade, so that pixels can be read back."""
    pixels = np.repeat(np.array([ord(c) % 251 for c in text], np.uint8), LETTER)[None].repeat(HEIGHT, axis=0)
    return Letters(text, np.arange(len(text) + 1) * LETTER, lambda begin, end: pixels[:, begin:end])


def drawn_from(lines, rng):
    """Looks at lines as training does: any of them, some more than once."""
    return lambda context, tries: (lines[i] for i in rng.integers(len(lines), size=tries) if context in lines[i].text)


def spliced_lines(count=200):
    lines = [letters(text) for text in TEXTS]
    for seed in range(count):
        rng = np.random.default_rng(seed)
        yield spliced(lines[seed % 3], drawn_from(lines, rng), rng)


def test_every_letter_of_a_spliced_line_keeps_its_picture():
    for pixels, text in spliced_lines():
        np.testing.assert_array_equal(pixels, letters(text).piece(0, len(text)))


def test_spliced_lines_say_new_things_in_familiar_letters():
    def known(text):
        return {text[i:i + LEAST + 1] for i in range(len(text) - LEAST)}

    texts = {text for _, text in spliced_lines()}
    assert {"Phường Bến Nghé, Quận Hai", "Phường Bến Thành, Quận Một"} <= texts
    assert set().union(*map(known, texts)) == set().union(*map(known, TEXTS))


@pytest.mark.parametrize("others, last", [(["bcdabcd2", "xxxxxcd3"], "12"), (["xxxxxcd3"], "13")])
def test_a_line_goes_on_where_four_letters_agree_or_two_where_no_more_do(others, last):
    rng, choices = np.random.default_rng(0), [letters(text) for text in others]
    found = {spliced(letters("aaaaabcd1"), drawn_from(choices, rng), rng)[1] for _ in range(300)}
    assert {text[-1] for text in found} == set(last)


def test_a_spliced_line_is_about_as_wide_as_its_first():
    for (pixels, _), text in zip(spliced_lines(), itertools.cycle(TEXTS)):
        assert abs(pixels.shape[1] / (LETTER * len(text)) - 1) < 0.3


def test_the_same_stream_splices_the_same_line():
    first, second = ([text for _, text in spliced_lines(20)] for _ in range(2))
    assert first == second


@pytest.mark.parametrize("text", ["a", "ab", "abc"])
def test_lines_with_nothing_in_common_stay_whole(text):
    line, rng = letters(text), np.random.default_rng(0)
    pixels, found = spliced(line, drawn_from([letters("xyz")], rng), rng)
    assert found == text
    np.testing.assert_array_equal(pixels, line.piece(0, len(text)))


def test_lines_are_cut_in_the_white_between_letters():
    alphabet, width = Alphabet("abc"), 80
    pixels = np.full((HEIGHT, width), WHITE, np.uint8)
    for start in (4, 30, 56):
        pixels[4:12, start:start + 16] = 0
    log_probs = np.full((width // STEP, alphabet.classes), -9.0)
    log_probs[:, 0] = 0.0
    for i, step in enumerate((3, 9, 15), 1):
        log_probs[step, [0, i]] = -9.0, 0.0
    first, second, third, end = letter_starts(pixels, log_probs, "abc", alphabet)
    assert (first, end) == (0, width) and 20 < second < 30 and 46 < third < 56


@pytest.mark.parametrize("text", ["a", "aa", "abcabc", "a" * 10])
def test_starts_rise_from_0_to_the_width_whatever_the_network_says(text):
    alphabet, pixels = Alphabet("abc"), np.asarray(drawing(3, (83, HEIGHT)))
    for seed in range(20):
        log_probs = np.random.default_rng(seed).normal(size=(20, alphabet.classes))
        starts = letter_starts(pixels, log_probs, text, alphabet)
        assert len(starts) == len(text) + 1 and starts[0] == 0 and starts[-1] == 83 and (np.diff(starts) >= 0).all()
