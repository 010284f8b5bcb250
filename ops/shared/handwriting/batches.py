"""Brings lines to the network: order, augmentation, padding, and a thread that prepares the next batches."""

import math
from collections.abc import Callable, Iterator, Sequence
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

BUFFER = 4  # shards shuffled together: some 4,000 lines
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
    lines: Sequence[Line]


def epoch_order(lines: Sequence[Line], size: int, rng: np.random.Generator) -> list[list[int]]:
    """Returns the batches of one epoch as indices: shuffled, with lines of like width together.

    Lines are shuffled within BUFFER shards at a time, so that shards are read in sequence however many there are.

    Args:
        lines: The lines to visit.
        size: Lines of a batch; the last one of each buffer may be smaller.
        rng: Gives the order, so that an epoch can be repeated.
    """
    by_shard: dict[str, list[int]] = {}
    for i, line in enumerate(lines):
        by_shard.setdefault(line.shard, []).append(i)
    shards = [by_shard[shard] for shard in sorted(by_shard)]
    order = rng.permutation(len(shards))
    batches = []
    for start in range(0, len(shards), BUFFER):
        buffer = [i for shard in order[start:start + BUFFER] for i in shards[shard]]
        batches += _shuffled(buffer, lines, size, rng)
    return batches


def _shuffled(indices: list[int], lines: Sequence[Line], size: int, rng: np.random.Generator) -> list[list[int]]:
    shuffled = rng.permutation(indices).tolist()
    batches = []
    for start in range(0, len(shuffled), size * BUCKET):
        bucket = sorted(shuffled[start:start + size * BUCKET], key=lambda i: (lines[i].width, i))
        batches += [bucket[i:i + size] for i in range(0, len(bucket), size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def training_batches(dataset: Dataset, lines: Sequence[Line], alphabet: Alphabet, size: int, parts: int,
                     strength: float, seed: tuple[int, ...]) -> Iterator[list[Batch]]:
    """Yields one epoch of augmented batches, each in parts; the same seed gives the same ones.

    Args:
        dataset: Has the lines' pixels.
        lines: The lines to visit.
        alphabet: Gives the targets.
        size: Lines of a batch.
        parts: Parts of a batch, at most.
        strength: Of augmentation, 0 to 1.
        seed: Of the epoch.
    """
    share = math.ceil(size / parts)

    def make(indices: list[int]) -> list[Batch]:
        return [part(indices[i:i + share]) for i in range(0, len(indices), share)]

    def part(indices: list[int]) -> Batch:
        chosen = [lines[i] for i in indices]
        pixels = [_augmented(dataset.pixels(line), strength, line, alphabet, np.random.default_rng((*seed, i)))
                  for i, line in zip(indices, chosen)]
        return _batch(chosen, pixels, alphabet)

    yield from _prepared(epoch_order(lines, size, np.random.default_rng(seed)), make)


def reading_groups(lines: Sequence[Line], size: int = 16) -> list[list[Line]]:
    """Returns all lines once in groups of like width, widest last."""
    ordered = sorted(lines, key=lambda line: line.width)
    return [ordered[i:i + size] for i in range(0, len(ordered), size)]


def reading_batch(dataset: Dataset, group: Sequence[Line]) -> Batch:
    """Returns lines as they are, without targets."""
    return _batch(group, [dataset.pixels(line) for line in group], None)


def _augmented(pixels: np.ndarray, strength: float, line: Line, alphabet: Alphabet,
               rng: np.random.Generator) -> np.ndarray:
    """Augments a line unless that would leave CTC too few time steps for its text."""
    changed = augment(pixels, strength, rng)
    return changed if steps(changed.shape[1]) >= frames_needed(alphabet.encode(line.text)) else pixels


def _batch(lines: Sequence[Line], pixels: list[np.ndarray], alphabet: Alphabet | None) -> Batch:
    widths = [p.shape[1] for p in pixels]
    padded = -(-max(widths) // ROUND) * ROUND
    images = np.zeros((len(pixels), 1, pixels[0].shape[0], padded), np.float32)
    for row, p in zip(images, pixels):
        row[0, :, :p.shape[1]] = to_input(p)
    ids = [alphabet.encode(line.text) for line in lines] if alphabet else []
    return Batch(torch.from_numpy(images), torch.tensor([steps(w) for w in widths]),
                 torch.tensor([i for row in ids for i in row]), torch.tensor([len(row) for row in ids]), lines)


def _prepared(groups: Sequence[list[int]], make: Callable[[list[int]], list[Batch]]) -> Iterator[list[Batch]]:
    """Makes batches in a thread ahead of their use: NumPy and OpenCV let go of the interpreter while they work."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        todo = iter(groups)
        waiting = [pool.submit(make, group) for group in islice(todo, AHEAD)]
        while waiting:
            yield waiting.pop(0).result()
            waiting += [pool.submit(make, group) for group in islice(todo, 1)]
