"""Warns of connections that are held for long or dropped, and of who waits beside what he holds.

Costs a checkout nothing.  The timer looks when the oldest lease may be due: one that
begins later cannot be due before `hold_warning` has passed from now.  Whether a caller seems
to hold a connection is asked, unlocked, when a wait begins; the sure look comes when he has
waited for long: there it is dangerous, and there time is no matter.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from operator import attrgetter
from typing import NamedTuple

from ..events import Kind, tell
from .entry import PooledEntry
from .housekeeper import Task, WeakCall
from .labels import Label, current_label, has_ended, is_same_holder
from .leases import (
    Lease,
    is_with_a_holder,
    named,
    place,
    places,
    taken_text,
    worker_kind,
)
from .options import Spelling, pool_text
from .shared import Shared
from .stats import Holder

log = logging.getLogger(__name__)

_HOLDER = attrgetter("holder")
# How many places are remembered, each of which is warned of once.
PLACES = 200
# Seconds between two lines about what holders with the same label have dropped.
LOG_EVERY = 10.0


class _Warned(NamedTuple):
    since: float
    label: str


class LeaseWatch:
    """Watch over the leases of one pool.

    `hold_warning` of the options: warn when a connection is held for longer, in seconds;
    None: warn of nothing.
    """

    def __init__(self, shared: Shared) -> None:
        self._door, self._lock, self._line = shared.door, shared.lock, shared.line
        self._source = shared.source
        self._clock, self._timer = shared.clock, shared.timer
        self._limit = shared.options.hold_warning
        self._name = shared.options.pool_name
        self._task: Task | None = None
        self._watching = False
        # The leases that were warned of, by entry: when each of them began.
        self._said: dict[PooledEntry, float] = {}
        # Those whose return is to be told of. Changed in single steps, by any thread.
        self._awaited: dict[PooledEntry, _Warned] = {}
        self._places: set[str] = set()
        # What the collector had to give back, until it is told of.
        self._dropped: deque[Lease] = deque(maxlen=PLACES)
        # By label: when a line of it was written, and how many were left out since.
        self._written: dict[str, tuple[float, int]] = {}

    # Held for long

    def begin(self) -> None:
        """Have the timer call from time to time, for as long as connections are open."""
        if self._limit is None or self._watching or self._line.replaced:
            # Retired: the timer would come for a pool that is over.
            return
        with self._door, self._lock:
            if self._watching:
                return
            self._watching = True
        self._look_at(self._clock() + self._limit)

    def cancel(self) -> None:
        """Call the timer off, until `begin`."""
        with self._door, self._lock:
            self._watching = False
            task, self._task = self._task, None
        if task is not None:
            self._timer.call_off(task)

    def _look_at(self, due: float) -> None:
        if self._task is not None:
            self._task.cancel()
        self._task = self._timer.call_at(due, WeakCall(self.look))
        # Called off in this very moment; or no thread can be started: `begin` tries again.
        if not self._watching or self._task is None:
            self.cancel()

    def look(self) -> None:
        """Warn of each connection that has been held for too long, once; come again when due."""
        if self._limit is None:
            return
        now = self._clock()
        with self._door, self._lock:
            leased = {
                each: each.leased_at
                for each in self._line.members
                if self._source.is_received(each.record)
            }
            self._said = {each: at for each, at in self._said.items() if leased.get(each) == at}
            for each in list(self._awaited):
                if each not in self._said:
                    # It came back just as it was warned of.
                    self._awaited.pop(each, None)
            rest = {each: at for each, at in leased.items() if each not in self._said}
            overdue = {each: at for each, at in rest.items() if now - at >= self._limit}
            self._said |= overdue
            due = min((at for each, at in rest.items() if each not in overdue), default=now)
            self._watching = self._line.total > 0
            watching = self._watching
        if watching:
            self._look_at(due + self._limit)
        if overdue:
            self._warn(overdue)

    def _warn(self, overdue: dict[PooledEntry, float]) -> None:
        where = places({each.holder for each in overdue})
        for entry, since in overdue.items():
            lease = Lease(entry.label, entry.holder, self._clock() - since, entry.taken)
            # Before it is looked at: what comes back from now on is told of.
            self._source.tell_return(entry.record, partial(self.came_back, entry))
            # It may have been given back meanwhile, and the place be somebody else's.
            if is_with_a_holder(entry) and entry.leased_at == since:
                (holder,) = named([lease])
                self._awaited[entry] = _Warned(since, holder.label)
                here = self._place_of(lease, where)
                tell(
                    log,
                    Kind.HELD,
                    held_text(self._name, self._source.spelled, holder, here),
                    self._name,
                    label=holder.label,
                    seconds=holder.held_seconds,
                    place=here.removeprefix("and "),
                )

    def _place_of(self, lease: Lease, where: Mapping[int, str]) -> str:
        here = where.get(
            lease.ident, f"and its {worker_kind()} cannot be found: it may have ended"
        )
        ended = has_ended(lease.label)
        if ended:
            # Whoever works in its thread by now would be blamed for it.
            here = "and has ended without giving it back"
        if lease.taken:
            return f"{here}; it was {taken_text(lease.taken)}"
        hint = f"; {self._source.spelled('trace_checkouts')} = true says where it was taken"
        return here + hint if ended else here

    def came_back(self, entry: PooledEntry) -> None:
        """Tell of the end of a lease that was warned of; its holder is just giving it back."""
        warned = self._awaited.pop(entry, None)
        if warned is not None and warned.since == entry.leased_at:
            held = self._clock() - warned.since
            # Whoever waits for the connection need not wait for the log.
            self._door.call_later(partial(self._tell_returned, Holder(warned.label, held)))

    def _tell_returned(self, holder: Holder) -> None:
        text = returned_text(self._name, holder)
        label, seconds = holder.label, holder.held_seconds
        tell(log, Kind.RETURNED, text, self._name, label=label, seconds=seconds)

    # Dropped

    def dropped(self, entry: PooledEntry) -> None:
        """Note that the collector gives a connection back; this may come anywhere."""
        # Its return says the same.
        self._awaited.pop(entry, None)
        held = self._clock() - entry.leased_at
        self._dropped.append(Lease(entry.label, entry.holder, held, entry.taken))
        if self._door.is_inside():
            self._door.call_later(self._tell_soon)
        else:
            self._tell_soon()

    def _tell_soon(self) -> None:
        # By the timer's thread: this one may be in the middle of a handler of the log, which its
        # lock lets in once more, to break what it writes, or does not, for ever.
        self._timer.call_at(self._clock(), self.tell_dropped)

    def tell_dropped(self) -> None:
        """Tell of what the collector has given back."""
        with suppress(IndexError):
            while True:
                self._tell_dropped(self._dropped.popleft())

    def _tell_dropped(self, lease: Lease) -> None:
        (holder,) = named([lease])
        left_out = self._left_out(holder.label)
        if left_out is None:
            return
        where = taken_text(lease.taken) if lease.taken else None
        tell(
            log,
            Kind.LEAK,
            dropped_text(self._name, self._source.spelled, holder, where, left_out),
            self._name,
            label=holder.label,
            seconds=holder.held_seconds,
            left_out=left_out,
            place=where,
        )

    def _left_out(self, label: str) -> int | None:
        """Count the lines left out since the last one of a label; None: this one is, too."""
        now = self._clock()
        written, left_out = self._written.get(label, (float("-inf"), 0))
        if now - written < LOG_EVERY:
            self._written[label] = (written, left_out + 1)
            return None
        if len(self._written) >= PLACES:
            # Messages have labels of their own.
            self._written.clear()
        self._written[label] = (now, 0)
        return left_out

    # Held while waiting

    def seems_to_hold(self) -> bool:
        """Tell whether this caller holds a connection by now, as far as one sees unlocked."""
        # `is_same_holder` in short: every wait comes by here, and fifteen calls cost 5 µs. Without
        # the lock, which all of them want: a copy is made in one step of C's, in which nobody else
        # runs; between `map` and `in` somebody would, and change the set.
        members = list(self._line.members)
        if threading.get_ident() in map(_HOLDER, members):
            return True
        label = current_label()
        return isinstance(label, Label) and any(each.label is label for each in members)

    def holds_already(self) -> bool:
        """Tell whether this caller holds a connection; warn of it, once for each place."""
        ident, label = threading.get_ident(), current_label()
        with self._door, self._lock:
            first = next(
                (
                    each
                    for each in self._line.members
                    # An entry that is handed over at this moment is leased already, and may
                    # still have its last holder's name.
                    if self._source.is_received(each.record)
                    and is_same_holder(each.label, each.holder, label, ident)
                ),
                None,
            )
        if first is not None and self._limit is not None:
            self._warn_of_second(Lease(label, ident, 0.0), first)
        return first is not None

    def _warn_of_second(self, wanted: Lease, first: PooledEntry) -> None:
        where = place(sys._getframe())
        if where not in self._places and len(self._places) < PLACES:
            self._places.add(where)
            held = Lease(first.label, first.holder, self._clock() - first.leased_at)
            taker, holder = named([wanted, held])
            tell(
                log,
                Kind.SECOND_CONNECTION,
                second_text(self._name, taker.label, holder, where),
                self._name,
                label=taker.label,
                holder=holder.label,
                seconds=holder.held_seconds,
                place=where,
            )


def held_text(pool_name: str | None, spelled: Spelling, holder: Holder, where: str) -> str:
    """Say in the log that a connection is held for long."""
    return (
        f"{pool_text(pool_name)}: {holder.label} has held a connection for"
        f" {holder.held_seconds:.1f} s, {where}."
        f" ({spelled('hold_warning')} says after how long to warn.)"
    )


def returned_text(pool_name: str | None, holder: Holder) -> str:
    """Say in the log that a connection is back whose holder was warned of."""
    return (
        f"{pool_text(pool_name)}: {holder.label} has given back its connection after"
        f" {holder.held_seconds:.1f} s."
    )


def dropped_text(
    pool_name: str | None, spelled: Spelling, holder: Holder, where: str | None, left_out: int
) -> str:
    """Say in the log that nobody has given a connection back but the collector.

    :param where: where it was taken; None: that was not noted.
    :param left_out: how many of this holder's were left out since the last such line.
    """
    more = f" ({left_out} more since the last such line)" if left_out else ""
    taken = f" It was {where}." if where else ""
    hint = "" if where else f" ({spelled('trace_checkouts')} = true says where it was taken.)"
    return (
        f"{pool_text(pool_name)}: {holder.label} has dropped its connection without giving it"
        f" back, and the garbage collector has found it after {holder.held_seconds:.1f} s{more}."
        f"{taken} Close each session and connection, or use it in a `with`.{hint}"
    )


def second_text(pool_name: str | None, taker: str, first: Holder, where: str) -> str:
    """Say in the log that somebody waits for a connection beside one that he holds.

    :param first: who holds the other one: the same, or the request around a subrequest.
    """
    held = (
        "and has held one" if taker == first.label else f"beside one that {first.label} has held"
    )
    return (
        f"{pool_text(pool_name)}: {taker} waits for a second connection {held} for"
        f" {first.held_seconds:.1f} s, {where}. When every connection is the first of such a"
        " pair, all wait for each other until their time is over: use one session, or give the"
        " first connection back before."
    )
