"""Not now: a fork waits for the connections that are being opened, and they for a fork."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import getpid

__all__ = ["opening"]

# How long a fork waits (seconds) for the openings that are under way, and they for the fork.
OPENING_WAIT = 1.0


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
        with self._changed, suppress(ValueError):  # interrupted before it had begun
            self._opening.remove(thread)
            self._changed.notify_all()

    def fork(self, thread: int) -> None:
        """Begin a fork, after the openings of others that are under way, if they end soon."""
        with self._changed:
            self._forking = True
            self._changed.wait_for(lambda: {thread}.issuperset(self._opening), OPENING_WAIT)

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
