"""`ManagedPool`: SQLAlchemy's `QueuePool` with a fair line behind it.

The seam between SQLAlchemy and a pool's `Core`, and the only module here that touches
SQLAlchemy's private names.  What it relies on, the same in 2.0 and 2.1, stands in `RELIED_ON`,
and above all:
`_do_get` and `_do_return_conn` are all that a checkout and a return call;
`_ConnectionRecord.get_connection` reconnects a record whose connection is gone or
outdated, *after* `_do_get` has returned and so outside every limit of ours.  So
`_do_get` returns only records that need no reconnect, and `PooledRecord` sees to those
that a listener refuses.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
import threading
import time
import weakref
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from inspect import signature
from os import getpid
from types import FrameType
from typing import Any, TypeGuard, cast

from sqlalchemy import event
from sqlalchemy import exc as sa_exc
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry, Pool, PoolProxiedConnection, QueuePool
from sqlalchemy.pool.base import (
    _ConnectionFairy,
    _ConnectionRecord,
    _finalize_fairy,
    reset_rollback,
)
from sqlalchemy.util.queue import QueueCommon

from ..clock import monotonic
from ..drivers.connect_failures import ConnectFailure, classify_connect_failure
from ..drivers.transactions import is_missed_disconnect
from ..errors import DatabaseUnavailable, PoolError, PoolTimeout
from . import inheritance
from .commands import check_sizes, checked_name
from .core import Core
from .deadlines import pool_limit
from .entry import PooledEntry
from .fork_gate import opening
from .labels import current_label
from .leases import stack
from .line import IDLE, LEASED, Pause
from .options import PoolOptions, Spelling, argument_name, plugin_defaults
from .outage import Outage
from .stats import BOUNDS_SECONDS, PoolSnapshot
from .view import PoolView

__all__ = [
    "RELIED_ON",
    "ManagedPool",
    "PooledConnection",
    "WatchedConnection",
    "is_condemned",
    "is_handed_out",
    "is_silent",
    "name_lease",
]

_here = inheritance.here
_CHECKOUT = _ConnectionRecord.checkout
_PLAIN_ROLLBACK = DefaultDialect.do_rollback
_KNOWS_CLEANUP = "is_gc_cleanup" in signature(_finalize_fairy).parameters

# SQLAlchemy's private names that this module uses or overrides (tests/pool/test_private_names.py).
RELIED_ON = frozenset(
    {
        "_ConnectionFairy",
        "_ConnectionRecord",
        "_checkin",
        "_checkin_failed",
        "_checkout",
        "_close_special",
        "_connection_record",
        "_counter",
        "_create_connection",
        "_creator",
        "_dialect",
        "_do_get",
        "_do_ping_w_event",
        "_do_return_conn",
        "_echo",
        "_finalize_fairy",
        "_invalidate",
        "_max_overflow",
        "_orig_logging_name",
        "_overflow",
        "_pool",
        "_pre_ping",
        "_recycle",
        "_reset",
        "_reset_on_return",
        "_return_conn",
        "_sqla_logger_namespace",
        "_timeout",
        # No underscore, but names of the private classes only.
        "fairy_ref",
        "finalize_callback",
        "fresh",
        "get_connection",
        "starttime",
        # 2.1's.
        *(["_finalizer"] if hasattr(_ConnectionFairy, "_finalizer") else []),
    }
)


class ManagedPool(QueuePool):
    """A `QueuePool` that serves callers in order and looks after its connections.

    Alone, with SQLAlchemy's own defaults and behaviour but for the order::

        engine = create_engine(url, poolclass=ManagedPool)

    and with everything on, as the plugin has it::

        engine = create_engine(url, poolclass=ManagedPool, **ManagedPool.plugin_arguments())

    `engine.pool.snapshot()` has its numbers.  The arguments up to `use_lifo` are those of
    `QueuePool`.  All times are in seconds; None is off.

    :param idle_timeout: close a connection that has been idle for so long.
    :param overflow_linger: keep idle connections beyond `pool_size` for so long.
    :param min_idle: never shrink below so many open connections.
    :param max_lifetime: replace a connection after so long, up to a quarter earlier at random.
    :param liveness: look at the socket of each connection that is handed out.
    :param ping_after: with `liveness`, ping a connection that was idle for so long.
    :param keepalive: ping idle connections so often.
    :param background: open connections in threads, beside those who wait.
    :param max_waiting: refuse a caller when so many wait already.
    :param outage_grace: with `background`, refuse callers once an outage has lasted so long and no
        open connection has answered.
    :param ping_timeout: how long a ping may take.
    :param hold_warning: warn in the log when a connection is held for so long, and when a
        holder of one waits for another.
    :param pool_name: the name in errors and statistics.
    :param trace_checkouts: note where in the app's code each connection is taken, for what is
        said of leaks and of long holds. A checkout takes some ten µs more.
    """

    # SQLAlchemy is silent below WARNING there; an app that logs at DEBUG would have two
    # lines for each checkout otherwise, and at INFO one at each end of a process.
    _sqla_logger_namespace = "sqlalchemy.pool.ManagedPool"
    # Set for each pool in `_start`; declared here because SQLAlchemy's own suite
    # compares what `recreate` makes with the original, attribute by attribute.
    _core: Core = cast("Core", None)
    _disposed_by: int | None = None
    # The pool in whose place this one has come, if it was paused: those who wait there still are
    # served when this one is resumed.
    _former: ManagedPool | None = None
    # The one that has come in the place of this one.
    _successor: weakref.ref[ManagedPool] | None = None
    # Called with the connection after each checkout.  A listener of SQLAlchemy's `checkout`
    # event costs more than the whole checkout: 12 µs, measured on 8.6 µs.
    on_checkout: Callable[[PoolProxiedConnection], object] | None = None
    # Called with the error of each caller who is refused.
    on_refusal: Callable[[PoolTimeout | DatabaseUnavailable], object] | None = None
    # What settings are called where this pool was configured, for errors.
    spelling: Spelling = staticmethod(argument_name)

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
        hold_warning: float | None = None,
        pool_name: str | None = None,
        trace_checkouts: bool = False,
        **kw: Any,
    ) -> None:
        # QueuePool's own sets `_overflow`, which is computed here.
        Pool.__init__(self, creator, **kw)
        if trace_checkouts and "_dispatch" not in kw:
            # A listener, for which the slower way is taken anyway: the usual one need not ask. A
            # pool that is made in the place of another one has all of its listeners.
            event.listen(self, "checkout", _note_taken)
        self._pool = IdleView(self, use_lifo)
        self._timeout = timeout  # type: ignore[assignment]  # QueuePool takes None too
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
            hold_warning=hold_warning,
            trace_checkouts=trace_checkouts,
            pool_name=pool_name,
        )
        self._start(pool_size, -1 if pool_size == 0 else max_overflow)

    @staticmethod
    def plugin_arguments(pool_size: int = 5, max_overflow: int = 10) -> dict[str, Any]:
        """Return `create_engine`'s arguments for a pool of this size, as the plugin has it."""
        arguments = plugin_defaults(pool_size, max_overflow)
        arguments["pool_timeout"] = arguments.pop("timeout")
        arguments["pool_use_lifo"] = arguments.pop("use_lifo")
        return arguments

    def _start(self, size: int, overflow: int, pause: Pause | None = None) -> None:
        """Begin with nothing: no connection, nobody waiting, every lock new."""
        self._former = None
        self._core = Core(
            RecordSource(self),
            self._do_return_conn,
            self._options,
            size=size,
            overflow=overflow,
            timeout=self._timeout,
            lifo=self._pool.use_lifo,
            pre_ping=self._pre_ping,
            pause=pause,
        )
        inheritance.watch(self)

    # Checkout

    def connect(self) -> PoolProxiedConnection:
        """Check a connection out."""
        try:
            if (
                self._pre_ping
                or self.dispatch.checkout
                # SQLAlchemy's suite puts one of its own there.
                or _ConnectionRecord.checkout != _CHECKOUT
            ):
                connection = self._connect_with_listeners()
            else:
                connection = PooledConnection(self, self._do_get())
            if self.on_checkout is not None:
                self.on_checkout(connection)
            return connection
        except (PoolTimeout, DatabaseUnavailable) as error:
            error.retry_after = self._core.retry_after(error)
            if self.on_refusal is not None:
                self.on_refusal(error)
            raise
        except (PoolError, sa_exc.SQLAlchemyError):
            raise
        except BaseException:
            # Also the Exceptions that strike from outside, such as Celery's soft time limit.
            self._reclaim_from_killed()
            raise

    def _connect_with_listeners(self) -> _ConnectionFairy:
        # A listener may refuse what it is shown: the wait for another one counts too.
        if self._core.opener.callers_open or self._timeout is None:
            return _ConnectionFairy._checkout(self)
        with pool_limit(self._timeout):
            return _ConnectionFairy._checkout(self)

    def _create_connection(self) -> ConnectionPoolEntry:
        return PooledRecord(self)

    def _do_get(self) -> PooledRecord:
        if not _here[0]:
            inheritance.leave_parent()
        core = self._core
        line, now = core.line, monotonic()
        entry = line.take(now)
        if entry is None:
            entry = core.check_out(None, now)
        else:
            entry.holder = threading.get_ident()
            entry.label = current_label()
            glance, closed = entry.glance, entry.closed
            passes = (
                entry.passes(now)
                if now < line.crowded_until
                # While nobody waits, the quicker look may give the interpreter's lock away.
                else now < entry.check_at
                and (closed is None or not closed())
                and (glance is None or not glance(0, 1))
            )
            if not passes:
                entry = core.check_out(entry, now)
        return entry.record  # type: ignore[return-value]  # this pool's source makes no others

    def _reclaim_from_killed(self) -> None:
        """Take back what this thread was handed and SQLAlchemy does not know of yet."""
        if self._interrupts_a_checkout():
            # What that one has in hand looks the same, and would be handed out twice. What was
            # lost here is given up in time (`Upkeep.reclaim`).
            return
        for entry in self._core.unreceived_by(threading.get_ident()):
            self._do_return_conn(entry.record)

    def _interrupts_a_checkout(self) -> bool:
        """Tell whether a handler or a listener has called this in the middle of a checkout."""
        frame: FrameType | None = sys._getframe(1)
        found = 0
        while frame is not None:
            found += frame.f_code is _CONNECT and frame.f_locals.get("self") is self
            frame = frame.f_back
        return found > 1

    # Return

    def _do_return_conn(self, record: Any) -> None:
        """Take a record back: the one way in, also for what the garbage collector returns."""
        _checked_out.discard(record)
        ManagedPool._return_conn(self, record)

    def _return_conn(self, record: Any) -> None:
        """Take back a record that its holder has let go of.

        SQLAlchemy's own calls `_do_return_conn`; the detour costs.
        """
        core = self._core
        entry: PooledEntry = record.dbpool_entry
        # Were its last holder killed in another checkout while this return waits for the lock or
        # at the door, it would be taken for never received, and returned twice.
        entry.holder = 0
        if core.door.is_inside():
            core.door.put_off(record)
            return
        now = monotonic()
        if (
            record.dbapi_connection is not entry.connection
            or entry.state is not LEASED
            or now >= entry.expires_at
        ) and not core.take_changed(entry, now):
            return
        stats = core.stats
        held, hold = now - entry.leased_at, stats.hold
        try:
            with core.lock:
                # Under the lock, as whoever doubts or retires it: it would be passed on unseen.
                expires_at = entry.expires_at
                if not entry.suspect:
                    check_at = now + entry.patience
                    entry.check_at = check_at if check_at < expires_at else expires_at
                # `Histogram.observe`, without the call.
                hold.counts[bisect_left(BOUNDS_SECONDS, held)] += 1
                hold.sum_seconds += held
                kept = now < expires_at and core.line.put(entry, now)
        finally:
            # `with core.door`, without its two calls.
            if core.door.late:
                core.door.let_in()
        if not kept:
            core.health.close(entry, "retired" if entry.condemned else core.health.why_surplus)
        elif core.upkeep.planned_for != stats.opened and entry.state is IDLE:
            # What went to a waiter is planned for when it is idle: in a crowd, where nothing ever
            # is, each return would plan in vain, for half of what a caller's turn costs.
            core.look_after()

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Have every return come by a `_do_return_conn` that an app has written."""
        super().__init_subclass__(**arguments)
        if "_do_return_conn" in vars(cls) and "_return_conn" not in vars(cls):
            # As SQLAlchemy's pools have it, whose return calls the other one.
            cls._return_conn = cls._do_return_conn  # type: ignore[method-assign]

    def _invalidate(
        self, connection: Any, exception: BaseException | None = None, _checkin: bool = True
    ) -> None:
        """Note that a connection was found dead: the others are suspects."""
        record = getattr(connection, "_connection_record", None)
        entry: PooledEntry | None = getattr(record, "dbpool_entry", None)
        # Those that were opened since then are not to go for it.
        is_old_news = entry is not None and entry.condemned
        if self._options.liveness and _checkin and record is not None:
            if self._driver_says_lost(connection, exception):
                # To be looked at, not to be closed: whoever ended one session, as
                # pg_terminate_backend does, has not ended all of them.
                self._core.health.suspect_others(entry)
            elif not is_old_news:
                # A listener of the app's says so (`is_disconnect`), of what no ping may see.
                self._core.health.retire_all()
            if getattr(connection, "is_valid", False):
                connection.invalidate(exception)
            return
        if not is_old_news:
            self._core.health.condemn_all()
        super()._invalidate(connection, exception, _checkin)

    def _driver_says_lost(self, connection: Any, error: BaseException | None) -> bool:
        """Tell whether it is the driver by whose word a connection is lost."""
        # The class's: an engine's own has hearers, who have heard of it already.
        ask = getattr(type(self._dialect), "is_disconnect", None)
        if ask is None or not isinstance(error, Exception):
            return True
        return ask(self._dialect, error, connection, None) or is_missed_disconnect(error)

    # Life

    def retire_all(self) -> None:
        """Replace every connection that is open now: at once, or when it comes back."""
        self._core.health.retire_all()

    @contextmanager
    def opened_apart(self) -> Iterator[Any]:
        """Open a connection of the driver's that is none of the pool's, and close it.

        :raises PoolTimeout: the pool is paused: nobody is to look at the server.
        """
        if (refusal := self._core.refused_by_pause()) is not None:
            raise refusal
        record = self._create_connection()
        try:
            yield record.dbapi_connection
        finally:
            record.close()

    def abandon(self) -> None:
        """Forget, without a byte on its socket, whatever the parent process had."""
        shared = self._core.shared
        self._core.disown_all()
        # As it was resized, and as it was paused: a child works with the same database.
        self._start(shared.size, shared.max_overflow, shared.line.paused)

    def warm(self) -> None:
        """Open connections until `min_idle` are open; none while the pool is paused.

        :raises DatabaseUnavailable: the server cannot be reached.
        """
        while (opened := self._core.open_missing()) is not None:
            self._do_return_conn(opened.record)

    def dispose(self) -> None:
        """Close what is idle; what is checked out goes on, and closes if a new pool was made."""
        if not _here[0]:
            inheritance.leave_parent()
        self._disposed_by = threading.get_ident()
        self._core.close_idle()
        self.logger.info("Pool disposed. %s", self.status())

    def recreate(self) -> ManagedPool:
        """Make a new pool of the same kind; after `dispose`, in the place of this one."""
        self.logger.info("Pool recreating")
        takes_its_place = self._disposed_by == threading.get_ident()
        if takes_its_place:
            self._core.make_way()
            self.dispose()
            self._disposed_by = None
        made = self.__class__(
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
        made.on_checkout, made.on_refusal = self.on_checkout, self.on_refusal
        made.spelling = self.spelling
        if takes_its_place:
            self._successor = weakref.ref(made)
            made._core.count_on_from(self._core)
        self._hand_pause_on(made)
        return made

    def _hand_pause_on(self, made: ManagedPool) -> None:
        pause = self._core.line.paused
        if pause is not None:
            made._core.line.pause(pause)
            made._former = self

    # Commands

    def refresh(self, by: str | None = None) -> None:
        """Replace every connection: what is idle now, what is in use when it comes back.

        What is being opened just now is closed, too.

        :param by: who asks, for the log.
        """
        self._at_work()._core.commands.refresh(checked_name(by))

    def resize(
        self, size: int | None = None, max_overflow: int | None = None, by: str | None = None
    ) -> None:
        """Have another size, without closing what is in use.

        What there is too much of is closed: idle ones now, others when they come back.

        :param size: how many connections to keep open; None: as before.
        :param max_overflow: how many more there may be; -1: no limit; None: as before.
        :param by: who asks, for the log.
        :raises ValueError: that is no size.
        """
        who = checked_name(by)
        core = self._at_work()._core
        core.commands.resize(*check_sizes(core.shared, size, max_overflow), who)

    def pause(self, by: str | None = None) -> None:
        """Serve nobody until `resume`: callers wait in line, until their time is over.

        Idle connections are closed, others when they come back; none is opened or asked.

        :param by: who asks, for the log.
        """
        self._at_work()._core.commands.pause(checked_name(by))

    def resume(self, by: str | None = None) -> None:
        """Serve the line again.

        :param by: who asks, for the log.
        """
        who, pool = checked_name(by), self._at_work()
        pool._core.commands.resume(who)
        while (former := pool._former) is not None:
            former._core.commands.resume(who, tells=False)
            pool._former = former._former

    @property
    def paused(self) -> bool:
        """Whether nobody is served until `resume`."""
        return self._at_work()._core.line.paused is not None

    def _at_work(self) -> ManagedPool:
        """Return the pool that is in use by now, where this one has been disposed of.

        Whoever resumes the pool that he has paused means that one. A child that was forked
        without Python's knowledge has left the parent's then, whose connections it would close.
        """
        if not _here[0]:
            inheritance.leave_parent()
        pool = self
        while pool._successor is not None and (later := pool._successor()) is not None:
            pool = later
        return pool

    @property
    def _recycle(self) -> int:
        return self._recycle_seconds

    @_recycle.setter
    def _recycle(self, seconds: int) -> None:
        self._recycle_seconds = seconds
        # SQLAlchemy's suite sets it on a pool at work, too.
        if self._core is not None:
            self._core.health.ask_recycle_each_time()

    # Numbers

    @property
    def outage(self) -> Outage | None:
        """What keeps openings from succeeding, as far as the pool knows."""
        return self._core.outage

    @property
    def is_cut_off(self) -> bool:
        """Whether nothing works: openings fail, and no open connection answers."""
        return self._core.opener.is_cut_off()

    def answers(self) -> bool:
        """Ask the server on what is idle; false if nothing is, or none of it answers."""
        return self._core.ask_idle()

    @property
    def contacts(self) -> int:
        """How often somebody has seen that the server is there."""
        return self._core.stats.contacts

    @property
    def turned_away(self) -> int:
        """How often the server has refused a connection, as for a wrong password."""
        return self._core.stats.turned_away

    def checkedout(self) -> int:
        """Count the connections that are checked out.

        Not one that is being opened, or that was just opened in the background and
        has had no holder yet.
        """
        return self._core.checked_out()

    def status(self) -> str:
        """Say how many connections there are, as QueuePool does; but no overflow is none."""
        return (
            f"Pool size: {self.size()}  Connections in pool: {self.checkedin()}"
            f" Current Overflow: {max(self.overflow(), 0)}"
            f" Current Checked out connections: {self.checkedout()}"
        )

    @property
    def _max_overflow(self) -> int:
        return self._core.shared.max_overflow

    @_max_overflow.setter
    def _max_overflow(self, count: int) -> None:
        # SQLAlchemy's own tools for tests set it on each engine that they make.
        self._core.set_max_overflow(count)

    @property
    def _overflow(self) -> int:  # type: ignore[override]  # an attribute of QueuePool's
        return self._core.shared.overflow

    def snapshot(self) -> PoolSnapshot:
        """Return what the pool has counted, and who holds what, as of now."""
        if not _here[0]:
            inheritance.leave_parent()
        return self._core.snapshot()

    def view(self, stacks: bool = True) -> PoolView:
        """Return the numbers, who holds what, who waits, and where in the code they are now.

        :param stacks: whether to say where they are. Under gevent that is a walk over all objects
            of the process.
        """
        if not _here[0]:
            inheritance.leave_parent()
        return self._core.view(stacks=stacks)


_CONNECT = ManagedPool.connect.__code__


def _note_taken(_connection: object, record: Any, _fairy: object) -> None:
    entry: PooledEntry | None = getattr(record, "dbpool_entry", None)
    if entry is not None:
        entry.taken = stack(sys._getframe(1))


def is_handed_out(connection: object) -> TypeGuard[PoolProxiedConnection]:
    """Tell whether this is what a caller of a pool has, of whichever class the pool is.

    False for the driver's own connection, and for what SQLAlchemy has in the place of both while
    it opens one.
    """
    return isinstance(connection, _ConnectionFairy)


def _entry_of(connection: object) -> PooledEntry | None:
    """Return the pool's side of what a caller has; None if no pool of ours has handed it out."""
    record = connection._connection_record if is_handed_out(connection) else None
    entry: PooledEntry | None = getattr(record, "dbpool_entry", None)
    return entry


