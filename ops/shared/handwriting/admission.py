"""Lets in what can be answered soon, and refuses the rest at once: a long queue makes every answer late."""

import os
import threading
from pathlib import Path
from typing import Self

from handwriting.protocols import Refused

QUEUE = 16  # requests that wait for each one that runs: some 0.2 s of a core


class Gate:
    """A context around what a request costs.

    Args:
        running: Requests that run at the same time; more than cores only make each other late.
        waiting: Requests that wait for their turn, at most.
    """

    def __init__(self, running: int, waiting: int):
        self.most = running + waiting
        self.inside = 0
        self._lock, self._turn = threading.Lock(), threading.Semaphore(running)

    @classmethod
    def of(cls, cores: int) -> Self:
        """Returns the gate for some cores: a request on each, and QUEUE that wait for it."""
        return cls(cores, QUEUE * cores)

    def __enter__(self) -> None:
        """Waits for a turn.

        Raises:
            Refused: 503, too many wait already.
        """
        with self._lock:
            self.check()
            self.inside += 1
        self._turn.acquire()

    def check(self) -> None:
        """Makes sure that another request may wait.

        Raises:
            Refused: 503, too many wait already.
        """
        if self.inside >= self.most:
            raise Refused(503, "busy", f"{self.inside} requests are waiting already; try again in a few seconds")

    def __exit__(self, *fault: object) -> None:
        self._turn.release()
        with self._lock:
            self.inside -= 1


def cores(limits: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Returns how many cores this process may use, at least 1: those of the machine, or the pod's share of them.

    Args:
        limits: Microseconds of all cores together in each period, and the period (cgroup v2); "max" for no limit.
    """
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = limits.read_text("utf-8").split()
        return max(1, min(there, round(int(quota) / int(period))))
    except (OSError, ValueError):
        return there
