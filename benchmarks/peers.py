"""The pools that are measured, all behind the same two calls."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from psycopg_pool import ConnectionPool
from sqlalchemy.pool import QueuePool

from pyramid_dbpool.pool.managed import ManagedPool
from tests.conformance.adapters.psycopg import connection_class
from tests.conformance.adapters.queue import make_engine
from tests.conformance.stub import StubServer

__all__ = ["BARE", "PLUGIN", "PSYCOPG", "QUEUE", "Peer", "Shape", "make"]

QUEUE = "QueuePool"
PSYCOPG = "psycopg_pool"
BARE = "ManagedPool, bare"
PLUGIN = "ManagedPool, plugin"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The size of a pool and how long a caller waits, in seconds."""

    size: int = 5
    overflow: int = 10
    timeout: float = 30.0
    check: bool = False
    """Whether peers check a connection before they hand it out."""


@dataclass(frozen=True)
class Peer:
    """A pool to be measured."""

    name: str
    pool: Any
    take: Callable[[], Any]
    give: Callable[[Any], None]
    loop: Callable[[int], None]
    """Check out and give back so many times, with no call in between."""
    close: Callable[[], None]

    def warm(self, count: int) -> None:
        """Open `count` connections."""
        for lease in [self.take() for _ in range(count)]:
            self.give(lease)


def sqlalchemy_peer(name: str, engine: Any) -> Peer:
    """Put an engine's pool behind the two calls."""
    connect = engine.pool.connect

    def loop(count: int) -> None:
        for _ in range(count):
            connect().close()

    def give(lease: Any) -> None:
        lease.close()

    return Peer(name, engine.pool, connect, give, loop, engine.dispose)


def psycopg_peer(pool: ConnectionPool[Any]) -> Peer:
    """Put a pool of psycopg_pool's behind the two calls."""
    getconn, putconn = pool.getconn, pool.putconn

    def loop(count: int) -> None:
        for _ in range(count):
            putconn(getconn())

    return Peer(PSYCOPG, pool, getconn, putconn, loop, lambda: pool.close(timeout=1.0))


def queue_arguments(shape: Shape) -> dict[str, Any]:
    """Return the arguments that QueuePool and its subclasses share."""
    return {
        "pool_size": shape.size,
        "max_overflow": shape.overflow,
        "pool_timeout": shape.timeout,
    }


def make_queue(server: StubServer, shape: Shape) -> Peer:
    """Make the stock pool."""
    engine = make_engine(server, QueuePool, **queue_arguments(shape), pool_pre_ping=shape.check)
    return sqlalchemy_peer(QUEUE, engine)


def managed_arguments(shape: Shape, name: str, **more: Any) -> dict[str, Any]:
    """Return what `create_engine` needs for a ManagedPool, without connections' origin."""
    plugin = ManagedPool.plugin_arguments(shape.size, shape.overflow) if name == PLUGIN else {}
    return {"poolclass": ManagedPool, **plugin, **queue_arguments(shape), **more}


def make_managed(server: StubServer, shape: Shape, name: str, **more: Any) -> Peer:
    """Make the pool of this package, bare or as the plugin sets it up, with `more` set."""
    arguments = managed_arguments(shape, name, **more)
    engine = make_engine(server, arguments.pop("poolclass"), **arguments)
    return sqlalchemy_peer(name, engine)


def make_psycopg(server: StubServer, shape: Shape) -> Peer:
    """Make psycopg_pool's pool: it keeps `size` open and grows by `overflow`."""
    pool: ConnectionPool[Any] = ConnectionPool(
        connection_class=connection_class(server),
        min_size=shape.size,
        max_size=shape.size + shape.overflow,
        timeout=shape.timeout,
        max_lifetime=math.inf,
        check=ConnectionPool.check_connection if shape.check else None,
        open=True,
    )
    return psycopg_peer(pool)


def make(name: str, server: StubServer, shape: Shape) -> Peer:
    """Make the pool of this name over the stub."""
    if name == QUEUE:
        return make_queue(server, shape)
    if name == PSYCOPG:
        return make_psycopg(server, shape)
    return make_managed(server, shape, name)
