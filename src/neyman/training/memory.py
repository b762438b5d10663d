"""Memory that stays with the process while networks are trained."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # parameters of mallopt(3)
_LARGEST_THRESHOLD = 1 << 25


@contextmanager
def kept() -> Iterator[None]:
    """Keep freed memory for the next step instead of giving it back to the system after each.

    The tensors of a stack are large blocks, which glibc takes from the system and gives back every time; the page
    faults cost a quarter to a half of a training step. Acts on the whole process, on Linux with glibc, and nowhere
    else does anything; what is free at the end is given back then.
    """
    library = _glibc()
    if library is None:
        yield
        return
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        # What glibc's own adaptive thresholds end at after large blocks; its default number of mapped blocks.
        library.mallopt(_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
        library.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_THRESHOLD)
        library.mallopt(_MMAP_MAX, 65_536)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
