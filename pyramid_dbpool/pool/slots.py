"""How many connections a line has, in which state, and how many more there may be."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic

from .entries import GONE, HELD, IDLE, LEASED, E
from .idle import Idle
from .reentry import whole


class Slots(Generic[E]):
    """Count the connections and the slots of a line; the line says who gets what is free.

    :param capacity: how many connections there may be at once; None: no limit.
    :param idle: where the idle ones are.
    """

    def __init__(self, capacity: int | None, idle: Idle[E]) -> None:
        self.capacity = capacity
        self.idle = idle
        # Every connection there is; those neither idle nor held are leased.
        self.members: set[E] = set()
        self.held = 0
        self.opening = 0
        self._busy = False
        self._late: deque[Callable[[], object]] = deque()

    @property
    def leased(self) -> int:
        """Count the connections in the hands of callers."""
        return len(self.members) - len(self.idle) - self.held

    @property
    def total(self) -> int:
        """Count every connection that is open, being opened or being closed."""
        return len(self.members) + self.opening

    @property
    def free(self) -> int | None:
        """Count the slots in which a connection may be opened; None: no limit."""
        return None if self.capacity is None else self.capacity - self.total

    @property
    def full(self) -> bool:
        """Whether no further connection may be opened."""
        return self.capacity is not None and len(self.members) + self.opening >= self.capacity

    @whole
    def reserve_for_line(self) -> bool:
        """Reserve a slot for an opening on behalf of those who wait, if one is free."""
        if self.full:
            return False
        self.opening += 1
        return True

    @whole
    def opened(self, entry: E, now: float) -> None:
        """Turn an opening into a lease, for whoever reserved it."""
        entry.leased_at = entry.since = now
        entry.state = LEASED
        self.opening -= 1
        self.members.add(entry)

    @whole
    def reopening(self, entry: E) -> None:
        """Turn the lease of a dead connection into an opening by the same caller."""
        entry.state = GONE
        self.opening += 1
        self.members.discard(entry)

    @whole
    def hold(self, entry: E) -> bool:
        """Take an idle connection aside, to check or close it; False if it is not idle."""
        if entry.state is not IDLE or not self.idle.take_out(entry):
            return False
        entry.state = HELD
        self.held += 1
        return True