def is_condemned(connection: PoolProxiedConnection) -> bool:
    """Tell whether a connection that was handed out will be closed when it comes back."""
    entry = _entry_of(connection)
    return entry is not None and entry.condemned


def name_lease(connection: PoolProxiedConnection, label: object | None) -> None:
    """Name who has checked a connection out, if that has become known only afterwards."""
    entry = _entry_of(connection)
    if entry is not None:
        entry.label = label


def is_silent(connection: PoolProxiedConnection) -> bool:
    """Tell, for the price of a checkout's look, whether its server has said nothing unasked.

    False too where nobody can tell.
    """
    entry = _entry_of(connection)
    glance = None if entry is None else entry.glance
    return glance is not None and not glance(0, 1)


# The records that are checked out, of all pools: what the collector finds comes back, and is
# rolled back, although nobody may know its pool any more. What `weakref.finalize`, SQLAlchemy's
# way to the same, does for that costs a seventh of a checkout and return.
_checked_out: set[PooledRecord] = set()


class _NoFinalizer:
    """Stands in for the finalizer that SQLAlchemy 2.1 has for each connection."""

    def detach(self) -> None:
        """Do nothing: a record that is given back forgets its connection, and so who drops it."""


class PooledConnection(_ConnectionFairy):
    """What the caller of a pool has in hand, made and given back with less work.

    Half of what a checkout and return cost was SQLAlchemy's part.  So it is written out here for
    the usual case: nobody listens, nothing is logged, and all that is to be done at the return is
    a rollback.  SQLAlchemy does everything else (tests/pool/test_returns.py compares the two).
    """

    __slots__ = ()

    _finalizer = cast("Any", _NoFinalizer())
    _rollback_error: BaseException | None = None
    _connection_record: PooledRecord | None

    def __init__(self, pool: ManagedPool, record: PooledRecord) -> None:
        # SQLAlchemy's own makes a finalizer.
        self._pool = pool
        self._counter = 1
        self._connection_record = record
        connection = record.dbapi_connection
        self.dbapi_connection = record.reconnected() if connection is None else connection
        _checked_out.add(record)
        record.fairy_ref = weakref.ref(self, record.take_back)
        self._echo = echo = pool.logger.isEnabledFor(logging.DEBUG)
        if echo:
            pool.logger.debug("Connection %r checked out from pool", self.dbapi_connection)

    # SQLAlchemy looks them up, each time.

    def commit(self) -> None:
        """Commit."""
        self.dbapi_connection.commit()

    def rollback(self) -> None:
        """Roll back."""
        self.dbapi_connection.rollback()

    def close(self) -> None:
        """Give the connection back."""
        self._counter -= 1
        if self._counter == 0:
            self._give_back(False)

    def _close_special(self, transaction_reset: bool = False) -> None:
        self._counter -= 1
        if self._counter == 0:
            self._give_back(transaction_reset)

    def _give_back(self, was_reset: bool) -> None:
        pool, record = self._pool, self._connection_record
        entry = None if record is None else record.dbpool_entry
        if (
            record is None
            or entry is None
            or self.dbapi_connection is None
            or record.fairy_ref is None
            or record.finalize_callback
            or self._echo
            or pool._reset_on_return is not reset_rollback
            or pool.dispatch.reset
            or pool.dispatch.checkin
        ):
            self._checkin(was_reset)
            return
        at_rest = entry.at_rest
        if not was_reset and (at_rest is None or not at_rest() or not _is_plain(pool._dialect)):
            try:
                pool._dialect.do_rollback(self)
            except BaseException as error:
                # What becomes of the connection then, SQLAlchemy knows.
                self._rollback_error = error
                try:
                    self._checkin()
                finally:
                    self._rollback_error = None
                return
        # Before it is returned: were this thread interrupted after that, it could go on to use
        # what is somebody else's by then.
        self.dbapi_connection = self._connection_record = None  # type: ignore[assignment]
        _checked_out.discard(record)
        record.fairy_ref = None
        pool._return_conn(record)

    def _reset(self, *args: Any, **kwargs: Any) -> None:
        if self._rollback_error is not None:
            raise self._rollback_error
        super()._reset(*args, **kwargs)


