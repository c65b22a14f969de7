"""Has this process been forked, or will it be?  The first costs less than `os.getpid`.

A page of memory that the kernel empties in every child (`MADV_WIPEONFORK`, see
madvise(2); Linux 4.14) tells at the price of reading it.  It also tells in
processes that were forked without Python's knowledge, as uWSGI does by default.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import threading
import weakref
from os import getpid
from typing import Any, Protocol

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
        return self._pid == getpid()

    def __setitem__(self, index: int, value: int) -> None:
        self._pid = getpid()


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


class Heir(Protocol):
    """Something that a forked child inherits and must not use."""

    def abandon(self) -> None:
        """Begin anew, without a byte on the parent's sockets."""


# `here[0]` is zero in a child that has not yet left its parent's pools.
here = make_mark()
_heirs: weakref.WeakSet[Heir] = weakref.WeakSet()
# Keeps two threads of a child from leaving the parent at the same time; one lock
# per process, because an inherited one may be held for ever. Reentrant, for a signal's
# handler that uses the database just then.
_leaving: dict[int, threading.RLock] = {}


def watch(heir: Heir) -> None:
    """Have `heir.abandon` called in a forked child, before anything uses it there."""
    _heirs.add(heir)


def inherit(*things: object) -> None:
    """Keep what a child inherited: never closed, never freed.

    Not even when the interpreter ends, for drivers say QUIT or Terminate on the
    parent's socket when their connection is freed. So it gets a reference that
    nobody gives back.
    """
    for thing in things:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def leave_parent() -> None:
    """Let go of what the parent had, if this has not been done in this process."""
    with _leaving.setdefault(getpid(), threading.RLock()):
        if not here[0]:
            _threads.note_fork()
            for heir in list(_heirs):
                heir.abandon()
            here[0] = 1


def uwsgi_may_fork() -> bool:
    """Tell whether this is uWSGI's master, or has loaded an app and has its workers to come.

    Both fork without Python's knowledge; without a master the first process does so once.

    No thread may be started here. One that has the interpreter's lock during a fork, as
    that of a worker that has died is replaced, or that asks for it, is not there to give
    it back or to take it in the child, which waits for that for ever.
    """
    uwsgi: Any = sys.modules.get("uwsgi")
    if not hasattr(uwsgi, "masterpid"):
        return False
    master = uwsgi.masterpid()
    return bool(master == getpid() if master else uwsgi.worker_id() == 0)


class _Threads:
    """Which threads a child, forked without Python's knowledge, believes to have and has not.

    Python goes on listing them there, and to look where they are (`sys._current_frames`) is to
    read a stack that is somebody else's by now: the process would crash.
    """

    def __init__(self) -> None:
        # By the system's numbers: threads that `threading` does not know.
        self.unlisted: set[int] = set()
        self._seen_by_python = getpid()
        self._has_stale_ones = False

    def forked(self) -> None:
        self._seen_by_python = getpid()
        self._has_stale_ones = False
        self.unlisted.clear()

    def note_fork(self) -> None:
        if self._seen_by_python == getpid():
            return
        # Not by `enumerate`, whose lock may be held for ever.
        numbers = {each.native_id for each in list(threading._active.values())}  # type: ignore[attr-defined]
        numbers -= {threading.main_thread().native_id, None}
        self._has_stale_ones = any(
            not os.path.exists(f"/proc/self/task/{number}") for number in numbers | self.unlisted
        )

    @property
    def has_stale_ones(self) -> bool:
        if not here[0]:
            leave_parent()
        return self._has_stale_ones


_threads = _Threads()
unlisted_threads = _threads.unlisted


def may_look_at_threads() -> bool:
    """Tell whether it is safe to look where the threads of this process are."""
    return not _threads.has_stale_ones


os.register_at_fork(after_in_child=_threads.forked)
os.register_at_fork(after_in_child=leave_parent)
