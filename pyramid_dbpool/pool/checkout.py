"""One caller's way to a connection, where there is none to take that passes at once.

`in_full_line` is the usual way of a busy pool, in short; `Checkout` is all of it.

Whatever the caller has in hand at any moment (a connection, a slot, a place in
the line) is an attribute, so that it is given back wherever he is killed.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from ..stopping import SLICE, current_stopped
from .deadlines import cited_setting, current_deadline, is_callers
from .entry import PooledEntry, Record
from .health import Health
from .labels import current_label
from .line import LEASED, NEW, SLOT, Grant, Refusal, Waiter
from .opener import BackgroundOpener, CallersOpen
from .refusals import Refusals
from .shared import Shared

# The longest wait that `Lock.acquire` takes.
_FOREVER = threading.TIMEOUT_MAX
# Who seems to hold a connection already is looked at when he has waited for so many seconds:
# a wait of milliseconds is no danger.
LONG_WAIT = 0.1


@dataclass(frozen=True)
class CheckoutParts:
    """What the checkouts of one pool need.

    - `seems_to_hold`: tells, for next to nothing, whether the caller in this thread may hold a
      connection of this pool.
    - `holds_already`: tells whether he does, and warns of it.
    - `reclaim`: takes back what nobody holds, for the caller whose time is over.
    """

    shared: Shared
    health: Health
    refusals: Refusals
    opener: BackgroundOpener | CallersOpen
    seems_to_hold: Callable[[], bool]
    holds_already: Callable[[], bool]
    reclaim: Callable[[], object]


def in_full_line(parts: CheckoutParts, began: float) -> tuple[PooledEntry, float | None]:
    """Serve a caller from the line of a full pool, with what somebody gives back.

    A `Checkout` does that in twice the time, and 64 threads on ten connections all wait for it.
    It takes over where there is more to be done.

    :return: the connection, and how long he has stood in the line; None: not at all.
    """
    shared = parts.shared
    timeout = shared.timeout
    if (
        timeout is None
        # `Lock.acquire` takes -1 for no limit, and what is too long not at all.
        or not 0 < timeout <= _FOREVER
        or current_deadline() is not None
        or current_stopped() is not None
    ):
        return Checkout(parts, None, began).served()
    gate = threading.Lock()
    gate.acquire()
    ident = threading.get_ident()
    waiter = Waiter(gate.release, began, parts.opener.context(), ident, current_label())
    checkout: Checkout | None = None
    try:
        try:
            with shared.lock:
                stands = parts.opener.join_full_locked(waiter)
        finally:
            # `with shared.door`, without its two calls.
            if shared.door.late:
                shared.door.let_in()
        if stands and not parts.seems_to_hold() and gate.acquire(timeout=timeout):
            entry = waiter.granted
            if isinstance(entry, PooledEntry):
                entry.holder = ident
                if entry.passes_on(entry.leased_at):
                    return entry, shared.clock() - began
        checkout = Checkout(parts, None, began, waiter=waiter if stands else None, gate=gate)
        return checkout.served()
    except BaseException:
        if checkout is None or not checkout.gives_back:
            # By itself if it is there: after its own `give_back` it has nothing in hand.
            (checkout or Checkout(parts, None, began, waiter=waiter)).give_back()
        raise


class Checkout:
    """Check, wait or open for one caller; `run` once.

    :param entry: what he has taken and must still be checked; None: nothing yet.
    :param slot: whether he has a slot to open in.
    :param again: whether he has had his turn, so that he waits at the head.
    :param waiter: his place in the line, if he has one already, and
    :param gate: what its `wake` opens.
    """

    __slots__ = (
        "_began",
        "_clock",
        "_counted",
        "_cut",
        "_door",
        "_entry",
        "_gate",
        "_limit",
        "_line",
        "_lock",
        "_parts",
        "_record",
        "_served",
        "_slot",
        "_touched",
        "_waiter",
        "gives_back",
        "waited_seconds",
    )

    def __init__(
        self,
        parts: CheckoutParts,
        entry: PooledEntry | None,
        began: float,
        *,
        slot: bool = False,
        again: bool = False,
        waiter: Waiter | None = None,
        gate: threading.Lock | None = None,
    ) -> None:
        shared = parts.shared
        self._parts = parts
        self._line, self._clock = shared.line, shared.clock
        self._door, self._lock = shared.door, shared.lock
        self._began = began
        self._entry = entry
        self._slot = slot
        self._record: Record | None = None
        self._waiter, self._gate = waiter, gate
        # Whether what is in hand is given back from here, if the caller is killed.
        self.gives_back = False
        self._served = again
        # Whether the connection in hand may be in the middle of a ping.
        self._touched = False
        # Whether it is counted among those who wait beside what they hold.
        self._counted = False
        # How long the caller has stood in the line; None: not at all.
        self.waited_seconds: float | None = None
        timeout, until = shared.timeout, current_deadline()
        limit = None if timeout is None else began + timeout
        self._limit = until if limit is None or (until is not None and until < limit) else limit
        # Whether the caller gave itself less time than the pool would have.
        self._cut = until is not None and until == self._limit and is_callers(until)

    def served(self) -> tuple[PooledEntry, float | None]:
        """Run, and say how long the caller has stood in the line as well."""
        return self.run(), self.waited_seconds

    def run(self) -> PooledEntry:
        """Return a connection that may be handed out, or raise."""
        try:
            self.gives_back = True
            while True:
                if self._entry is None and not self._slot:
                    self._obtain()
                if self._slot:
                    opened = self._open()
                    if opened is None:
                        continue
                    opened.holder = threading.get_ident()
                    return opened
                entry = cast("PooledEntry", self._entry)
                entry.holder = threading.get_ident()
                if self.waited_seconds is not None and entry.passes(entry.leased_at):
                    return entry
                self._touched = True
                reason = self._parts.health.reason_against(entry, self._seconds_left())
                if reason is None:
                    return entry
                self._discard(entry, reason)
        except BaseException:
            self.give_back()
            raise

    def _seconds_left(self) -> float:
        return _FOREVER if self._limit is None else self._limit - self._clock()

    def _obtain(self) -> None:
        """Take a place in the line, and wait for what comes."""
        if self._parts.shared.timeout == 0 and self._reserve():
            return
        waiter, began = self._waiter, self._began
        if waiter is None:
            began = self._clock()
            waiter = self._join(began)
        elif waiter.granted is not None:
            self.waited_seconds = self._clock() - began
        granted = waiter.granted
        if granted is None:
            granted = self._wait(waiter, began)
        if isinstance(granted, Refusal):
            raise granted.error
        self._slot = granted is SLOT
        self._entry = granted if isinstance(granted, PooledEntry) else None
        self._waiter = None
        self._served = True

    def _reserve(self) -> bool:
        """Take a slot for a caller who will wait for nobody: he opens for himself."""
        with self._door, self._lock:
            # Here, and not returned: interrupted in between, the slot would be lost.
            self._slot = self._parts.opener.outage is None and self._line.reserve()
        return self._slot

    def _join(self, now: float) -> Waiter:
        opener = self._parts.opener
        self._gate = gate = threading.Lock()
        # Held until something is handed over.
        gate.acquire()
        since = self._began if self._served else now
        self._waiter = waiter = Waiter(
            gate.release, since, opener.context(), threading.get_ident(), current_label()
        )
        with self._door, self._lock:
            admitted = opener.admit_locked(waiter, now, again=self._served)
        if admitted is False:
            raise self._parts.refusals.line_full()
        if admitted is not True:
            raise self._parts.refusals.away(admitted)
        opener.launch()
        return waiter

    def _wait(self, waiter: Waiter, began: float) -> Grant:
        until = math.inf if self._limit is None else self._limit
        if not self._is_handed_over(until, began):
            self._parts.reclaim()
        granted = waiter.granted
        if granted is None:
            # Too late, unless something has been handed over in this very moment.
            with self._door, self._lock:
                granted = self._line.leave(waiter)
        waited = self._clock() - self._began
        if granted is None:
            self._look_at_the_end(until, began)
            cited = cited_setting(self._limit)
            raise self._parts.opener.timed_out(waited, cut=self._cut, setting=cited)
        if self._counted:
            with self._door, self._lock:
                self._uncount_holder_locked()
        self.waited_seconds = waited
        return granted

    def _is_handed_over(self, until: float, began: float) -> bool:
        """Wait for what is handed over; return whether it came."""
        # Thousands of greenlets that wait must not wake for nothing: it would cost as much again.
        # Whoever does not wait at all, as with `deadline(0)`, is in nobody's way.
        if until > began and self._parts.seems_to_hold():
            if self._gate_opens(min(until, began + LONG_WAIT)):
                return True
            if self._parts.holds_already():
                self._count_holder()
        return self._gate_opens(until)

    def _look_at_the_end(self, until: float, began: float) -> None:
        """See whether this caller, who gets nothing, has come to hold a connection meanwhile.

        Another thread of the same request may have been served while he waited.
        """
        if self._counted or until <= began + LONG_WAIT:
            return
        if self._parts.seems_to_hold() and self._parts.holds_already():
            self._count_holder()

    def _gate_opens(self, until: float) -> bool:
        gate, stopped = cast("threading.Lock", self._gate), current_stopped()
        longest = _FOREVER if stopped is None else SLICE
        while (left := until - self._clock()) > 0:
            if gate.acquire(timeout=min(left, longest)):
                return True
            if stopped is not None and stopped():
                break
        return False

    def _count_holder(self) -> None:
        """Note for the errors of others that this caller waits beside what he holds."""
        with self._door, self._lock:
            self._parts.shared.stats.waiting_holders += 1
            self._counted = True

    def _uncount_holder_locked(self) -> None:
        if self._counted:
            # No call between these two lines: an interrupt there would count twice.
            self._parts.shared.stats.waiting_holders -= 1
            self._counted = False

    def _discard(self, entry: PooledEntry, reason: str) -> None:
        """Part with a connection that must not be handed out, but keep our turn."""
        opener = self._parts.opener
        self._served = True
        # Before it is so: by the entry's state `give_back` sees whether it is.
        self._record, self._slot = (entry.record, True) if opener.callers_open else (None, False)
        opener.replace(entry, reason)
        self._entry, self._touched = None, False

    def _open(self) -> PooledEntry | None:
        """Open in the slot in hand, here and now; None if the pool is paused: then he waits."""
        if self._line.paused is not None:
            self._leave_slot()
            return None
        began = self._clock()
        # Not ours any more, whatever comes: where that fails, it is for whoever opens next.
        record, self._record = self._record, None
        # In hand before it counts as a lease: by its state one sees whether it does.
        try:
            self._entry = entry = self._parts.health.open(record)
        except Exception as error:
            if self._line.paused is not None:
                # The database is being worked on: what that says is over when he is served.
                return None
            told = self._parts.opener.explain(error, began)
            if told is error:
                raise
            raise told from error
        now = self._clock()
        with self._door, self._lock:
            self._line.opened(entry, now)
            self._slot = False
            self._parts.health.opened_locked(entry)
            self._parts.shared.stats.connected(now - began)
        self._parts.opener.caller_opened()
        if self._line.paused is not None:
            self._discard(entry, "paused")
            return None
        return entry

    def _leave_slot(self) -> None:
        """Give the slot in hand back, and wait at the head of the line for the end of a pause."""
        with self._door, self._lock:
            if self._line.paused is not None:
                # No call between these two lines: an interrupt there would lose the slot, or give
                # it back twice. Nobody is to be served with it.
                self._line.opening -= 1
                self._slot = False
        self._served = True

    def give_back(self) -> None:
        """Pass on whatever is in hand: somebody may be waiting for it."""
        opened, passed_on = self._entry, False
        granted: Grant | None = opened
        if self._slot and (opened is None or opened.state is not LEASED):
            granted = SLOT
        with self._door, self._lock:
            self._uncount_holder_locked()
            if self._waiter is not None:
                # Handed over, but perhaps not yet noted here.
                granted = self._line.leave(self._waiter)
            if granted is SLOT or not self._touched:
                passed_on = self._line.give_back(granted, self._clock())
            self._entry = self._waiter = None
            self._slot = False
        # Also one that was given up as unreceived, and so has no slot any more.
        if isinstance(granted, PooledEntry) and not passed_on:
            self._parts.health.close(granted, "interrupted")
        elif opened is not None and opened.state is NEW:
            self._parts.health.close_foreign(opened)
        self._parts.health.settled()
        self._parts.opener.replan()