def _is_plain(dialect: Any) -> bool:
    """Tell whether the driver's own rollback is all of a dialect's: others may do more."""
    return getattr(dialect.do_rollback, "__func__", None) is _PLAIN_ROLLBACK


class WatchedConnection(_ConnectionFairy):
    """A connection that tells when its holder goes around SQLAlchemy to the driver.

    Subclasses say to whom.  SQLAlchemy's own COMMIT and ROLLBACK come by here too.
    """

    __slots__ = ()

    @classmethod
    def watch(cls, connection: PoolProxiedConnection) -> None:
        """Make one of a connection that was handed out."""
        # SQLAlchemy names the class of what it hands out nowhere but where it makes it.
        connection.__class__ = cls

    def before_commit(self) -> None:
        """Be told of a COMMIT."""

    def before_rollback(self) -> None:
        """Be told of a ROLLBACK."""

    def before_handing_out(self) -> None:
        """Be told that the holder gets the driver's own connection."""

    def commit(self) -> None:
        """Commit."""
        self.before_commit()
        self.dbapi_connection.commit()

    def rollback(self) -> None:
        """Roll back."""
        self.before_rollback()
        self.dbapi_connection.rollback()

    @property
    def driver_connection(self) -> Any:  # type: ignore[override]  # as SQLAlchemy has it
        """The driver's own connection."""
        self.before_handing_out()
        return super().driver_connection


