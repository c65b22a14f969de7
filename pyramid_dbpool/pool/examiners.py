"""Threads that ping what may be dead, beside those who use the pool: a few, however much there is.

Whoever finds a dead connection suspects all others, and so does each of those that turns out to be
dead.  A thread for each suspicion would be half of their square: 10,000 for 150 connections.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable

from .entry import PooledEntry
from .housekeeper import start_thread
from .shared import Shared

# So many pings may wait for an answer at a time: those of a pool of the usual size all at once, so
# that on a network that drops silently nobody waits for a second round of them.
AT_ONCE = 16


class Examiners:
    """Examine what is in a queue; each entry is in it once at most, as its `awaited` says.

    Where no thread can be started the queue stays as it is: whoever takes one of these connections
    examines it himself, and whoever comes here next tries again.

    :param examine: examines one entry, if nobody uses it; called without the pool's lock.
    :param start: runs something in a thread; raises RuntimeError where none can be started.
    """

    def __init__(
        self,
        shared: Shared,
        examine: Callable[[PooledEntry], object],
        *,
        start: Callable[[str, Callable[[], object]], object] = start_thread,
    ) -> None:
        self._door, self._lock = shared.door, shared.lock
        self._examine = examine
        self._start = start
        self._queue: deque[PooledEntry] = deque()
        self._at_work: set[object] = set()
        # Those of them that have not come to the queue yet.
        self._coming: set[object] = set()

    def add_locked(self, entries: Iterable[PooledEntry]) -> None:
        """Have entries examined that are not in the queue yet; then `start`."""
        for entry in entries:
            if not entry.awaited:
                self._queue.append(entry)
                entry.awaited = True

    def start(self, at_once: int = AT_ONCE) -> bool:
        """Start threads if there are too few; false if none can be started.

        :param at_once: how many there may be, those that are at work counted.
        """
        while True:
            # Here, before it counts: interrupted in between, nobody would come in its place.
            me = object()
            try:
                if not self._admits(me, at_once):
                    return True
                self._start("dbpool-upkeep", functools.partial(self._work, me))
            except BaseException as error:
                self._leave(me)
                if not isinstance(error, RuntimeError):
                    raise
                return bool(self._at_work)

    def _admits(self, me: object, at_once: int) -> bool:
        with self._door, self._lock:
            if len(self._at_work) >= at_once or len(self._coming) >= len(self._queue):
                return False
            self._at_work.add(me)
            self._coming.add(me)
            return True

    def _leave(self, me: object) -> None:
        self._at_work.discard(me)
        self._coming.discard(me)

    def _work(self, me: object) -> None:
        try:
            while (entry := self._next(me)) is not None:
                self._examine(entry)
        finally:
            self._leave(me)

    def _next(self, me: object) -> PooledEntry | None:
        with self._door, self._lock:
            self._coming.discard(me)
            if not self._queue:
                # Under the same lock: who adds one now sees that another thread is needed.
                self._leave(me)
                return None
            entry = self._queue.popleft()
            entry.awaited = False
            return entry
