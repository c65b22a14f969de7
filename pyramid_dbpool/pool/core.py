"""The parts of a pool, put together: all of it but SQLAlchemy's face.

Data flows one way: `ManagedPool` asks its `Core`, the core asks its parts, and what a part
needs of SQLAlchemy's side it asks the `Source`.
"""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Callable
from os import getpid
from typing import Any, NoReturn

from ..clock import monotonic
from ..drivers.connect_failures import ConnectFailure
from ..errors import DatabaseUnavailable, PoolError, PoolTimeout
from . import inheritance
from .checkout import Checkout, CheckoutParts, in_full_line
from .commands import Commands
from .entry import PooledEntry, Record
from .estimates import seconds_to_wait
from .health import Health
from .housekeeper import housekeeper
from .labels import current_label
from .leases import Lease, is_with_a_holder, leases, named, worker_kind
from .line import GONE, LEASED, Line, Pause
from .opener import BackgroundOpener, CallersOpen
from .options import PoolOptions
from .outage import Outage
from .refusals import Refusals
from .shared import Door, Shared, Source
from .stats import Holder, PoolSnapshot, Stats
from .upkeep import Upkeep
from .view import PoolView, seen_locked, view_of
from .watch import LeaseWatch


class Core:
    """Serve the callers of one pool in one process.

    :param source: where connections come from.
    :param let_in: takes a record back; called for those that waited at the door.
    :param size: how many connections to keep; 0: all.
    :param overflow: how many more there may be; below 0: no limit.
    :param timeout: how long a caller waits, in seconds; None: for ever.
    :param pause: since when and by whom the pool in whose place this one comes is paused.
    """

    def __init__(
        self,
        source: Source[Any],
        let_in: Callable[[Record], object],
        options: PoolOptions,
        *,
        size: int,
        overflow: int,
        timeout: float | None,
        lifo: bool,
        pre_ping: bool,
        pause: Pause | None = None,
    ) -> None:
        # The mode is decided here, and here only.
        opener_class = BackgroundOpener if options.background else CallersOpen
        line = self.line = _make_line(
            options, size, overflow, lifo=lifo, slots_to_waiters=opener_class.callers_open
        )
        if pause is not None:
            line.pause(pause)
        shared = self.shared = _share(
            source, let_in, options, line, sizes=(size, max(overflow, -1)), timeout=timeout
        )
        self.stats, self.options = shared.stats, options
        self.lock, self.door, self.source = shared.lock, shared.door, source
        self.watch = LeaseWatch(shared)
        self.health = Health(
            shared,
            pre_ping=pre_ping,
            examines=not opener_class.callers_open,
            freed=self._replan,
            opened=self.watch.begin,
            answered=self._answered,
            settled=self.look_after,
        )
        self._refusals = refusals = Refusals(shared)
        self.opener = opener_class(shared, self.health, refusals)
        self.upkeep = Upkeep(shared, self.health)
        self.commands = Commands(shared, self.health, self.opener)
        self._checkout_parts = CheckoutParts(
            shared,
            self.health,
            refusals,
            self.opener,
            seems_to_hold=self.watch.seems_to_hold,
            holds_already=self.watch.holds_already,
            reclaim=self.upkeep.reclaim,
        )

    def _replan(self) -> None:
        self.opener.replan()

    def _answered(self) -> None:
        self.opener.answered()

    def look_after(self) -> None:
        """Have the timer call when the next thing is due."""
        self.upkeep.schedule()
        self.watch.begin()

    # Leases

    def check_out(self, taken: PooledEntry | None, began: float) -> PooledEntry:
        """Serve a caller who could not be handed `taken` at once, or raise."""
        if self.door.is_inside():
            self._refuse_inside(taken)
        parts = self._checkout_parts
        if taken is None:
            entry, waited = in_full_line(parts, began)
        else:
            entry, waited = Checkout(parts, taken, began).served()
        entry.label = current_label()
        if waited is not None:
            if self.line.replaced:
                # Nobody would ever close it if it stayed: the engine has a new pool.
                entry.expires_at = 0.0
            try:
                with self.lock:
                    self.stats.waited_for(waited)
            finally:
                if self.door.late:
                    self.door.let_in()
        return entry

    def _refuse_inside(self, taken: PooledEntry | None = None) -> NoReturn:
        """Refuse whoever would have to wait or to open something while he has the lock.

        A signal's handler or a finalizer, which came in the middle of what its own thread does
        there: all others would wait for it, and it for what they might give back.
        """
        if taken is not None:
            # It was to be examined, and still is.
            taken.doubt()
            taken.holder = 0
            self.door.put_off(taken.record)
        self.door.call_later(self._count_refused_inside)
        raise self._refusals.inside()

    def _count_refused_inside(self) -> None:
        with self.door, self.lock:
            self.stats.refused["inside"] += 1

    def check_out_again(self, gone: PooledEntry) -> PooledEntry:
        """Serve a caller whose connection was found to be gone, at the head of the line."""
        if self.door.is_inside():
            self._refuse_inside()
        gone.stop_looking()
        with self.door, self.lock:
            self.stats.closed["invalidated"] += 1
            # Before the wait: in a pool of one it is the only slot there is.
            self.line.lost(gone)
        self.opener.replan()
        entry = Checkout(self._checkout_parts, None, self.shared.clock(), again=True).run()
        entry.label = current_label()
        return entry

    def open_missing(self) -> PooledEntry | None:
        """Open a connection, for the caller, if fewer than `min_idle` are open."""
        if self.door.is_inside():
            self._refuse_inside()
        with self.door, self.lock:
            # A line that keeps none would be missing it for ever.
            wanted = 0 if self.line.replaced else self.options.min_idle
            missing = self.line.total < wanted and self.line.reserve()
        if not missing:
            return None
        return Checkout(self._checkout_parts, None, self.shared.clock(), slot=True).run()

    def unreceived_by(self, thread: int) -> list[PooledEntry]:
        """List what this thread was handed and never received: it was killed before."""
        with self.door, self.lock:
            return [
                each
                for each in self.line.members
                if each.state is LEASED
                and not self.source.is_received(each.record)
                # Last: a return, which the collector may make in between, takes the name away.
                and each.holder == thread
            ]

    def take_changed(self, entry: PooledEntry, now: float) -> bool:
        """Deal with a lease that comes back changed, or too late; true if it may go on."""
        if entry.pid != getpid():
            inheritance.inherit(entry)
            return False
        # A pool that was disposed of has nobody else to leave its lock.
        with self.door:
            self.watch.came_back(entry)
            return self._take_changed(entry, now)

    def _take_changed(self, entry: PooledEntry, now: float) -> bool:
        record = entry.record
        if entry.state is not LEASED:
            self.health.close_foreign(entry)  # the pool was disposed of in the meantime
        elif self.source.connection(record) is None:
            self._lost_by_caller(entry, now)
        elif self.source.connection(record) is not entry.connection:
            self.health.replaced(entry)
            return True
        else:
            with self.door, self.lock:
                self.stats.hold.observe(now - entry.leased_at)
            aged = "retired" if entry.condemned else "lifetime"
            self.health.close(entry, "disposed" if self.line.replaced else aged)
        return False

    def _lost_by_caller(self, entry: PooledEntry, now: float) -> None:
        """Count a lease whose connection its caller has invalidated; its record is empty."""
        entry.stop_looking()
        with self.door, self.lock:
            self.stats.hold.observe(now - entry.leased_at)
            self.stats.closed["invalidated"] += 1
            self.health.keep_empty_locked(entry.record)
            self.line.lost(entry)
        self.opener.replan()

    # Life

    def close_idle(self) -> None:
        """Close what is idle, and keep no minimum open until somebody asks again."""
        if self.door.is_inside():
            self.door.call_later(self.close_idle)
            return
        with self.door, self.lock:
            doomed = list(self.line.idle)
            self.shared.empties.clear()
            # Each one that is closed would be replaced at once.
            self.opener.rest_locked()
        for entry in doomed:
            # Held one at a time: what an interrupt leaves held is lost.
            with self.door, self.lock:
                mine = self.line.hold(entry)
            if mine:
                self.health.close_held([(entry, "disposed")])
        self.upkeep.cancel()
        self.watch.cancel()

    def make_way(self) -> None:
        """Serve those who still wait with fresh connections, and keep none."""
        if self.door.is_inside():
            self.door.call_later(self.make_way)
            return
        with self.door, self.lock:
            self.stats.disowned += self.line.leased
            # As QueuePool, a pool without helpers works for whoever goes on with it.
            self.line.make_way(keeps=self.opener.callers_open)
        self.opener.replan()

    def disown_all(self) -> None:
        """Forget, without a byte on its socket, what the parent process has."""
        for entry in list(self.line.members):
            # What is still checked out must not come back into the new line.
            entry.state = GONE
        inheritance.inherit(self.line, self.opener, *self.shared.empties)

    # Numbers

    def count_on_from(self, former: Core) -> None:
        """Count on from where the pool ended in whose place this one is."""
        numbers = former.snapshot()
        self.stats.count_on_from(former.stats)
        # With the one that lasts: here it will be another one.
        self.stats.outage_seconds = numbers.outage_seconds_total

    def ask_idle(self) -> bool:
        """Ask the server on what is idle; true as soon as one answers."""
        return any(self.health.examine(each) for each in list(self.line.idle))

    def set_max_overflow(self, count: int) -> None:
        """Allow so many connections beyond the size, and tell nobody; below 0: no limit."""
        with self.door, self.lock:
            capacity = None if count < 0 else self.shared.size + count
            self.line.resize(self.line.keep, capacity)
            self.shared.sizes = self.shared.size, max(count, -1)
        self.opener.replan()

    def refused_by_pause(self) -> PoolTimeout | None:
        """Make the error of whoever would look at the server of a paused pool; None: he may."""
        return self._refusals.paused()

    @property
    def outage(self) -> Outage | None:
        """What keeps openings from succeeding, as far as the pool knows."""
        return self.opener.outage

    def retry_after(self, error: PoolError) -> int | None:
        """Say after how many seconds a caller who was refused may come again.

        None: only a person can help.
        """
        refused_login = isinstance(error, DatabaseUnavailable) and (
            self.source.classify(error) is ConnectFailure.CONFIGURATION
        )
        if refused_login:
            return None
        # Without names: those are made by the app's own code, and for each who is refused.
        numbers, held = self._numbers()
        holders = tuple(Holder("", each.held_seconds) for each in held)
        return seconds_to_wait(dataclasses.replace(numbers, holders=holders))

    def checked_out(self) -> int:
        """Count the connections that a caller holds."""
        with self.door, self.lock:
            return sum(map(is_with_a_holder, self.line.members))

    def snapshot(self) -> PoolSnapshot:
        """Return what was counted, and who holds what, as of now."""
        numbers, held = self._numbers()
        return dataclasses.replace(numbers, holders=named(held))

    def view(self, *, stacks: bool) -> PoolView:
        """Return the same, with who waits, and where in the code each of them is."""
        with self.door, self.lock:
            now = self.shared.clock()
            numbers, seen = self._numbers_locked(now), seen_locked(self.line, now)
        return view_of(numbers, seen, stacks=stacks)

    def _numbers(self) -> tuple[PoolSnapshot, list[Lease]]:
        with self.door, self.lock:
            now = self.shared.clock()
            return self._numbers_locked(now), leases(self.line, now)

    def _numbers_locked(self, now: float) -> PoolSnapshot:
        outage = self.outage
        return self.stats.frozen(
            name=self.options.pool_name or "default",
            size=self.shared.size,
            line=self.line,
            outage_since=None if outage is None else outage.since,
            now=now,
        )


