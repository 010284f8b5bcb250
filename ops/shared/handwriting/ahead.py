"""Makes things in threads ahead of their use, in their order and with bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def made_ahead(make: Callable[[T], R], items: Iterable[T], threads: int, ahead: int) -> Iterator[R]:
    """Returns what is made of each item, in the order of the items.

    The first ones are in the making when this returns; they are finished, in vain, if the iterator is let go. What
    `make` raises comes out where its result would.

    Args:
        make: Called in the threads; gains by them where it waits, or lets go of the interpreter as NumPy, OpenCV and
            Pillow do.
        items: Drawn in the caller's thread, no more than `ahead` before their results are taken.
        threads: How many.
        ahead: Items in the making, or made and not yet taken, at most.
    """
    def made() -> Iterator[R]:
        todo = iter(items)
        with ThreadPoolExecutor(threads, "prepare") as pool:
            waiting = deque(pool.submit(make, item) for item in islice(todo, ahead))
            yield  # type: ignore[misc]  # has begun
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(make, item) for item in islice(todo, 1))

    results = made()
    next(results)
    return results
