"""Lets in what can be answered soon, and refuses the rest at once: a long queue makes every answer late."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

from handwriting.protocols import Refused

Item = TypeVar("Item")
Result = TypeVar("Result")

QUEUE = 10  # requests that wait for each one that runs: less than 0.1 s of a core


class Gate:
    """Runs what requests cost, in threads of its own.

    ONNX Runtime and the C library keep memory for each thread that ever read a line. In the server's own threads, of
    which there are many, a worker grew from 90 to 310 MB over 10,000 requests.

    Args:
        running: Requests that run at the same time; more than cores only make each other late.
        waiting: Requests that wait for their turn, at most.
    """

    def __init__(self, running: int, waiting: int):
        self.most = running + waiting
        self.inside = 0
        self._lock, self._pool = threading.Lock(), ThreadPoolExecutor(running, "reading")

    @classmethod
    def of(cls, cores: int) -> Self:
        """Returns the gate for some cores: a request on each, and QUEUE that wait for it."""
        return cls(cores, QUEUE * cores)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Calls a function for each item of a request, one after another; other requests have their turns in between.

        Raises:
            Refused: 503, too many wait already.
        """
        with self._lock:
            self.check()
            self.inside += 1
        try:
            return [self._pool.submit(function, item).result() for item in items]
        finally:
            with self._lock:
                self.inside -= 1

    def check(self) -> None:
        """Makes sure that another request may wait.

        Raises:
            Refused: 503, too many wait already.
        """
        if self.inside >= self.most:
            raise Refused(503, "busy", f"{self.inside} requests are waiting already; try again in a few seconds")