class IdleView(QueueCommon[Any]):
    """Stands in for `QueuePool._pool`: the idle records, the empty ones included."""

    def __init__(self, pool: ManagedPool, use_lifo: bool) -> None:
        self.use_lifo = use_lifo
        self._owner = pool

    @property
    def maxsize(self) -> int:  # type: ignore[override]  # an attribute of SQLAlchemy's
        """How many connections are kept; 0: all."""
        return self._owner._core.shared.size

    def qsize(self) -> int:
        """Count the records that are not checked out."""
        shared = self._owner._core.shared
        return len(shared.line.idle) + len(shared.empties)

    def empty(self) -> bool:
        """Tell whether every record is checked out."""
        return self.qsize() == 0

    def full(self) -> bool:
        """Tell whether a returned connection would be closed."""
        return 0 < self.maxsize <= self.qsize()

    @property
    def queue(self) -> deque[ConnectionPoolEntry]:
        """The records that are not checked out (a copy)."""
        shared = self._owner._core.shared
        records = [each.record for each in list(shared.line.idle)] + shared.empties
        return deque(cast("list[ConnectionPoolEntry]", records))

    @queue.setter
    def queue(self, records: Iterable[ConnectionPoolEntry]) -> None:
        # SQLAlchemy's suite throws out the empty ones in this way.
        kept: set[object] = set(records)
        empties = self._owner._core.shared.empties
        empties[:] = [each for each in empties if each in kept]


