"""`ManagedPool`, bare apart from the options that a scenario asks for."""

from typing import Any

from pyramid_dbpool.pool.deadlines import deadline
from pyramid_dbpool.pool.managed import ManagedPool
from pyramid_dbpool.pool.stats import PoolSnapshot

from ..stub import StubServer
from .base import Feature, Options, PoolUnderTest
from .queue import SQLAlchemyLease, SQLAlchemyPool, make_engine

__all__ = ["ManagedAdapter"]

OWN = (
    "max_waiting",
    "idle_timeout",
    "overflow_linger",
    "min_idle",
    "max_lifetime",
    "liveness",
    "ping_after",
    "keepalive",
    "outage_grace",
)
"""Options that are arguments of ManagedPool under the same name."""


class ManagedPoolUnderTest(SQLAlchemyPool):
    """A ManagedPool, which knows more about itself than other pools do."""

    def checkout(self, timeout: float | None = None) -> SQLAlchemyLease:
        """Check a connection out, within the caller's own limit if there is one."""
        if timeout is None:
            return super().checkout()
        with deadline(timeout):
            return super().checkout()

    def waiting(self) -> int:
        """Return how many callers wait."""
        return self.snapshot().waiting

    def snapshot(self) -> PoolSnapshot:
        """Return the pool's numbers."""
        pool = self.pool
        assert isinstance(pool, ManagedPool)
        return pool.snapshot()


class ManagedAdapter:
    """The pool of this package; it opens connections in the background."""

    name = "ManagedPool"
    offers = frozenset(Feature)

    def make(self, server: StubServer, options: Options) -> PoolUnderTest:
        """Make an engine with a ManagedPool."""
        asked = {name: getattr(options, name) for name in OWN}
        own: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
        return ManagedPoolUnderTest(
            make_engine(
                server,
                ManagedPool,
                pool_size=options.size,
                max_overflow=options.overflow,
                pool_timeout=options.timeout,
                pool_use_lifo=bool(options.lifo),
                pool_pre_ping=bool(options.ping_each_time),
                background=True,
                **own,
            )
        )
