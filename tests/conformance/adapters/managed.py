"""`ManagedPool`, bare apart from the options that a scenario asks for."""

from typing import Any

from ..stub import StubServer
from .base import Feature, Options, PoolUnderTest
from .queue import SQLAlchemyPool, make_engine

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


class ManagedAdapter:
    """The pool of this package; it opens connections in the background."""

    name = "ManagedPool"
    offers = frozenset(Feature)

    def make(self, server: StubServer, options: Options) -> PoolUnderTest:
        """Make an engine with a ManagedPool."""
        from pyramid_dbpool.pool import ManagedPool  # noqa: PLC0415 - may be absent

        asked = {name: getattr(options, name) for name in OWN}
        own: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
        return SQLAlchemyPool(
            make_engine(
                server,
                ManagedPool,
                pool_size=options.size,
                max_overflow=options.overflow,
                pool_timeout=options.timeout,
                pool_use_lifo=bool(options.lifo),
                pool_pre_ping=bool(options.ping_each_time),
                **own,
            )
        )
