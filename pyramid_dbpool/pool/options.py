"""What a `ManagedPool` can be told, beyond what SQLAlchemy's `QueuePool` takes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

# The plugin's defaults by argument, with the reason or the source of each.
PLUGIN_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        # With FIFO a request every 5 s keeps 15 of 15 connections in use, with LIFO one.
        "use_lifo": True,
        # 30 s hangs are pain number one; Rails' pool has the same 5 s (checkout_timeout).
        "timeout": 5.0,
        # The three minutes of Connector/NET's clean-up of idle connections.
        "idle_timeout": 180.0,
        # A burst must not make and throw away connections: HikariCP keeps all, we for a while.
        "overflow_linger": 30.0,
        "min_idle": 1,
        # HikariCP's maxLifetime; its 2.5 % of jitter is too little after a mass reconnection.
        "max_lifetime": 1800.0,
        "liveness": True,
        # tests/pool/test_blackhole.py: silence longer than this may hide that the peer is gone.
        "ping_after": 30.0,
        # A loopback or a data centre answers in milliseconds; a second try would not help.
        "ping_timeout": 2.0,
        # Firewalls drop idle flows after minutes; HikariCP's keepaliveTime is 2 min.
        "keepalive": 60.0,
        "background": True,
        # For as long as a restart usually takes.
        "outage_grace": 10.0,
        # HikariCP's leakDetectionThreshold is off, because it takes a stack trace at each
        # checkout. Here it costs nothing until it warns; gunicorn's own limit is 30 s.
        "hold_warning": 60.0,
        # A walk over the stack of each checkout, for when a leak is looked for.
        "trace_checkouts": False,
    }
)

# The plugin's `max_waiting` is so many times the capacity: a line without end helps nobody.
WAITING_PER_CONNECTION = 20

# From 0 to 1. An app's test that seeds or replaces the `random` module's generator counts on what
# comes from it; and a forked child need not be told to have another one.
by_chance = random.SystemRandom().random

# At most this part of `max_lifetime` is taken off at random.
LIFETIME_JITTER = 0.25


@dataclass(frozen=True)
class PoolOptions:
    """The settings of one pool that are ours; all times in seconds, None is off."""

    idle_timeout: float | None = None
    overflow_linger: float = 0.0
    min_idle: int = 0
    max_lifetime: float | None = None
    liveness: bool = False
    ping_after: float = 30.0
    ping_timeout: float = 2.0
    keepalive: float | None = None
    background: bool = False
    max_waiting: int | None = None
    outage_grace: float | None = None
    hold_warning: float | None = None
    trace_checkouts: bool = False
    pool_name: str | None = None

    def expiry(self, now: float, chance: float) -> float:
        """Say when a connection opened now has to go; `chance` is random, from 0 to 1."""
        if self.max_lifetime is None:
            return math.inf
        return now + self.max_lifetime * (1 - LIFETIME_JITTER * chance)

    @property
    def recycle_is_expiry(self) -> bool:
        """Whether a connection's age is in its expiry, and SQLAlchemy's own rule is not asked.

        That counts from before the connect: what is opened in the background could be too old
        for whoever waits for it, again and again.
        """
        return self.liveness or self.background

    @property
    def has_upkeep(self) -> bool:
        """Whether idle connections are ever closed or checked in the background."""
        return (
            self.idle_timeout is not None
            or self.overflow_linger > 0
            or self.max_lifetime is not None
            or self.keepalive is not None
        )


def plugin_defaults(pool_size: int = 5, max_overflow: int = 10) -> dict[str, Any]:
    """Return `ManagedPool`'s arguments as the plugin sets them where the ini file does not."""
    defaults = {"pool_size": pool_size, "max_overflow": max_overflow, **PLUGIN_DEFAULTS}
    bounded = pool_size > 0 and max_overflow >= 0
    defaults["max_waiting"] = default_max_waiting(pool_size + max_overflow if bounded else None)
    defaults["min_idle"] = min(defaults["min_idle"], pool_size) if pool_size else 1
    return defaults


def default_max_waiting(capacity: int | None) -> int | None:
    """Return how many may wait for a pool of this capacity where nobody has said it."""
    return None if capacity is None else WAITING_PER_CONNECTION * capacity


def pool_text(pool_name: str | None) -> str:
    """Return what errors and the log call a pool."""
    return "the pool" if pool_name is None else f"pool {pool_name!r}"


# What a setting is called where a pool was configured, by its keyword.
Spelling = Callable[[str], str]


def argument_name(keyword: str) -> str:
    """Return what `create_engine` calls a setting: the spelling of a pool that is used alone."""
    return "the URL" if keyword == "url" else keyword
