"""mysql-connector's `MySQLConnectionPool`, as far as it can be driven."""

from collections.abc import Callable
from typing import Any
from unittest import mock

from mysql.connector import pooling
from mysql.connector.connection import MySQLConnection
from mysql.connector.errors import InterfaceError

from ..stub import StubServer
from ..stub_driver import UNIT, StubConnection
from .base import Counts, Feature, Held, NotOffered, Options, PoolUnderTest

__all__ = ["MySQLAdapter"]


class StubMySQLConnection(MySQLConnection):
    """What the pool calls on a connection, answered by the stub."""

    def __init__(self, server: StubServer, connect: bool) -> None:
        # MySQLConnection's own initialiser would look for a server.
        self.server = server
        self.stub: StubConnection | None = server.connect() if connect else None

    def __del__(self) -> None:
        """Do nothing: the base class would send QUIT."""

    def config(self, **kwargs: Any) -> None:
        """Accept any configuration."""

    def is_connected(self) -> bool:
        """Ping, as the original does."""
        try:
            if self.stub is not None:
                self.stub.execute("")
                self.stub.rollback()
                return True
        except Exception:
            self.stub = None
        return False

    def reconnect(self, attempts: int = 1, delay: int = 0) -> None:
        """Open another connection."""
        self.disconnect()
        try:
            self.stub = self.server.connect()
        except Exception as error:
            raise InterfaceError(str(error)) from error

    def disconnect(self) -> None:
        """Close the connection."""
        if self.stub is not None:
            self.stub.close()
        self.stub = None

    def reset_session(self, *args: Any, **kwargs: Any) -> None:
        """Forget the session's state."""
        if self.stub is not None:
            self.stub.rollback()


class MySQLLease:
    """A pooled connection of mysql-connector's."""

    def __init__(self, pooled: pooling.PooledMySQLConnection) -> None:
        self._pooled = pooled
        stub = pooled.stub
        assert isinstance(stub, StubConnection)
        self.connection = stub
        self._held = Held(stub)

    def query(self) -> None:
        """Run a statement."""
        self.connection.execute(UNIT)

    def release(self) -> None:
        """Give the connection back."""
        self._held.end()
        self._pooled.close()

    def invalidate(self) -> None:
        """Close the connection; the next checkout reconnects."""
        self._held.end()
        self._pooled.disconnect()
        self._pooled.close()

    def detach(self) -> None:
        """Fail: this pool has no such thing."""
        raise NotOffered(Feature.DETACH.value)


class MySQLPool:
    """A pool of mysql-connector's."""

    def __init__(self, pool: pooling.MySQLConnectionPool) -> None:
        self.pool = pool

    def checkout(self, timeout: float | None = None) -> MySQLLease:
        """Check a connection out; this pool never waits."""
        if timeout is not None:
            raise NotOffered(Feature.DEADLINE.value)
        return MySQLLease(self.pool.get_connection())

    def waiting(self) -> int:
        """Fail: this pool has no line."""
        raise NotOffered(Feature.LINE.value)

    def counts(self) -> Counts:
        """Return what the queue holds, and what it should."""
        idle = self.pool._cnx_queue.qsize()
        return Counts(idle, self.pool.pool_size - idle)

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
        """Fail: this pool can only be emptied for good."""
        raise NotOffered(Feature.DISPOSE.value)

    def close(self) -> None:
        """Close what is idle."""
        self.pool._remove_connections()


class MySQLAdapter:
    """`MySQLConnectionPool`: a fixed number of connections, opened at the start."""

    name = "mysql-connector"
    offers = frozenset({Feature.LIVENESS, Feature.PING_EACH_TIME})

    def make(self, server: StubServer, options: Options) -> PoolUnderTest:
        """Make a pool with stub connections in place of the driver's."""

        def connect(**kwargs: Any) -> StubMySQLConnection:
            return StubMySQLConnection(server, connect=bool(kwargs))

        with mock.patch.object(pooling, "connect", connect):
            pool = pooling.MySQLConnectionPool(
                pool_size=options.size, pool_name="conformance", host="stub"
            )
        return MySQLPool(pool)