def _make_line(
    options: PoolOptions, size: int, overflow: int, *, lifo: bool, slots_to_waiters: bool
) -> Line[PooledEntry]:
    return Line[PooledEntry](
        size or None,
        None if overflow < 0 else size + overflow,
        lifo=lifo,
        linger=options.overflow_linger > 0,
        stamped=options.has_upkeep,
        slots_to_waiters=slots_to_waiters,
        max_waiting=options.max_waiting,
    )


def _share(
    source: Source[Any],
    let_in: Callable[[Record], object],
    options: PoolOptions,
    line: Line[PooledEntry],
    *,
    sizes: tuple[int, int],
    timeout: float | None,
) -> Shared:
    # Reentrant only so that the door can tell whether this thread has it.
    lock: Any = threading.RLock()
    return Shared(
        lock=lock,
        door=Door(_tells_who_cannot_wait(lock), let_in),
        line=line,
        stats=Stats(),
        options=options,
        source=source,
        clock=monotonic,
        timer=housekeeper(),
        sizes=sizes,
        timeout=timeout,
    )


def _tells_who_cannot_wait(lock: Any) -> Callable[[], bool]:
    """Return what tells whether this thread has the lock, or could not wait for it.

    That is gevent's hub while a greenlet has the lock, and has the timer's thread started: it
    raises there, and what the collector returns in the hub just then would be lost.
    """
    has_it: Callable[[], bool] = lock._is_owned
    gevent: Any = sys.modules.get("gevent")
    if gevent is None or worker_kind() == "thread":
        return has_it

    def cannot_wait() -> bool:
        if has_it() or gevent.getcurrent() is not gevent.get_hub():
            return has_it()
        free = lock.acquire(blocking=False)
        if free:
            lock.release()
        return not free

    return cannot_wait
