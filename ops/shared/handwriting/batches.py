"""Brings lines to the network: order, batches of like width, padding, and a thread that prepares the next ones."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from handwriting.ahead import made_ahead
from handwriting.alphabet import Alphabet
from handwriting.changing import Changed, Changer, Source
from handwriting.ctc import steps
from handwriting.dataset import Dataset, Line
from handwriting.distributed import Group
from handwriting.image import PADDED, WHITE

BUFFER = 4  # shards shuffled together: some 3,600 lines
BUCKET = 8  # batches of lines that are sorted by width together: little padding, yet every epoch mixes anew


class Feeding(NamedTuple):
    """How batches are made, to suit the device that learns from them.

    Attributes:
        processes: That change lines beside this one; 0 for none.
        threads: Buckets in the making at once.
        ahead: Buckets made before they are needed.
        multiple: Of px to which lines are padded. A library prepares kernels anew for each shape (oneDNN keeps about
            1,000 of them, cuDNN takes some tenths of a second a shape); padding costs time too.
        pinned: Batches lie where a GPU can fetch them by itself.
        reading: Lines read at once.
    """

    processes: int = 0
    threads: int = 1
    ahead: int = 2
    multiple: int = PADDED
    pinned: bool = False
    reading: int = 16


class Batch(NamedTuple):
    """Lines ready for the network.

    Attributes:
        images: uint8 [B, 1, height, width], paper 255, padded with it on the right.
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


class Bucket(NamedTuple):
    """Lines, as indices, that are batched together, and the buffer that they come from."""

    lines: list[int]
    buffer: list[int]


def buckets(lines: Sequence[Line], size: int, rng: np.random.Generator, group: Group = Group()) -> list[Bucket]:
    """Returns the order of one epoch.

    Lines are shuffled within BUFFER shards at a time, so that shards are read in sequence however many there are.

    Args:
        lines: The lines to visit, each once.
        size: Lines of a batch.
        rng: Gives the order, so that an epoch can be repeated.
        group: Processes that share the lines; each gets as many buckets, of as many lines, as the others.
    """
    by_shard: dict[str, list[int]] = {}
    for i, line in enumerate(lines):
        by_shard.setdefault(line.shard, []).append(i)
    shards = [by_shard[shard] for shard in sorted(by_shard)]
    order = rng.permutation(len(shards))
    found = []
    for start in range(0, len(shards), BUFFER):
        buffer = rng.permutation([i for shard in order[start:start + BUFFER] for i in shards[shard]]).tolist()
        own = group.equal_share(buffer)
        found += [Bucket(own[i:i + size * BUCKET], buffer) for i in range(0, len(own), size * BUCKET)]
    return found


class LeftOut(NamedTuple):
    """A line that says something else than its label: where its picture lies, the label, and what was read."""

    key: str
    label: str
    reading: str


