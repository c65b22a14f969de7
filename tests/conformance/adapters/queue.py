"""SQLAlchemy's pools: `QueuePool`, and what its subclasses share with it."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import create_engine, event
from sqlalchemy.engine import Engine
from sqlalchemy.pool import PoolProxiedConnection, QueuePool

from ..stub import StubServer
from ..stub_driver import UNIT, StubConnection, driver_module
from .base import Counts, Feature, Held, NotOffered, Options, PoolUnderTest

__all__ = ["QueueAdapter", "SQLAlchemyPool", "make_engine"]


def make_engine(server: StubServer, poolclass: type[QueuePool], **arguments: Any) -> Engine:
    """Return an engine with the pool under test and connections from the stub."""
    return create_engine(
        "postgresql+psycopg://stub/stub",
        module=driver_module(),
        creator=server.connect,
        poolclass=poolclass,
        # The dialect's first look at the server asks for its version and more.
        _initialize=False,
        **arguments,
    )


def driver_connection(proxied: PoolProxiedConnection) -> StubConnection:
    """Return the stub behind a proxied connection."""
    connection = proxied.dbapi_connection
    assert isinstance(connection, StubConnection)
    return connection


class SQLAlchemyLease:
    """A proxied connection."""

    def __init__(self, proxied: PoolProxiedConnection) -> None:
        self._proxied = proxied
        self.connection = driver_connection(proxied)
        self._held = Held(self.connection)

    def query(self) -> None:
        """Run a statement."""
        self.connection.execute(UNIT)

    def release(self) -> None:
        """Give the connection back."""
        self._held.end()
        self._proxied.close()

    def invalidate(self) -> None:
        """Close the connection and give its slot back."""
        self._held.end()
        self._proxied.invalidate()
        self._proxied.close()

    def detach(self) -> None:
        """Take the connection out of the pool."""
        self._proxied.detach()


class SQLAlchemyPool:
    """A pool with an engine around it, because `dispose` belongs to the engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __repr__(self) -> str:
        return f"<SQLAlchemyPool {self.engine.pool.status()}>"

    @property
    def pool(self) -> QueuePool:
        """The engine's present pool."""
        pool = self.engine.pool
        assert isinstance(pool, QueuePool)
        return pool

    def checkout(self, timeout: float | None = None) -> SQLAlchemyLease:
        """Check a connection out."""
        if timeout is not None:
            raise NotOffered(Feature.DEADLINE.value)
        return SQLAlchemyLease(self.pool.connect())

    def waiting(self) -> int:
        """Return how many threads wait in the queue."""
        queue: Any = self.pool._pool
        return len(queue.not_empty._waiters)

    def counts(self) -> Counts:
        """Return the pool's own books."""
        return Counts(self.pool.checkedin(), self.pool.checkedout())

    def on_connect(self, listener: Callable[[StubConnection], None]) -> None:
        """Listen as SQLAlchemy's users do."""

        def heard(connection: Any, record: object) -> None:
            listener(connection)

        event.listen(self.pool, "connect", heard)

    def snapshot(self) -> Any:
        """Fail: there are no such numbers."""
        raise NotOffered(Feature.REASONS.value)

    def books(self) -> Callable[[], tuple[int, int]]:
        """Return the books of the engine's present pool, also once it is replaced."""
        pool = self.pool
        return lambda: (pool.checkedin(), pool.checkedout())

    def dispose(self) -> None:
        """Dispose of the engine's pool; the engine makes the next one."""
        self.engine.dispose()

    def close(self) -> None:
        """Dispose."""
        self.engine.dispose()


class QueueAdapter:
    """The stock `QueuePool`."""

    name = "QueuePool"
    offers = frozenset(
        {
            Feature.LINE,
            Feature.OVERFLOW,
            Feature.LIFO,
            Feature.MAX_LIFETIME,
            Feature.LIVENESS,
            Feature.PING_EACH_TIME,
            Feature.DETACH,
            Feature.COLLECTED,
            Feature.DISPOSE,
            Feature.RECREATE,
            Feature.LISTENERS,
            Feature.GEVENT,
        }
    )

    def make(self, server: StubServer, options: Options) -> PoolUnderTest:
        """Make a QueuePool; `pre_ping` is its way to check a connection."""
        return SQLAlchemyPool(
            make_engine(
                server,
                QueuePool,
                pool_size=options.size,
                max_overflow=options.overflow,
                pool_timeout=options.timeout,
                pool_use_lifo=bool(options.lifo),
                pool_recycle=-1 if options.max_lifetime is None else options.max_lifetime,
                pool_pre_ping=bool(options.liveness or options.ping_each_time),
            )
        )
