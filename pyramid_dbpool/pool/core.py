"""A pool's working parts, put together under one lock: all of it but SQLAlchemy's face.

Data flows one way: `ManagedPool` asks its `Service`, a service asks its parts, and
only `Connections` and `Refusals` look back, at SQLAlchemy's side of the pool, for
its records and its dialect.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from typing import TYPE_CHECKING

from ..drivers.connect_failures import ConnectFailure
from . import inheritance
from .checkout import Checkout
from .connections import Connections
from .entries import LEASED
from .health import Checks, PooledEntry
from .holders import named
from .holds import Holds
from .housekeeper import WeakCall, housekeeper
from .labels import current_label
from .line import Line
from .opener import Opener
from .options import PoolOptions
from .refusals import Refusals
from .stats import PoolSnapshot, Stats
from .upkeep import Upkeep

if TYPE_CHECKING:
    from .managed import ManagedPool


class Service:
    """Serve the callers of one pool in one process.

    :param source: SQLAlchemy's side of the pool.
    :param size: how many connections to keep; 0: all.
    :param overflow: how many more there may be; below 0: no limit.
    :param timeout: how long a caller waits, in seconds; None: for ever.
    """

    def __init__(
        self,
        source: ManagedPool,
        options: PoolOptions,
        *,
        size: int,
        overflow: int,
        timeout: float | None,
        lifo: bool,
        pre_ping: bool,
    ) -> None:
        self.options, self.size, self.timeout = options, size, timeout
        # Guards the line, the statistics, the husks and the opener's state.  Held for
        # a few microseconds, never during I/O or a wait, but that for the housekeeper's
        # thread to start.
        # Reentrant, because the collector may return a connection inside any of them.
        self.lock = threading.RLock()
        self.stats = Stats()
        self.line = Line[PooledEntry](
            size or None,
            None if overflow < 0 else size + overflow,
            lifo=lifo,
            linger=options.overflow_linger > 0,
            stamped=options.has_upkeep,
            slots_to_waiters=not options.background,
            max_waiting=options.max_waiting,
            freed_late=WeakCall(self._replan_soon),
        )
        checks = Checks(options, pre_ping, self.stats, self.lock)
        self.connections = Connections(self, source, checks)
        self.refusals = Refusals(self, source)
        self.opener = self._make_opener()
        self.upkeep = Upkeep(self.connections, self.line, self.lock, options, time.monotonic)
        self.holds = Holds(
            self.line,
            self.lock,
            clock=time.monotonic,
            limit=options.hold_warning,
            pool_name=options.pool_name,
        )

    def _make_opener(self) -> Opener:
        return Opener(
            self.connections,
            self.refusals,
            self.line,
            self.lock,
            self.stats,
            clock=time.monotonic,
            min_idle=self.options.min_idle,
            grace=self.options.outage_grace,
            pool_name=self.options.pool_name,
        )

    # Openings

    def replan(self) -> None:
        """Start openings, if a slot that became free is wanted."""
        if self.options.background:
            with self.lock:
                self.opener.plan_locked(time.monotonic())
            self.opener.openings.launch()

    def _replan_soon(self) -> None:
        # Not here: whoever does something with the line has not finished.
        housekeeper().call_at(time.monotonic(), WeakCall(self.replan))

    def explain_failure(self, error: Exception, began: float) -> BaseException:
        """Note that a caller could not open for himself; return what he is told."""
        now, kind = time.monotonic(), self.refusals.classify(error)
        if kind is None:
            return error
        if kind is ConnectFailure.CONFIGURATION:
            return self.refusals.refusal(error, kind)
        with self.lock:
            self.opener.in_trouble_locked(kind, error, began)
        self.opener.outages.write()
        return self.refusals.timed_out(now - began)

    # Leases

    def check_out(self, taken: PooledEntry | None, began: float) -> PooledEntry:
        """Serve a caller who could not be handed `taken` at once, or raise."""
        if began >= self.holds.search_at:
            self.holds.see_second(threading.get_ident(), current_label(), began)
        checkout = Checkout(self, taken, began)
        entry = checkout.run()
        entry.label = current_label()
        if checkout.waited_seconds is not None:
            if self.line.retired:
                # Nobody would ever close it if it stayed: the engine has a new pool.
                entry.expires_at = 0.0
            with self.lock:
                self.stats.waited_for(checkout.waited_seconds)
        return entry

    def open_missing(self) -> PooledEntry | None:
        """Open a connection, for the caller, if fewer than `min_idle` are open."""
        with self.lock:
            # A line that keeps none would be missing it for ever.
            wanted = 0 if self.line.retired else self.options.min_idle
            missing = self.line.total < wanted and self.line.reserve()
        return Checkout(self, None, time.monotonic(), slot=True).run() if missing else None

    def unreceived_by(self, thread: int) -> list[PooledEntry]:
        """List what this thread was handed and SQLAlchemy does not know of yet."""
        with self.lock:
            return [
                each
                for each in list(self.line.members)
                if each.state is LEASED and each.holder == thread and each.record.fairy_ref is None
            ]

    def before_giving_up(self) -> None:
        """Take back what nobody holds: it may serve the caller whose time is over."""
        with self.lock:
            self.stats.strays += self.upkeep.reclaim_strays_locked(time.monotonic())

    def take_back(self, entry: PooledEntry, now: float) -> bool:
        """Deal with a lease that comes back changed, or too late; true if it may go on."""
        record = entry.record
        if entry.pid != os.getpid():
            inheritance.inherit(entry)
        elif entry.state is not LEASED:
            record.close()  # disowned: the pool was disposed of in the meantime
        elif record.dbapi_connection is None:
            self._lost_by_caller(entry, now)
        elif record.starttime != entry.started:
            self.connections.readmit(entry, now)
            return True
        else:
            with self.lock:
                self.stats.hold.observe(now - entry.leased_at)
            self.connections.close_entry(entry, "disposed" if self.line.retired else "lifetime")
        return False

    def _lost_by_caller(self, entry: PooledEntry, now: float) -> None:
        """Count a lease whose connection its caller has invalidated; its record is a husk."""
        entry.stop_looking()
        with self.lock:
            self.stats.hold.observe(now - entry.leased_at)
            self.stats.closed["invalidated"] += 1
            self.connections.keep_husk_locked(entry.record)
            self.line.lost(entry)
        self.replan()

    # Life

    def close_idle(self) -> None:
        """Close what is idle, and keep no minimum open until somebody asks again."""
        with self.lock:
            doomed = list(self.line.idle)
            self.connections.husks.clear()
            # Else each one that is closed would be replaced at once.
            self.opener.rest_locked()
        for entry in doomed:
            # Held one at a time: what an interrupt leaves held is lost.
            with self.lock:
                mine = self.line.hold(entry)
            if mine:
                self.connections.close_held([(entry, "disposed")])
        self.upkeep.cancel()
        self.holds.cancel()

    def retire(self) -> None:
        """Serve those who still wait with fresh connections, and keep none."""
        with self.lock:
            self.stats.disowned += self.line.leased
            # As QueuePool, a pool without helpers works for whoever goes on with it.
            self.line.retire(keeps=not self.options.background)
        self.replan()

    # Numbers

    def checked_out(self) -> int:
        """Count the connections that a caller holds."""
        with self.lock:
            return sum(
                each.state is LEASED and each.holder != 0 for each in list(self.line.members)
            )

    def overflow(self) -> int:
        """Count the records beyond the size, as QueuePool does: negative while there are fewer."""
        return self.line.total + len(self.connections.husks) - self.size

    def snapshot(self) -> PoolSnapshot:
        """Return what was counted, and who holds what, as of now."""
        with self.lock:
            trouble = self.opener.trouble
            leases = self.refusals.leases_locked()
            numbers = self.stats.frozen(
                name=self.options.pool_name or "default",
                size=self.size,
                line=self.line,
                outage_since=None if trouble is None else trouble.since,
                now=time.monotonic(),
            )
        return dataclasses.replace(numbers, holders=named(leases))
