"""Brings lines to the network: order, augmentation, padding, and a thread that prepares the next batches."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from handwriting.alphabet import Alphabet
from handwriting.augment import augment
from handwriting.ctc import frames_needed, steps
from handwriting.dataset import Dataset, Line
from handwriting.image import to_input

BUCKET = 8  # batches sorted by width together: little padding, yet every epoch mixes anew
ROUND = 16  # px; oneDNN prepares its kernels anew for each shape, but much padding spoils batch normalisation
AHEAD = 4  # batches prepared before they are needed


class Batch(NamedTuple):
    """Lines ready for the network.

    Attributes:
        images: float32 [B, 1, height, width], padded on the right with paper (0) to a multiple of ROUND.
        steps: int64 [B], time steps of each line without padding.
        targets: int64 [sum of lengths], class ids of all lines one after another; empty for reading alone.
        lengths: int64 [B], characters of each line.
        lines: The lines themselves.
    """

    images: Tensor
    steps: Tensor
    targets: Tensor
    lengths: Tensor
    lines: list[Line]


def epoch_order(widths: Sequence[int], size: int, rng: np.random.Generator) -> list[list[int]]:
    """Returns the batches of one epoch as indices: shuffled, with lines of like width together.

    Args:
        widths: Width of each line, px.
        size: Lines of a batch; the last ones may be smaller.
        rng: Gives the order, so that an epoch can be repeated.
    """
    shuffled = rng.permutation(len(widths))
    batches = []
    for start in range(0, len(shuffled), size * BUCKET):
        bucket = sorted(shuffled[start:start + size * BUCKET].tolist(), key=lambda i: (widths[i], i))
        batches += [bucket[i:i + size] for i in range(0, len(bucket), size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def training_batches(dataset: Dataset, lines: Sequence[Line], alphabet: Alphabet, size: int, strength: float,
                     seed: tuple[int, ...]) -> Iterator[Batch]:
    """Yields one epoch of augmented batches; the same seed gives the same ones."""
    order = epoch_order([line.width for line in lines], size, np.random.default_rng(seed))

    def make(indices: list[int]) -> Batch:
        chosen = [lines[i] for i in indices]
        pixels = [_augmented(dataset.pixels(line), strength, line, alphabet, np.random.default_rng((*seed, i)))
                  for i, line in zip(indices, chosen)]
        return _batch(chosen, pixels, alphabet)

    yield from _prepared(order, make)


def reading_batches(dataset: Dataset, lines: Sequence[Line], size: int) -> Iterator[Batch]:
    """Yields all lines once, widest last, without augmentation or targets."""
    ordered = sorted(lines, key=lambda line: line.width)
    groups = [ordered[i:i + size] for i in range(0, len(ordered), size)]
    yield from _prepared(groups, lambda group: _batch(group, [dataset.pixels(line) for line in group], None))


def _augmented(pixels: np.ndarray, strength: float, line: Line, alphabet: Alphabet,
               rng: np.random.Generator) -> np.ndarray:
    """Augments a line unless that would leave CTC too few time steps for its text."""
    changed = augment(pixels, strength, rng)
    return changed if steps(changed.shape[1]) >= frames_needed(alphabet.encode(line.text)) else pixels


def _batch(lines: list[Line], pixels: list[np.ndarray], alphabet: Alphabet | None) -> Batch:
    widths = [p.shape[1] for p in pixels]
    padded = -(-max(widths) // ROUND) * ROUND
    images = np.zeros((len(pixels), 1, pixels[0].shape[0], padded), np.float32)
    for row, p in zip(images, pixels):
        row[0, :, :p.shape[1]] = to_input(p)
    ids = [alphabet.encode(line.text) for line in lines] if alphabet else []
    return Batch(torch.from_numpy(images), torch.tensor([steps(w) for w in widths]),
                 torch.tensor([i for row in ids for i in row]), torch.tensor([len(row) for row in ids]), lines)


def _prepared(groups: Sequence, make) -> Iterator[Batch]:  # type: ignore[no-untyped-def]
    """Makes batches in a thread ahead of their use: NumPy and OpenCV let go of the interpreter while they work."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        todo = iter(groups)
        waiting = [pool.submit(make, group) for group in islice(todo, AHEAD)]
        while waiting:
            yield waiting.pop(0).result()
            waiting += [pool.submit(make, group) for group in islice(todo, 1)]
