"""What glibc does with freed memory; on a system with another C library nothing happens."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # malloc.h
KEPT = 2**20  # bytes


def keep_freed_memory() -> None:
    """Keeps all freed blocks, for training: giving each batch's back and faulting it in again costs a third.

    The same as the variables MALLOC_MMAP_MAX_=0 and MALLOC_TRIM_THRESHOLD_.
    """
    _set(M_MMAP_MAX, 0)
    _set(M_TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Gives blocks larger than KEPT back at once, for serving: else each thread keeps room for its largest picture.

    The same as the variable MALLOC_MMAP_THRESHOLD_.
    """
    _set(M_MMAP_THRESHOLD, KEPT)


def _set(option: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(option, value)
