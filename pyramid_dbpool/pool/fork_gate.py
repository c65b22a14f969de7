"""Not now: a fork waits for the connections that are being opened, and they for a fork.

And for the threads that have opened one and are about to be gone.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from os import getpid

from ..clock import monotonic, sleep

__all__ = ["opening", "run_passing"]

# How long a fork waits (seconds) for the openings that are under way, and they for the fork.
OPENING_WAIT = 1.0
# Between two looks (seconds) whether a thread is gone.
GONE_PAUSE = 0.0005
# How many of our threads may be about to go at a time.
LIKELY_THREADS = 64


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
        # No more than may matter: a process that never forks takes none out.
        self._ended: deque[tuple[int, float]] = deque(maxlen=LIKELY_THREADS)

    def run(self, target: Callable[[], object], *, brief: bool) -> None:
        """Do what this thread is for.

        :param brief: whether it ends soon after it has opened a connection, if it opens one.
        """
        number = threading.get_native_id()
        if brief:
            self._brief.add(number)
        try:
            target()
        finally:
            self._brief.discard(number)
            self._ended.append((number, monotonic()))

    def note_opened(self) -> None:
        """Note that this thread has opened a connection, if it will do no more."""
        number = threading.get_native_id()
        if number in self._brief:
            self._ended.append((number, monotonic()))

    def wait(self) -> None:
        """Wait until they are gone, if that is soon."""
        # A greenlet has the number of the thread that runs all of them.
        me = threading.get_native_id()
        for number, at in self._take_all():
            while (
                number != me
                and monotonic() - at < OPENING_WAIT
                and os.path.exists(f"/proc/self/task/{number}")
            ):
                sleep(GONE_PAUSE)

    def _take_all(self) -> Iterator[tuple[int, float]]:
        # Two threads may fork at a time.
        with suppress(IndexError):
            while True:
                yield self._ended.popleft()


_passing = _Passing()
run_passing = _passing.run


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
        try:
            # Before a fork that waits for this one.
            _passing.note_opened()
        finally:
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


# By process id: an inherited one may be closed for ever.
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


os.register_at_fork(
    before=lambda: _gate().fork(threading.get_ident()),
    after_in_parent=lambda: _gate().forked(),
)
