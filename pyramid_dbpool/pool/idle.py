"""The idle connections of a line, in order, and since when how many have been idle."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque

from .entries import IDLE, E


class Idle(deque[E]):
    """Idle connections, the one that was returned first at the left.

    :param lifo: hand out the connection that was returned last, not first.
    :param stamped: remember how long how many have been idle, for housekeeping.
    """

    def __init__(self, *, lifo: bool, stamped: bool) -> None:
        super().__init__()
        self.lifo = lifo
        # With FIFO each connection is used in turn, so its own `since` says nothing
        # about how many are surplus.  Times kept as a stack do: the n-th from the
        # bottom is the time since when at least n connections have been idle.
        self.stamps: deque[float] | None = deque() if stamped and not lifo else None
        self.take = self.pop if lifo else self.popleft

    def add(self, entry: E, now: float) -> None:
        """Put a connection that was just returned in its place."""
        if self.stamps is not None:
            self._trim(self.stamps)
            self.stamps.append(now)
        # The place last, and no call before it: `take` may take it at once.
        entry.since = now
        # Nobody's: were its last holder killed in another checkout just when the next
        # one takes it, it would be taken back from that one.
        entry.holder = 0
        entry.state = IDLE
        self.append(entry)

    def take_out(self, entry: E) -> bool:
        """Take this very connection; False if a caller was quicker."""
        if self.stamps is not None:
            self._trim(self.stamps)
        try:
            self.remove(entry)
        except ValueError:
            return False
        if self.stamps and len(self.stamps) > len(self):
            self.stamps.popleft()
        return True

    def put_back(self, entry: E) -> None:
        """Put back what was taken out: where it was, for it has not been used."""
        entry.state = IDLE
        if self.stamps is not None:
            self._trim(self.stamps)
            self.stamps.insert(bisect_left(self.stamps, entry.since), entry.since)
        # A copy: `take` may take one in the middle of this.
        place = bisect_left([each.since for each in list(self)], entry.since) if self.lifo else 0
        self.insert(place, entry)

    def times(self) -> list[float]:
        """List since when at least n connections have been idle, the longest first."""
        if self.stamps is None:
            return sorted(each.since for each in list(self))
        self._trim(self.stamps)
        return list(self.stamps)

    def _trim(self, stamps: deque[float]) -> None:
        # `take` leaves the stamps alone, so that it is one atomic step; the youngest
        # ones of those who were taken go now.
        while len(stamps) > len(self):
            stamps.pop()