class PooledRecord(_ConnectionRecord):
    """A record whose second connection comes from the line, as its first one did.

    SQLAlchemy reconnects a record by itself when a checkout listener (or its own
    pre-ping) raises `DisconnectionError`: there and then, outside every deadline, and
    in an outage each caller for himself.
    """

    dbpool_entry: PooledEntry | None = None

    def __init__(self, pool: ManagedPool, connect: bool = True) -> None:
        self._owner = pool
        with opening():
            super().__init__(pool, connect)

    def take_back(
        self, reference: object, is_over: Callable[[], bool] = sys.is_finalizing
    ) -> None:
        """Take back what was dropped, as the collector found.

        :param is_over: tells that the interpreter ends: what is dropped goes with it. Bound here,
            because the module may have lost its names by then.
        """
        if is_over() or self.fairy_ref is not reference:
            return
        entry = self.dbpool_entry
        if entry is not None and entry.pid != getpid():
            # A rollback would go to the parent's server, over the parent's socket.
            inheritance.inherit(self)
            return
        if _KNOWS_CLEANUP:
            self._finalize({"is_gc_cleanup": True})
            return
        try:
            self._note_dropped()
        finally:
            # SQLAlchemy 2.0 looks the reference up, which fails with one to what is gone.
            self.fairy_ref = cast("Any", weakref.ref(self))
            self._finalize({"ref": self.fairy_ref})

    def _finalize(self, found: dict[str, Any]) -> None:
        pool = self._owner
        echo = pool._should_log_debug()
        _finalize_fairy(None, self, pool, echo=echo, transaction_was_reset=False, **found)

    def checkin(self, *arguments: Any, **named: Any) -> None:
        """Give the record back, as SQLAlchemy does."""
        # A listener may fail: its connection would never be closed.
        _checked_out.discard(self)
        try:
            if self.fairy_ref is not None and self.fairy_ref() is None:
                # It is the collector that gives it back, in SQLAlchemy's way.
                self._note_dropped()
        finally:
            # Interrupted there, too: nobody would ever give it back again.
            super().checkin(*arguments, **named)

    def _note_dropped(self, is_over: Callable[[], bool] = sys.is_finalizing) -> None:
        """Note that the collector has to give the connection back."""
        entry = self.dbpool_entry
        # With an async driver SQLAlchemy warns of it by itself; what a child has inherited, the
        # parent has still.
        if is_over() or entry is None or entry.pid != getpid() or self._owner._dialect.is_async:
            return
        self._owner._core.watch.dropped(entry)

    def reconnected(self) -> DBAPIConnection:
        """Return a connection for a caller who was given an empty record."""
        try:
            return self.get_connection()
        except BaseException as error:
            self._checkin_failed(error, _fairy_was_created=False)
            raise

    def get_connection(self) -> DBAPIConnection:
        """Return the connection; one that is gone is replaced from the line.

        What SQLAlchemy asks here of every checkout (is it outdated, was it invalidated?)
        has been asked before the record was handed out.
        """
        if self.dbapi_connection is not None:
            return self.dbapi_connection
        entry, core = self.dbpool_entry, self._owner._core
        if (
            self.fairy_ref is not None
            # Nothing is opened while the pool is paused, and so he waits as in the background.
            and (not core.opener.callers_open or core.line.paused is not None)
            and entry is not None
            and entry.state is LEASED
            and entry.pid == getpid()
        ):
            self._take_over(core.check_out_again(entry))
            return cast("DBAPIConnection", self.dbapi_connection)
        with opening():
            connection = super().get_connection()
        if entry is not None:
            entry.condemned = False
        return connection

    def renew(self) -> None:
        """Open a connection, in the place of one that is outdated if need be."""
        with opening():
            super().get_connection()

    def invalidate(self, e: BaseException | None = None, soft: bool = False) -> None:
        """Close the connection, or (`soft`) have it closed when it comes back."""
        try:
            super().invalidate(e, soft)
        finally:
            # A listener may have kept it from being closed.
            if self.dbpool_entry is not None and self.dbapi_connection is not None:
                self.dbpool_entry.condemn()

    def _take_over(self, entry: PooledEntry) -> None:
        """Become the record of a connection that was opened for another one."""
        other = cast("PooledRecord", entry.record)
        self.info.clear()
        self.info.update(other.info)
        self.finalize_callback, other.finalize_callback = (
            other.finalize_callback,
            self.finalize_callback,
        )
        self.starttime, self.fresh = other.starttime, other.fresh
        entry.record, self.dbpool_entry = self, entry
        self.dbapi_connection = other.dbapi_connection
        other.dbapi_connection = other.dbpool_entry = None


