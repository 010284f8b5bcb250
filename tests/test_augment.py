"""What training does to a line: repeatable, bounded, never out of the picture."""

import cv2
import numpy as np
import pytest
from helpers import drawing

from handwriting.augment import _warp, augment

LINE = np.asarray(drawing(1, (640, 48)))


def changed(strength, seeds=200):
    return [augment(LINE, strength, np.random.default_rng(seed)) for seed in range(seeds)]


def test_without_strength_nothing_happens():
    assert all(line is LINE for line in changed(0.0, 20))


def test_the_share_of_changed_lines_grows_with_the_strength():
    shares = [np.mean([line is not LINE for line in changed(strength)]) for strength in (0.2, 0.4, 0.8, 1.0)]
    assert 0.15 < shares[0] < 0.35 and 0.4 < shares[1] < 0.6 and shares[2:] == [1.0, 1.0]


def test_the_same_stream_gives_the_same_line():
    first, second = (augment(LINE, 1.0, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("size", [(640, 48), (8, 48), (30, 16), (2000, 96)])
def test_a_changed_line_keeps_its_height_type_ink_and_about_its_width(size):
    line = np.asarray(drawing(2, size))
    for seed in range(40):
        found = augment(line, 1.0, np.random.default_rng(seed))
        assert found.dtype == np.uint8 and found.shape[0] == size[1]
        assert 0.77 * size[0] - 1 <= found.shape[1] <= 1.23 * size[0] + 1
        if size[0] > 100:
            assert found.min() < 100 < 200 < np.median(found)


@pytest.mark.parametrize("width", [120, 640])
def test_a_squeezed_line_is_bent_as_the_line_itself_would_be(width):
    line = np.asarray(drawing(4, (width, 48)))
    narrow = cv2.resize(line, (width // 2, 48), interpolation=cv2.INTER_AREA)
    differences = []
    for seed in range(10):
        bent, narrow_bent = (_warp(pixels, 1.0, np.random.default_rng(seed), squeeze).astype(float)
                             for pixels, squeeze in ((line, 1.0), (narrow, 0.5)))
        difference = cv2.blur(cv2.resize(narrow_bent, bent.shape[::-1]) - bent, (5, 5))
        differences.append(np.abs(difference).mean() / np.abs(255 - bent).mean())
    assert np.median(differences) < 0.3  # about 1 where it is bent as far as a whole line
