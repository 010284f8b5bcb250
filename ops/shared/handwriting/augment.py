"""Makes a training line look as if another hand, pen or scanner had made it."""

import math

import cv2
import numpy as np

from handwriting.image import WHITE

SHARE = 1.25  # of the lines that are changed, by strength; from 0.8 on it is all of them
SHEAR = 0.5  # columns of slant per row: about 27 degrees either way
STRETCH = 0.22  # of the width
SQUEEZE, SWELL = 0.3, 0.1  # of the height: writing smaller or larger than it was
LIFT = 0.09  # of the height: writing higher or lower
ROTATION = 1.5  # degrees
WAVE = 0.073  # of the height, by which columns and rows are displaced
GAPS, GAP = 4.0, 0.35  # places a line where nothing was written, on average, and their widths, of the height, at most


def augment(line: np.ndarray, strength: float, rng: np.random.Generator, squeeze: float = 1.0) -> np.ndarray:
    """Returns a changed copy of a line, readable as the same text.

    Args:
        line: uint8 [height, width], paper 255.
        strength: 0 (nothing happens) to 1 (all of it, to every line).
        rng: Decides what happens, so that a run can be repeated.
        squeeze: Of ImageConfig; letters are moved sideways and left out by as much less as they are narrower.

    Returns:
        uint8 [height, another width].
    """
    if rng.random() >= SHARE * strength:
        return line
    changed = _warp(line, strength, rng, squeeze)
    if rng.random() < 0.5 * strength:
        changed = _pen(changed, rng)
    if rng.random() < 0.5 * strength:
        changed = _light(changed, strength, rng)
    return _gaps(changed, strength, rng, squeeze)


def _warp(line: np.ndarray, strength: float, rng: np.random.Generator, squeeze: float) -> np.ndarray:
    """Slants, stretches, shrinks, tilts and bends in one resampling."""
    height, width = line.shape
    stretch = 1 + STRETCH * strength * rng.uniform(-1, 1)
    shrink = 1 + strength * rng.uniform(-SQUEEZE, SWELL)
    lift = LIFT * height * strength * rng.uniform(-1, 1)
    shear = SHEAR * strength * rng.uniform(-1, 1)
    rotation = ROTATION * strength * rng.uniform(-1, 1)
    out_width = max(8, round(width * stretch))
    # A row and a column, and factors of Python's own, so that all that is as large as the line stays in float32.
    x, y = np.arange(out_width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    middle = height / 2
    source_x = x / stretch + squeeze * shear * (y - middle)
    slope = math.tan(math.radians(rotation)) * min(1 / squeeze, 6 * height / out_width)
    source_y = middle + (y - middle - lift) / shrink + slope * (x - out_width / 2)
    for source, share in ((source_x, squeeze), (source_y, 1.0)):
        source += share * WAVE * height * strength * _smooth_noise(height, out_width, rng, squeeze)
    return cv2.remap(line, source_x, source_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=WHITE)


def _smooth_noise(height: int, width: int, rng: np.random.Generator, squeeze: float) -> np.ndarray:
    """Displacements between -1 and 1 that change over about a letter (elastic distortion on a coarse grid)."""
    grid = rng.uniform(-1, 1, (max(2, height // 24), max(2, int(width / (24 * squeeze))))).astype(np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)


def _pen(line: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Thickens or thins the strokes, by up to a pixel."""
    kernel = np.ones((2, 2), np.uint8)
    other = cv2.erode(line, kernel) if rng.random() < 0.5 else cv2.dilate(line, kernel)
    share = rng.random()
    return cv2.addWeighted(line, 1 - share, other, share, 0)


def _gaps(line: np.ndarray, strength: float, rng: np.random.Generator, squeeze: float) -> np.ndarray:
    """Leaves out some columns, so that letters are read by their neighbours too."""
    height, width = line.shape
    gapped = line.copy()
    for _ in range(rng.poisson(GAPS * strength)):
        start = rng.integers(width)
        gapped[:, start:start + rng.integers(1, 2 + int(squeeze * GAP * height))] = WHITE
    return gapped


def _light(line: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Changes gamma, blurs or adds grain."""
    ink = np.linspace(1, 0, WHITE + 1) ** np.exp(0.5 * strength * rng.uniform(-1, 1))  # of each grey level
    changed = cv2.LUT(line, np.rint(WHITE * (1 - ink)).astype(np.uint8))
    if rng.random() < 0.3:
        changed = cv2.GaussianBlur(changed, (3, 3), 0.8)
    if rng.random() < 0.3:
        grain = rng.standard_normal(changed.shape, np.float32) * (0.08 * WHITE * strength)
        changed = np.clip(changed + grain, 0, WHITE).astype(np.uint8)
    return changed
