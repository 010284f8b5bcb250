"""Changes lines for an epoch, splicing and augmentation, in this process or in several others.

Python threads would not do beside a GPU: they wait for each other, and so does the one that feeds it.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context, parent_process

import cv2
import numpy as np

from handwriting.alphabet import Alphabet
from handwriting.augment import augment
from handwriting.ctc import frames_needed, steps
from handwriting.dataset import Dataset, Line
from handwriting.errors import DataError
from handwriting.splicing import Letters, spliced

SPLICED = 0.6  # of the lines, at full strength of augmentation
CHUNK = 4  # lines that a process is given at a time: all of them soon have work for the next batch

Changed = tuple[Line, np.ndarray]


@dataclass(frozen=True)
class Source:
    """What lines are changed from; needs no torch, and can be sent to another process.

    Attributes:
        dataset: Has the lines' pixels.
        alphabet: Of the texts.
        lines: The lines to train on.
        starts: Where each line's letters begin, as in Letters; empty until that is known, and nothing is spliced.
    """

    dataset: Dataset
    alphabet: Alphabet
    lines: list[Line]
    starts: list[np.ndarray] = field(default_factory=list)

    def changed(self, buffer: Sequence[int], strength: float, seed: tuple[int, ...], i: int) -> Changed:
        """Splices and augments a line unless that would leave CTC too few time steps for its text.

        Args:
            buffer: Lines that it may be spliced with.
            strength: Of augmentation, 0 to 1.
            seed: Of the epoch; the same one changes a line in the same way.
            i: The line.

        Returns:
            The line with its new text, and its pixels, uint8 [height, width].
        """
        line, rng = self.lines[i], np.random.default_rng((*seed, i))
        if self.starts and rng.random() < SPLICED * strength:
            pixels, text = spliced(self._letters(i), partial(self._having, buffer, rng), rng)
        else:
            pixels, text = self.dataset.pixels(line), line.text
        pixels = augment(pixels, strength, rng, self.dataset.manifest.image.squeeze)
        if steps(pixels.shape[1]) < frames_needed(self.alphabet.encode(text)):
            return line, self.dataset.pixels(line)
        return line._replace(text=text), pixels

    def _having(self, buffer: Sequence[int], rng: np.random.Generator, letters: str, tries: int) -> Iterator[Letters]:
        """Draws so many lines, and yields those that have the letters."""
        for place in rng.integers(len(buffer), size=tries).tolist():
            if letters in self.lines[buffer[place]].text:
                yield self._letters(buffer[place])

    def _letters(self, i: int) -> Letters:
        return Letters(self.lines[i].text, self.starts[i], partial(self.dataset.pixels, self.lines[i]))


class Changer:
    """Changes lines in other processes, which begin when they are first needed and end with this one.

    Args:
        processes: How many; 0 for this one alone.
    """

    def __init__(self, processes: int = 0):
        self.processes = processes
        self._source: Source | None = None
        self._pool: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()

    def changed(self, source: Source, lines: Sequence[int], buffer: Sequence[int], strength: float,
                seed: tuple[int, ...]) -> list[Changed]:
        """Returns what `Source.changed` makes of each line.

        Raises:
            DataError: A process was killed.
        """
        if not self.processes:
            return [source.changed(buffer, strength, seed, i) for i in lines]
        change = partial(_changed, list(buffer), strength, seed)
        try:
            with self._lock:  # lines of two buckets would take turns, and the first bucket be ready with the second
                results = self._start(source, buffer).map(change, lines, chunksize=CHUNK)
            return list(results)
        except BrokenProcessPool as error:
            raise DataError(f"one of {self.processes} processes that prepare lines was killed; give training more "
                            "memory, or fewer cores") from error

    def _start(self, source: Source, buffer: Sequence[int]) -> ProcessPoolExecutor:
        """Returns processes that know this source, with its lines on the local disk."""
        source.dataset.fetch({source.lines[i].shard for i in buffer})  # once, not in each process
        if self._pool is None or self._source is not source:
            self.close()
            self._source = source
            self._pool = ProcessPoolExecutor(self.processes, get_context("spawn"), _begin, (source,))
        return self._pool

    def close(self) -> None:
        """Ends the processes."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


_sources: list[Source] = []  # in one of the other processes, the one that it was begun with


def _begin(source: Source) -> None:
    _sources.append(source)
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when the one that learns was killed: it would wait for work for ever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _changed(buffer: Sequence[int], strength: float, seed: tuple[int, ...], i: int) -> Changed:
    return _sources[0].changed(buffer, strength, seed, i)