class TrainingLines:
    """The lines to train on, and how they are changed in each epoch; the same seed gives the same epoch.

    Args:
        dataset: Has the lines' pixels.
        lines: The lines to visit.
        alphabet: Gives the targets.
        feeding: How batches are made.

    Attributes:
        left_out: Lines that are visited no more.
    """

    def __init__(self, dataset: Dataset, lines: Sequence[Line], alphabet: Alphabet, feeding: Feeding = Feeding()):
        self.feeding = feeding
        self.source, self.changer = Source(dataset, alphabet, list(lines)), Changer(feeding.processes)
        self.left_out: list[LeftOut] = []

    @property
    def lines(self) -> list[Line]:
        """The lines to visit."""
        return self.source.lines

    @property
    def starts(self) -> list[np.ndarray]:
        """Where each line's letters begin, as in Letters; empty until that is known, and nothing is spliced."""
        return self.source.starts

    def take_letters(self, starts: dict[Line, np.ndarray], left_out: Sequence[LeftOut] = ()) -> None:
        """Splices lines from now on.

        Args:
            starts: Where each line's letters begin, as in Letters.
            left_out: Lines to visit no more.
        """
        self._leave_out(left_out)
        self.source = replace(self.source, starts=[starts[line] for line in self.lines])

    def close(self) -> None:
        """Ends the processes that change lines, if there are any."""
        self.changer.close()

    def _leave_out(self, rows: Sequence[LeftOut]) -> None:
        self.left_out = list(rows)
        keys = {row.key for row in rows}
        self.source = replace(self.source, lines=[line for line in self.lines if line.key not in keys])

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint must hold: lines left out, and the starts of the others one after another."""
        return {"left_out": [list(row) for row in self.left_out],
                "starts": torch.tensor(np.concatenate([[], *self.starts]), dtype=torch.int32)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes what `state` returned."""
        self._leave_out([LeftOut(*row) for row in state["left_out"]])
        starts = state["starts"].cpu().numpy()
        ends = np.cumsum([len(line.text) + 1 for line in self.lines])
        self.source = replace(self.source, starts=np.split(starts, ends[:-1]) if len(starts) else [])

    def batches(self, size: int, parts: int, strength: float, seed: tuple[int, ...],
                group: Group = Group()) -> Iterator[list[Batch]]:
        """Begins to make the batches of one epoch, and returns them one after another, each in parts.

        Args:
            size: Lines of a batch.
            parts: Parts of a batch, at most.
            strength: Of augmentation, 0 to 1.
            seed: Of the epoch.
            group: Processes that share the lines.
        """
        source = self.source  # which may be another one before the last batch is made

        def make(bucket: Bucket) -> list[list[Batch]]:
            """Batches lines of like width, as they are after all changes, so that little of a batch is padding."""
            changed = self.changer.changed(source, bucket.lines, bucket.buffer, strength, seed)
            changed.sort(key=lambda item: item[1].shape[1])
            order = np.random.default_rng((*seed, bucket.lines[0], 1)).permutation(math.ceil(len(changed) / size))
            return [[_batch(part, self.feeding, source.alphabet)
                     for part in _parts(changed[start:start + size], math.ceil(size / parts))]
                    for start in (order * size).tolist()]

        todo = buckets(source.lines, size, np.random.default_rng(seed), group)
        return chain.from_iterable(made_ahead(make, todo, self.feeding.threads, self.feeding.ahead))


def reading_groups(lines: Sequence[Line], size: int) -> list[list[Line]]:
    """Returns all lines once in groups of like width, widest last."""
    ordered = sorted(lines, key=lambda line: line.width)
    return [ordered[i:i + size] for i in range(0, len(ordered), size)]


def reading_batch(dataset: Dataset, group: Sequence[Line], feeding: Feeding = Feeding()) -> Batch:
    """Returns lines as they are, without targets."""
    return _batch([(line, dataset.pixels(line)) for line in group], feeding)


def _parts(items: Sequence[Changed], most: int) -> list[Sequence[Changed]]:
    """Cuts lines into parts of as many, `most` at most: from one line left over batch normalisation learns poorly."""
    share = math.ceil(len(items) / math.ceil(len(items) / most))
    return [items[i:i + share] for i in range(0, len(items), share)]


def _batch(items: Sequence[Changed], feeding: Feeding, alphabet: Alphabet | None = None) -> Batch:
    widths = [pixels.shape[1] for _, pixels in items]
    padded = -(-max(widths) // feeding.multiple) * feeding.multiple
    images = torch.full((len(items), 1, items[0][1].shape[0], padded), WHITE, dtype=torch.uint8,
                        pin_memory=feeding.pinned)
    for row, (_, pixels) in zip(images.numpy(), items):
        row[0, :, :pixels.shape[1]] = pixels
    ids = [alphabet.encode(line.text) for line, _ in items] if alphabet else []
    whole_numbers = partial(torch.tensor, dtype=torch.int64, pin_memory=feeding.pinned)
    return Batch(images, whole_numbers([steps(w) for w in widths]), whole_numbers([i for row in ids for i in row]),
                 whole_numbers([len(row) for row in ids]), [line for line, _ in items])
