"""`ManagedPool`: SQLAlchemy's `QueuePool` with a fair line behind it.

The seam between the line, the opener and SQLAlchemy, and (with `checks` and
`views`) the only room that touches SQLAlchemy's private names.  What it relies
on, the same in 2.0 and 2.1: `_do_get` and `_do_return_conn` are all that a
checkout and a return call; `_ConnectionRecord.get_connection` reconnects a
record whose connection is gone or outdated, *after* `_do_get` has returned and
so outside every limit of ours.  So `_do_get` returns only records that need no
reconnect, and `records` sees to those that a listener refuses.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from bisect import bisect_left
from contextvars import Context
from typing import Any, cast

from sqlalchemy.pool import ConnectionPoolEntry, Pool, PoolProxiedConnection, QueuePool
from sqlalchemy.pool.base import _ConnectionFairy, _ConnectionRecord

from . import forkmark
from .checkout import Checkout
from .checks import Checks, PooledEntry
from .connections import Connections
from .entries import GONE, LEASED
from .limits import current_label, deadline
from .line import Line
from .opener import Opener, Trouble
from .options import PoolOptions, plugin_defaults
from .records import PooledRecord
from .refusals import Refusals
from .stats import BOUNDS_SECONDS, PoolSnapshot, Stats
from .upkeep import Upkeep
from .views import IdleView

__all__ = ["ManagedPool"]

_monotonic = time.monotonic
_get_ident = threading.get_ident

_here = forkmark.here


class ManagedPool(QueuePool):
    """A `QueuePool` that serves callers in order and looks after its connections.

    Alone, with SQLAlchemy's own defaults and behaviour but for the order::

        engine = create_engine(url, poolclass=ManagedPool)

    and with everything on, as the plugin has it::

        engine = create_engine(url, poolclass=ManagedPool, **ManagedPool.plugin_arguments())

    The arguments up to `use_lifo` are those of `QueuePool`.  All times are in
    seconds; None is off.

    :param idle_timeout: close a connection that has been idle for so long.
    :param overflow_linger: keep idle connections beyond `pool_size` for so long.
    :param min_idle: never shrink below so many open connections.
    :param max_lifetime: replace a connection after so long, up to a quarter earlier at random.
    :param liveness: look at the socket of each connection that is handed out.
    :param ping_after: with `liveness`, ping a connection that was idle for so long.
    :param keepalive: ping idle connections so often.
    :param background: open connections in threads, beside those who wait.
    :param max_waiting: refuse a caller when so many wait already.
    :param outage_grace: with `background`, refuse callers once an outage has lasted so long.
    :param ping_timeout: how long a ping may take.
    :param pool_name: the name in errors and statistics.
    """

    # Set for each pool in `_start`; declared here because SQLAlchemy's own suite
    # compares what `recreate` makes with the original, attribute by attribute.
    _line: Line[PooledEntry] = cast("Line[PooledEntry]", None)
    _stats: Stats = cast("Stats", None)
    _connections: Connections = cast("Connections", None)
    _refusals: Refusals = cast("Refusals", None)
    _opener: Opener = cast("Opener", None)
    _upkeep: Upkeep = cast("Upkeep", None)
    _retired = False
    _disposed_by: int | None = None

    # Guards the line, the statistics, the husks and the opener's state.  Held for
    # a few microseconds, never during I/O, a wait or the start of a thread.
    # Reentrant, because the collector may return a connection inside any of them.
    _overflow_lock: Any

    def __init__(  # noqa: PLR0917 - create_engine finds arguments by their position
        self,
        creator: Any,
        pool_size: int = 5,
        max_overflow: int = 10,
        timeout: float | None = 30.0,
        use_lifo: bool = False,
        idle_timeout: float | None = None,
        overflow_linger: float = 0.0,
        min_idle: int = 0,
        max_lifetime: float | None = None,
        liveness: bool = False,
        ping_after: float = 30.0,
        keepalive: float | None = None,
        background: bool = False,
        max_waiting: int | None = None,
        outage_grace: float | None = None,
        ping_timeout: float = 2.0,
        pool_name: str | None = None,
        **kw: Any,
    ) -> None:
        Pool.__init__(self, creator, **kw)
        self._max_overflow = -1 if pool_size == 0 else max_overflow
        self._timeout = timeout  # type: ignore[assignment]
        self._options = PoolOptions(
            idle_timeout=idle_timeout,
            overflow_linger=overflow_linger,
            min_idle=min_idle,
            max_lifetime=max_lifetime,
            liveness=liveness,
            ping_after=ping_after,
            ping_timeout=ping_timeout,
            keepalive=keepalive,
            background=background,
            max_waiting=max_waiting,
            outage_grace=outage_grace,
            pool_name=pool_name,
        )
        self.opens_in_background = background
        self._pool = IdleView(self, pool_size, use_lifo)
        self._start()
        forkmark.watch(self)

    @staticmethod
    def plugin_arguments(pool_size: int = 5, max_overflow: int = 10) -> dict[str, Any]:
        """Return the plugin's defaults under the names that `create_engine` has for them."""
        arguments = plugin_defaults(pool_size, max_overflow)
        arguments["pool_timeout"] = arguments.pop("timeout")
        arguments["pool_use_lifo"] = arguments.pop("use_lifo")
        return arguments

    def _start(self) -> None:
        """Begin with nothing: no connection, nobody waiting, every lock new."""
        options, size = self._options, self._pool.maxsize
        self._overflow_lock = lock = threading.RLock()
        self._stats = Stats()
        self._line = line = Line[PooledEntry](
            size or None,
            None if self._max_overflow < 0 else size + self._max_overflow,
            lifo=self._pool.use_lifo,
            linger=options.overflow_linger > 0,
            stamped=options.has_upkeep,
            slots_to_waiters=not options.background,
            max_waiting=options.max_waiting,
        )
        self._connections = Connections(self, Checks(options, self._pre_ping, self._stats, lock))
        self._refusals = Refusals(self)
        self._opener = Opener(
            self._connections,
            self._refusals,
            line,
            lock,
            self._stats,
            clock=_monotonic,
            min_idle=options.min_idle,
            grace=options.outage_grace,
        )
        self._upkeep = Upkeep(self._connections, line, lock, options, _monotonic)

    # Checkout

    def connect(self) -> PoolProxiedConnection:
        """Check a connection out."""
        try:
            if self._pre_ping or self.dispatch.checkout:
                return self._connect_with_listeners()
            # What `_checkout` does where nobody listens, without its loop.
            fairy = _ConnectionRecord.checkout(self)
            fairy._counter = 1
            return fairy
        except Exception:
            raise
        except BaseException:
            self._reclaim_from_killed()
            raise

    def _connect_with_listeners(self) -> PoolProxiedConnection:
        # A listener may refuse what it is shown: the wait for another one counts too.
        timeout = self._timeout if self.opens_in_background else None
        if timeout is None:
            return _ConnectionFairy._checkout(self)
        with deadline(timeout):
            return _ConnectionFairy._checkout(self)

    def _create_connection(self) -> ConnectionPoolEntry:
        return PooledRecord(self)

    def _do_get(self) -> ConnectionPoolEntry:
        if not _here[0]:
            forkmark.leave_parent()
        now = _monotonic()
        entry = self._line.take(now)
        if entry is not None:
            entry.holder = _get_ident()
            entry.label = current_label()
            record, speaks, closed = entry.record, entry.speaks, entry.closed
            if (
                now < entry.check_at
                and (closed is None or not closed())
                and (speaks is None or not speaks(0, 1))
                and record.dbapi_connection is not None
                and record.starttime >= self._invalidate_time
                and record.starttime >= record._soft_invalidate_time
                and self._recycle < 0
            ):
                return record  # type: ignore[no-any-return]
        return self._get_slowly(entry, now)

    def _get_slowly(self, taken: PooledEntry | None, began: float) -> ConnectionPoolEntry:
        checkout = Checkout(self, taken, began)
        entry = checkout.run()
        entry.holder = _get_ident()
        entry.label = current_label()
        if self._retired and checkout.waited:
            # Nobody would ever close it if it stayed: the engine has a new pool.
            entry.expires_at = 0.0
        if checkout.waited:
            with self._overflow_lock:
                self._stats.waited_for(_monotonic() - began)
        return cast("ConnectionPoolEntry", entry.record)

    def _reclaim_from_killed(self) -> None:
        """Take back what this thread was handed and SQLAlchemy does not know of yet."""
        me = _get_ident()
        with self._overflow_lock:
            mine = [
                each
                for each in self._line.members
                if each.state is LEASED and each.holder == me and each.record.fairy_ref is None
            ]
        for entry in mine:
            self._do_return_conn(entry.record)

    # Return

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        now = _monotonic()
        entry: PooledEntry = record.dbpool_entry  # type: ignore[attr-defined]
        if (
            record.dbapi_connection is None
            or entry.state is not LEASED
            or now >= entry.expires_at
            or entry.record.starttime != entry.started
        ):
            self._return(record, entry, now)
            return
        if not entry.suspect:
            check_at = now + entry.patience
            entry.check_at = check_at if check_at < entry.expires_at else entry.expires_at
        held = now - entry.leased_at
        with self._overflow_lock:
            hold = self._stats.hold
            hold.counts[bisect_left(BOUNDS_SECONDS, held)] += 1
            hold.sum_seconds += held
            kept = self._line.put(entry, now)
        if not kept:
            self._connections.close_entry(entry, "surplus")
        elif not self._upkeep.is_due:
            self._upkeep.schedule()

    # SQLAlchemy calls the one on a return, the other on a detach; the detour costs.
    _return_conn = _do_return_conn

    def _return(self, record: Any, entry: PooledEntry, now: float) -> None:
        """Take a connection back that must not be handed to the next one as it is."""
        if entry.pid != os.getpid():
            forkmark.inherit(entry)
        elif entry.state is not LEASED:
            record.close()  # disowned: the pool was disposed of in the meantime
        elif record.dbapi_connection is None:
            if entry.look is not None:
                entry.look.close()
            with self._overflow_lock:
                self._stats.hold.observe(now - entry.leased_at)
                self._stats.closed["invalidated"] += 1
                self._connections.keep_husk_locked(record)
                self._line.lost(entry)
            self.replan()
        elif record.starttime != entry.started:
            self._connections.readmit(entry, now)
            self._do_return_conn(record)
        else:
            with self._overflow_lock:
                self._stats.hold.observe(now - entry.leased_at)
            self._connections.close_entry(entry, "disposed" if self._retired else "lifetime")

    def replan(self) -> None:
        """Start openings, if a slot that became free is wanted."""
        if self.opens_in_background:
            with self._overflow_lock:
                contexts = self._opener.plan_locked(_monotonic())
            self._opener.launch(contexts)

    def plan_for_caller_locked(self, now: float) -> list[Context]:
        """Plan openings for a caller who has just joined the line; `launch` the result."""
        return self._opener.asked_locked(now) if self.opens_in_background else []

    def launch(self, contexts: list[Context]) -> None:
        """Start the openings that were planned."""
        if contexts:
            self._opener.launch(contexts)

    def before_giving_up(self) -> None:
        """Take back what nobody holds: it may serve the caller whose time is over."""
        with self._overflow_lock:
            self._stats.strays += self._upkeep.reclaim_strays_locked(_monotonic())

    # Life

    def abandon(self) -> None:
        """Forget, without a byte on its socket, whatever the parent process had."""
        for entry in list(self._line.members):
            # What is still checked out must not come back into the new line.
            entry.state = GONE
        forkmark.inherit((self._line, self._opener, *self._connections.husks))
        self._start()

    def warm(self) -> None:
        """Open connections until `min_idle` are open."""
        while True:
            with self._overflow_lock:
                line = self._line
                if line.total >= self._options.min_idle or not line.reserve():
                    return
            checkout = Checkout(self, None, _monotonic(), slot=True)
            self._do_return_conn(checkout.run().record)

    def dispose(self) -> None:
        """Close what is idle."""
        if not _here[0]:
            forkmark.leave_parent()
        self._disposed_by = _get_ident()
        with self._overflow_lock:
            doomed = [each for each in list(self._line.idle) if self._line.hold(each)]
            self._connections.husks.clear()
            # Else each one that is closed would be replaced at once.
            self._opener.rest_locked()
        for entry in doomed:
            self._connections.close_entry(entry, "disposed")
        self._upkeep.cancel()
        self.logger.info("Pool disposed. %s", self.status())

    def recreate(self) -> ManagedPool:
        """Make a new pool of the same kind; after `dispose`, in the place of this one."""
        self.logger.info("Pool recreating")
        if self._disposed_by == _get_ident():
            self._retire()
        return self.__class__(
            self._creator,
            pool_size=self._pool.maxsize,
            max_overflow=self._max_overflow,
            timeout=self._timeout,
            use_lifo=self._pool.use_lifo,
            pre_ping=self._pre_ping,
            recycle=self._recycle,
            echo=self.echo,
            logging_name=self._orig_logging_name,
            reset_on_return=self._reset_on_return,
            _dispatch=self.dispatch,
            dialect=self._dialect,
            **dataclasses.asdict(self._options),
        )

    def _retire(self) -> None:
        """Serve those who still wait with fresh connections, and keep none."""
        self._retired = self._opener.retired = True
        with self._overflow_lock:
            self._stats.disowned += self._line.leased
            self._line.disown()
            if self.opens_in_background:
                self._line.linger, self._line.keep = False, 0
        self.replan()
        self.dispose()

    @property
    def trouble(self) -> Trouble | None:
        """What keeps openings from succeeding, as far as the pool knows."""
        return self._opener.trouble

    # Numbers

    def checkedout(self) -> int:
        """Count the connections that are checked out.

        Not one that is being opened, or that was just opened in the background and
        has had no holder yet.
        """
        with self._overflow_lock:
            return sum(each.state is LEASED and each.holder != 0 for each in self._line.members)

    @property
    def _overflow(self) -> int:  # type: ignore[override]
        return self._line.total + len(self._connections.husks) - self._pool.maxsize

    def snapshot(self) -> PoolSnapshot:
        """Return what the pool has counted, and who holds what, as of now."""
        with self._overflow_lock:
            trouble = self._opener.trouble
            return self._stats.frozen(
                name=self._options.pool_name or "default",
                size=self._pool.maxsize,
                line=self._line,
                outage_since=None if trouble is None else trouble.since,
                now=_monotonic(),
                holders=self._refusals.holders_locked(),
            )
