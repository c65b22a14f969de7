"""`psycopg_pool.ConnectionPool`, with the stub as its connection class."""

import math
from collections.abc import Callable
from typing import Any

from psycopg_pool import ConnectionPool

from ..stub import StubServer
from ..stub_driver import UNIT, StubConnection
from .base import Counts, Feature, Held, NotOffered, Options, PoolUnderTest

__all__ = ["PsycopgAdapter", "PsycopgPool"]


class PsycopgLease:
    """A connection of psycopg_pool's."""

    def __init__(self, pool: ConnectionPool[Any], connection: StubConnection) -> None:
        self._pool = pool
        self.connection = connection
        self._held = Held(connection)

    def query(self) -> None:
        """Run a statement."""
        self.connection.execute(UNIT)

    def release(self) -> None:
        """Give the connection back."""
        self._held.end()
        self._pool.putconn(self.connection)

    def invalidate(self) -> None:
        """Close the connection and give it back, which makes room for another."""
        self._held.end()
        self.connection.close()
        self._pool.putconn(self.connection)

    def detach(self) -> None:
        """Fail: psycopg_pool has no such thing."""
        raise NotOffered(Feature.DETACH.value)


class PsycopgPool:
    """A pool of psycopg_pool's."""

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self.pool = pool

    def __repr__(self) -> str:
        return f"<PsycopgPool {self.pool.get_stats()}>"

    def checkout(self, timeout: float | None = None) -> PsycopgLease:
        """Check a connection out."""
        return PsycopgLease(self.pool, self.pool.getconn(timeout))

    def waiting(self) -> int:
        """Return how many clients wait."""
        return len(self.pool._waiting)

    def counts(self) -> Counts:
        """Return the pool's own books."""
        stats = self.pool.get_stats()
        return Counts(stats["pool_available"], stats["pool_size"] - stats["pool_available"])

    def on_connect(self, listener: Callable[[StubConnection], None]) -> None:
        """Fail: there are no listeners."""
        raise NotOffered(Feature.LISTENERS.value)

    def snapshot(self) -> Any:
        """Fail: there are no such numbers."""
        raise NotOffered(Feature.REASONS.value)

    def books(self) -> Callable[[], tuple[int, int]]:
        """Fail: a pool is never replaced by another one."""
        raise NotOffered(Feature.RECREATE.value)

    def dispose(self) -> None:
        """Drain: its way to replace every connection."""
        self.pool.drain()

    def close(self) -> None:
        """Close the pool and end its threads."""
        self.pool.close(timeout=1.0)


def connection_class(server: StubServer) -> Any:
    """Return a class whose `connect` opens a connection to the stub."""

    class Connection(StubConnection):
        @classmethod
        def connect(cls, conninfo: str = "", **kwargs: object) -> StubConnection:
            return server.connect()

    return Connection


class PsycopgAdapter:
    """`psycopg_pool`; `size` and `overflow` together are its `max_size`."""

    name = "psycopg_pool"
    offers = frozenset(
        {
            Feature.LINE,
            Feature.OVERFLOW,
            Feature.MAX_WAITING,
            Feature.IDLE_TIMEOUT,
            Feature.MIN_IDLE,
            Feature.MAX_LIFETIME,
            Feature.LIVENESS,
            Feature.PING_EACH_TIME,
            Feature.DEADLINE,
            Feature.DISPOSE,
            Feature.GEVENT,
        }
    )

    def make(self, server: StubServer, options: Options) -> PoolUnderTest:
        """Make a pool that opens nothing in advance unless `min_idle` asks for it."""
        check = options.liveness or options.ping_each_time
        pool: ConnectionPool[Any] = ConnectionPool(
            connection_class=connection_class(server),
            min_size=options.min_idle or 0,
            max_size=options.size + options.overflow,
            timeout=options.timeout,
            max_waiting=options.max_waiting or 0,
            max_lifetime=options.max_lifetime or math.inf,
            max_idle=options.idle_timeout or 600.0,
            check=ConnectionPool.check_connection if check else None,
            open=True,
        )
        return PsycopgPool(pool)
