"""`ManagedPool`: SQLAlchemy's `QueuePool` with a fair line behind it.

The seam between SQLAlchemy and a `Service`.  SQLAlchemy's private names are touched
here, and where a part looks at its record or dialect (`records`, `views`, `checks`,
`connections`, `refusals`, `upkeep`).  What the seam relies on, the same in 2.0 and 2.1:
`_do_get` and `_do_return_conn` are all that a checkout and a return call;
`_ConnectionRecord.get_connection` reconnects a record whose connection is gone or
outdated, *after* `_do_get` has returned and so outside every limit of ours.  So
`_do_get` returns only records that need no reconnect, and `records` sees to those
that a listener refuses.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from typing import Any, cast

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection
from sqlalchemy.pool.base import _ConnectionFairy, _ConnectionRecord

from ..errors import PoolError
from . import inheritance
from .core import Service
from .deadlines import pool_limit
from .entries import GONE, LEASED
from .health import PooledEntry
from .labels import current_label
from .options import PoolOptions, plugin_defaults
from .records import PooledRecord
from .stats import BOUNDS_SECONDS
from .views import ServicedPool

__all__ = ["ManagedPool"]

_monotonic = time.monotonic
_get_ident = threading.get_ident

_here = inheritance.here


class ManagedPool(ServicedPool):
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
    :param outage_grace: with `background`, refuse callers once an outage has lasted so long.
    :param ping_timeout: how long a ping may take.
    :param hold_warning: warn in the log when a connection is held for so long, and when a
        holder of one takes another.
    :param pool_name: the name in errors and statistics.
    """

    # Set for each pool in `_start`; declared here because SQLAlchemy's own suite
    # compares what `recreate` makes with the original, attribute by attribute.
    _service: Service = cast("Service", None)
    _disposed_by: int | None = None
    # Called after each checkout.  A listener of SQLAlchemy's `checkout` event costs
    # more than the whole checkout: 12 µs, measured on 8.6 µs.
    on_checkout: Callable[[], object] | None = None
    # The setting that has the URL, for errors; None: the usual one of `pool_name`.
    url_key: str | None = None

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
        **kw: Any,
    ) -> None:
        super().__init__(creator, pool_size, max_overflow, timeout, use_lifo, **kw)
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
            pool_name=pool_name,
        )
        self._start()

    @staticmethod
    def plugin_arguments(pool_size: int = 5, max_overflow: int = 10) -> dict[str, Any]:
        """Return `create_engine`'s arguments for a pool of this size, as the plugin has it."""
        arguments = plugin_defaults(pool_size, max_overflow)
        arguments["pool_timeout"] = arguments.pop("timeout")
        arguments["pool_use_lifo"] = arguments.pop("use_lifo")
        return arguments

    def _start(self) -> None:
        """Begin with nothing: no connection, nobody waiting, every lock new."""
        self._service = Service(
            self,
            self._options,
            size=self._pool.maxsize,
            overflow=self._max_overflow,
            timeout=self._timeout,
            lifo=self._pool.use_lifo,
            pre_ping=self._pre_ping,
        )
        inheritance.watch(self)

    def _invalidate(
        self, connection: Any, exception: BaseException | None = None, _checkin: bool = True
    ) -> None:
        """Note that a connection was found dead: the others are suspects."""
        record = getattr(connection, "_connection_record", None)
        if self._options.liveness and _checkin and record is not None:
            # To be looked at, not to be closed: whoever ended one session, as
            # pg_terminate_backend does, has not ended all of them.
            self._service.connections.suspect_others(record.dbpool_entry)
            if getattr(connection, "is_valid", False):
                connection.invalidate(exception)
            return
        super()._invalidate(connection, exception, _checkin)
        self._service.connections.doubt_all()

    # Checkout

    def connect(self) -> PoolProxiedConnection:
        """Check a connection out."""
        try:
            if self._pre_ping or self.dispatch.checkout:
                fairy = self._connect_with_listeners()
            else:
                # What `_checkout` does where nobody listens, without its loop.
                fairy = _ConnectionRecord.checkout(self)
                fairy._counter = 1
            if self.on_checkout is not None:
                self.on_checkout()
            return fairy
        except (PoolError, SQLAlchemyError):
            raise
        except BaseException:
            # Also the Exceptions that strike from outside, such as Celery's soft time limit.
            self._reclaim_from_killed()
            raise

    def _connect_with_listeners(self) -> _ConnectionFairy:
        # A listener may refuse what it is shown: the wait for another one counts too.
        timeout = self._timeout if self._options.background else None
        if timeout is None:
            return _ConnectionFairy._checkout(self)
        with pool_limit(timeout):
            return _ConnectionFairy._checkout(self)

    def _create_connection(self) -> ConnectionPoolEntry:
        return PooledRecord(self)

    def _do_get(self) -> ConnectionPoolEntry:
        if not _here[0]:
            inheritance.leave_parent()
        line = self._service.line
        now = _monotonic()
        entry = line.take(now)
        if entry is not None:
            entry.holder = _get_ident()
            entry.label = current_label()
            glance, closed = entry.glance, entry.closed
            if now >= line.crowded_until:
                if (
                    now < entry.check_at
                    and (closed is None or not closed())
                    and (glance is None or not glance(0, 1))
                    and self._recycle < 0
                ):
                    return entry.record
            elif entry.passes(now):
                return entry.record
        return self._service.check_out(entry, now).record

    def _reclaim_from_killed(self) -> None:
        """Take back what this thread was handed and SQLAlchemy does not know of yet."""
        for entry in self._service.unreceived_by(_get_ident()):
            self._do_return_conn(entry.record)

    # Return

    def _do_return_conn(self, record: Any) -> None:
        now = _monotonic()
        entry: PooledEntry = record.dbpool_entry
        if (
            record.dbapi_connection is None
            or entry.state is not LEASED
            or now >= entry.expires_at
            or record.starttime != entry.started
        ) and not self._service.take_back(entry, now):
            return
        if not entry.suspect:
            check_at = now + entry.patience
            entry.check_at = check_at if check_at < entry.expires_at else entry.expires_at
        held, service = now - entry.leased_at, self._service
        with service.lock:
            hold = service.stats.hold
            hold.counts[bisect_left(BOUNDS_SECONDS, held)] += 1
            hold.sum_seconds += held
            kept = service.line.put(entry, now)
        if not kept:
            service.connections.close_entry(entry, "surplus")
        elif not service.upkeep.is_due:
            service.upkeep.schedule()

    # SQLAlchemy calls the one on a return, the other on a detach; the detour costs.
    _return_conn = _do_return_conn

    # Life

    def abandon(self) -> None:
        """Forget, without a byte on its socket, whatever the parent process had."""
        service = self._service
        for entry in list(service.line.members):
            # What is still checked out must not come back into the new line.
            entry.state = GONE
        inheritance.inherit((service.line, service.opener, *service.connections.husks))
        self._start()

    def warm(self) -> None:
        """Open connections until `min_idle` are open.

        :raises DatabaseUnavailable: the server cannot be reached.
        """
        while (opened := self._service.open_missing()) is not None:
            self._do_return_conn(opened.record)

    def dispose(self) -> None:
        """Close what is idle; what is checked out goes on, and closes if a new pool was made."""
        if not _here[0]:
            inheritance.leave_parent()
        self._disposed_by = _get_ident()
        self._service.close_idle()
        self.logger.info("Pool disposed. %s", self.status())

    def recreate(self) -> ManagedPool:
        """Make a new pool of the same kind; after `dispose`, in the place of this one."""
        self.logger.info("Pool recreating")
        if self._disposed_by == _get_ident():
            self._service.retire()
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
        made.on_checkout, made.url_key = self.on_checkout, self.url_key
        return made
