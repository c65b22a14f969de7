"""Has this process been forked, or will it be?  And: not now, a connection is being opened.

The first answer costs less than `os.getpid`.

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
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from os import getpid
from typing import Any, Protocol

from ..clock import monotonic, sleep

MADV_WIPEONFORK = 18
# How long a fork waits (seconds) for the openings that are under way, and they for the fork.
OPENING_WAIT = 1.0
# Between two looks (seconds) whether a thread is gone.
GONE_PAUSE = 0.0005


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
            for heir in list(_heirs):
                heir.abandon()
            here[0] = 1


class _Passing:
    """The threads of ours that have ended, or do so as soon as they have opened a connection.

    A thread is there for a moment after its last line of Python, without the interpreter's lock:
    OpenSSL takes a lock of its own then. A child that is forked at that moment would wait for
    that lock for ever, in each new thread that opens a connection.
    """

    def __init__(self) -> None:
        # By the system's numbers: those that do one thing only, and those that have done it, or
        # have ended, and when.
        self._brief: set[int] = set()
        self._ended: deque[tuple[int, float]] = deque()

    def run(self, target: Callable[[], object], *, brief: bool) -> None:
        """Do what this thread is for.

        :param brief: whether it ends when it has opened a connection.
        """
        number = threading.get_native_id()
        if brief:
            self._brief.add(number)
        try:
            target()
        finally:
            self._brief.discard(number)
            self._ended.append((number, monotonic()))

    def note_end(self) -> None:
        """Note that this thread has opened a connection, if it will do no more."""
        number = threading.get_native_id()
        if number in self._brief:
            self._ended.append((number, monotonic()))

    def wait(self) -> None:
        """Wait until they are gone, if that is soon."""
        # A greenlet has the number of the thread that runs all of them.
        me = threading.get_native_id()
        while self._ended:
            number, at = self._ended.popleft()
            while (
                number != me
                and monotonic() - at < OPENING_WAIT
                and os.path.exists(f"/proc/self/task/{number}")
            ):
                sleep(GONE_PAUSE)


class _Gate:
    """Keeps a fork from coming in the middle of an opening.

    The child would have a socket of which nobody there knows whose it is: the server sees a
    session that ends when the child does. And it could inherit a lock that is held meanwhile.
    """

    def __init__(self) -> None:
        # Reentrant, for what the collector may do in the middle of it.
        self._changed = threading.Condition(threading.RLock())
        # The threads that open something, each as often as it does.
        self._opening: list[int] = []
        self._forking = False

    def begin(self, thread: int) -> None:
        """Begin an opening, after a fork that is under way."""
        with self._changed:
            if self._forking and thread not in self._opening:
                self._changed.wait_for(lambda: not self._forking, OPENING_WAIT)
            self._opening.append(thread)

    def end(self, thread: int) -> None:
        """End an opening."""
        _passing.note_end()
        with self._changed, suppress(ValueError):  # interrupted before it had begun
            self._opening.remove(thread)
            self._changed.notify_all()

    def fork(self, thread: int) -> None:
        """Begin a fork, after the openings of others that are under way, if they end soon."""
        with self._changed:
            self._forking = True
            self._changed.wait_for(lambda: {thread}.issuperset(self._opening), OPENING_WAIT)
        _passing.wait()

    def forked(self) -> None:
        """End a fork."""
        with self._changed:
            self._forking = False
            self._changed.notify_all()


_passing = _Passing()
run_passing = _passing.run
# By process id, as the locks above.
_gates: dict[int, _Gate] = {}


def _gate() -> _Gate:
    pid = getpid()
    return _gates.get(pid) or _gates.setdefault(pid, _Gate())


@contextmanager
def opening() -> Iterator[None]:
    """Keep the process from forking, as far as Python does it, while a connection is opened."""
    gate, thread = _gate(), threading.get_ident()
    try:
        gate.begin(thread)
        yield
    finally:
        gate.end(thread)


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


os.register_at_fork(
    before=lambda: _gate().fork(threading.get_ident()),
    after_in_parent=lambda: _gate().forked(),
    after_in_child=leave_parent,
)
