"""Has this process been forked?  An answer that costs less than `os.getpid`.

A page of memory that the kernel empties in every child (`MADV_WIPEONFORK`, see
madvise(2); Linux 4.14) tells at the price of reading it.  It also tells in
processes that were forked without Python's knowledge, as uWSGI does by default.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Protocol

MADV_WIPEONFORK = 18


class Mark(Protocol):
    """`mark[0]` is zero in a child that has not set it."""

    def __getitem__(self, index: int, /) -> int:
        """Return 0 once forked."""

    def __setitem__(self, index: int, value: int, /) -> None:
        """Set to 1: this process is known now."""


class PidMark:
    """The same by the process id, where the kernel cannot empty a page."""

    def __init__(self) -> None:
        self._pid = 0

    def __getitem__(self, index: int) -> int:
        return self._pid == os.getpid()

    def __setitem__(self, index: int, value: int) -> None:
        self._pid = os.getpid()


def make_mark() -> Mark:
    """Make a mark of this process, set."""
    mark = _page() or PidMark()
    mark[0] = 1
    return mark


def _page() -> Mark | None:
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        start = ctypes.addressof(ctypes.c_char.from_buffer(page))
        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        return page if madvise(start, mmap.PAGESIZE, MADV_WIPEONFORK) == 0 else None
    except (AttributeError, OSError, ValueError):
        return None
