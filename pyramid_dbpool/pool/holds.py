"""Warns of connections that are held for long, and of holders who take a second one.

Costs a checkout nothing.  The housekeeper looks when the oldest lease may be due:
one that begins later cannot be due before `limit` has passed from now.  Second
connections are noticed where a checkout is slow anyway; each look sends every idle
connection there once, so that they are found sooner or later in a pool that has
enough idle ones too.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable
from typing import Any

from . import messages
from .entries import LEASED
from .health import PooledEntry
from .holders import Lease, named, place, places
from .housekeeper import Task, WeakCall, housekeeper
from .labels import Label
from .line import Line

log = logging.getLogger(__name__)

# After so many slow checkouts the next ones, for so many seconds, are not searched for
# a first connection: a crowd that waits must not pay for it.
SEARCHES, REST = 20, 0.1
# How many places are remembered, each of which is warned of once.
PLACES = 200

NOWHERE = "and its thread cannot be found: it may have ended"


class Holds:
    """Watch over the leases of one pool.

    :param limit: warn when a connection is held for longer, in seconds; None: never,
        and do nothing at all.
    """

    def __init__(
        self,
        line: Line[PooledEntry],
        lock: Any,
        *,
        clock: Callable[[], float],
        limit: float | None,
        pool_name: str | None,
    ) -> None:
        self._line = line
        self._lock = lock
        self._clock = clock
        self._limit = limit
        self._name = pool_name
        self._task: Task | None = None
        self._watching = False
        # The leases that were warned of, by entry: when each of them began.
        self._said: dict[PooledEntry, float] = {}
        self._places: set[str] = set()
        self._searches = 0
        # From when on a slow checkout is to call `see_second`; the pool reads it.
        self.search_at = math.inf if limit is None else -math.inf

    # Too long

    def watch(self) -> None:
        """Have the housekeeper look from time to time, for as long as connections are open."""
        if self._limit is None:
            return
        with self._lock:
            if self._watching:
                return
            self._watching = True
        self._look_at(self._clock() + self._limit)

    def cancel(self) -> None:
        """Call the housekeeper off, until the next connection is opened."""
        with self._lock:
            self._watching = False
            task, self._task = self._task, None
        if task is not None:
            housekeeper().call_off(task)

    def _look_at(self, due: float) -> None:
        if self._task is not None:
            self._task.cancel()
        self._task = housekeeper().call_at(due, WeakCall(self.look))
        if not self._watching:  # called off in this very moment
            self.cancel()

    def look(self) -> None:
        """Warn of each connection that has been held for too long, once; come again when due."""
        if self._limit is None:
            return
        now = self._clock()
        with self._lock:
            leased = {each: each.leased_at for each in list(self._line.members) if _is_held(each)}
            self._said = {each: at for each, at in self._said.items() if leased.get(each) == at}
            rest = {each: at for each, at in leased.items() if each not in self._said}
            overdue = {each: at for each, at in rest.items() if now - at >= self._limit}
            self._said |= overdue
            due = min((at for each, at in rest.items() if each not in overdue), default=now)
            for each in list(self._line.idle):
                each.detain()
            self._watching = self._line.total > 0
            watching = self._watching
        if watching:
            self._look_at(due + self._limit)
        if overdue:
            self._warn(overdue)

    def _warn(self, overdue: dict[PooledEntry, float]) -> None:
        where = places({each.holder for each in overdue})
        for entry, since in overdue.items():
            lease = Lease(entry.label, entry.holder, self._clock() - since)
            # It may have been given back meanwhile, and the place be somebody else's.
            if entry.state is LEASED and entry.leased_at == since:
                (holder,) = named([lease])
                here = _may_have_moved_on(lease.label, where.get(lease.ident, NOWHERE))
                log.warning("%s", messages.held_text(self._name, holder, here))

    # Second ones

    def see_second(self, ident: int, label: object | None, now: float) -> None:
        """Warn, once for each place in the code, if this caller holds a connection already."""
        self._searches += 1
        if self._searches >= SEARCHES:
            self._searches, self.search_at = 0, now + REST
        with self._lock:
            first = next(
                (
                    each
                    for each in list(self._line.members)
                    if _is_held(each) and _is_theirs(each, ident, label)
                ),
                None,
            )
        if first is None:
            return
        where = place(sys._getframe())
        if where not in self._places and len(self._places) < PLACES:
            self._places.add(where)
            held = self._clock() - first.leased_at
            taker, holder = named(
                [Lease(label, ident, 0.0), Lease(first.label, first.holder, held)]
            )
            log.warning("%s", messages.second_text(self._name, taker.label, holder, where))


def _is_held(entry: PooledEntry) -> bool:
    # SQLAlchemy sets it when all of a checkout is done, and takes it away before a return: in
    # between an entry may have its last holder's name.
    return entry.record.fairy_ref is not None


def _is_theirs(entry: PooledEntry, ident: int, label: object | None) -> bool:
    if _is_over(entry.label):
        # Left behind by earlier work in this thread: whoever works there now is innocent.
        return False
    # A label that is plain text may be that of many; an object is one holder's, in
    # whichever thread it works.
    return entry.holder == ident or (isinstance(label, Label) and entry.label is label)


def _is_over(label: object | None) -> bool:
    return isinstance(label, Label) and label.over


def _may_have_moved_on(label: object | None, where: str) -> str:
    return f"{where}, perhaps with other work" if _is_over(label) else where