class RecordSource:
    """The `Source` of a `ManagedPool`: SQLAlchemy's records, its dialect and its rules."""

    def __init__(self, pool: ManagedPool) -> None:
        self._pool = pool

    def spelled(self, keyword: str) -> str:
        """Say what a setting is called where the pool was configured."""
        return self._pool.spelling(keyword)

    @property
    def recycle_seconds(self) -> float | None:
        """The age at which a connection is outdated."""
        recycle = self._pool._recycle
        return recycle if recycle > -1 else None

    @property
    def may_look(self) -> bool:
        """Whether a driver's connection has a socket: SQLite's does not."""
        return getattr(self._pool._dialect, "name", "") != "sqlite"

    def open(self, empty: PooledRecord | None = None) -> PooledRecord:
        """Return a record with an open connection."""
        if empty is None:
            return cast("PooledRecord", self._pool._create_connection())
        empty.renew()
        return empty

    def close(self, record: PooledRecord) -> None:
        """Close the connection in order, if there is one."""
        record.close()

    def drop(self, record: PooledRecord) -> None:
        """Close a connection that is dead, and tell SQLAlchemy's listeners."""
        record.invalidate()

    def ping(self, record: PooledRecord) -> bool:
        """Ask the server, as SQLAlchemy's pre-ping does."""
        alive = bool(self._pool._dialect._do_ping_w_event(self.connection(record)))
        # SQLAlchemy's own pre-ping would be a second one.
        record.fresh = record.fresh or alive
        return alive

    def connection(self, record: PooledRecord) -> Any:
        """Return the driver's connection."""
        return record.dbapi_connection

    def is_outdated(self, record: PooledRecord) -> bool:
        """Tell whether SQLAlchemy would reconnect the record."""
        if record.dbapi_connection is None:
            return True
        recycle = self._pool._recycle
        if recycle <= -1 or self._pool._options.recycle_is_expiry:
            return False
        age = time.time() - record.starttime
        # A clock that was set back, or frozen by a test, does not tell how old it is.
        return age > recycle or age < 0

    def is_received(self, record: PooledRecord) -> bool:
        """Tell whether a caller has the connection."""
        # SQLAlchemy sets it when all of a checkout is done, and takes it away before a return.
        return record.fairy_ref is not None

    def tell_return(self, record: PooledRecord, call: Callable[[], None]) -> None:
        """Have something called when the holder gives the connection back, in his thread."""
        # A return asks for these anyway.
        record.finalize_callback.append(lambda _connection: call())

    def classify(self, error: BaseException) -> ConnectFailure | None:
        """Say what a failed opening means; None: a fault of the program."""
        dialect = self._pool._dialect
        module = getattr(dialect, "loaded_dbapi", None)
        if module is None:
            return ConnectFailure.UNREACHABLE if isinstance(error, Exception) else None
        if isinstance(error, sa_exc.ResourceClosedError):
            # A server that goes away under SQLAlchemy's first questions to it: taken for a fault
            # of the program, a worker's message would be rejected for it.
            return ConnectFailure.UNREACHABLE
        # UnicodeDecodeError: psycopg2's, of a server that writes its own encoding.
        known = module.Error | OSError | UnicodeDecodeError | sa_exc.DBAPIError
        if not isinstance(error, known):
            return None
        return classify_connect_failure(cast("Any", dialect), error)
