"""What a scenario may ask of a pool, and what a pool may not offer."""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ..stub import StubServer
from ..stub_driver import StubConnection

__all__ = ["Adapter", "Counts", "Feature", "Lease", "NotOffered", "Options", "PoolUnderTest"]


class NotOffered(Exception):
    """The pool has no such feature: neither a pass nor a failure."""


class Feature(enum.Enum):
    """What not every pool has."""

    LINE = "callers can wait for a connection"
    OVERFLOW = "more connections than it keeps"
    LIFO = "last in, first out"
    MAX_WAITING = "a bound on the line"
    IDLE_TIMEOUT = "closing idle connections"
    OVERFLOW_LINGER = "overflow connections that linger"
    MIN_IDLE = "a number of connections kept open"
    MAX_LIFETIME = "a maximum age"
    LIVENESS = "checking connections at checkout"
    PING_EACH_TIME = "a ping at each checkout"
    PING_AFTER = "a ping after some idle time"
    KEEPALIVE = "keepalive pings for idle connections"
    OUTAGE_GRACE = "refusing at once in a long outage"
    DEADLINE = "a caller's own limit on one wait"
    CLASSIFIES = "telling failed connects apart"
    DETACH = "detaching a connection"
    COLLECTED = "returns by the garbage collector"
    DISPOSE = "closing every connection and going on"
    RECREATE = "a dispose that leaves what is out to itself"
    LISTENERS = "listeners on connect, added after construction"
    LABELS = "who holds a connection, and since when"
    REASONS = "counters by reason, and histograms"
    GEVENT = "waiting in greenlets"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a scenario wants its pool; None is "not asked for". Times in seconds."""

    size: int = 5
    overflow: int = 0
    timeout: float = 30.0
    lifo: bool | None = None
    max_waiting: int | None = None
    idle_timeout: float | None = None
    overflow_linger: float | None = None
    min_idle: int | None = None
    max_lifetime: float | None = None
    liveness: bool | None = None
    ping_each_time: bool | None = None
    ping_after: float | None = None
    keepalive: float | None = None
    outage_grace: float | None = None

    def features(self) -> list[Feature]:
        """Return the features that a pool needs to honour these options."""
        asked = [
            Feature[name.upper()]
            for name, value in vars(self).items()
            if name.upper() in Feature.__members__ and value is not None and name != "overflow"
        ]
        return [*asked, Feature.OVERFLOW] if self.overflow else asked


@dataclass(frozen=True)
class Counts:
    """How many connections there are, by what they do."""

    idle: int
    in_use: int


class Lease(Protocol):
    """A connection that has been checked out."""

    @property
    def connection(self) -> StubConnection:
        """The driver's connection."""

    def query(self) -> None:
        """Run a statement; raise the driver's error if the connection is dead."""

    def release(self) -> None:
        """Give the connection back."""

    def invalidate(self) -> None:
        """Give the connection up as broken: it must not be handed out again."""

    def detach(self) -> None:
        """Take the connection out of the pool's hands for good."""


class PoolUnderTest(Protocol):
    """A pool, as the scenarios see it."""

    def checkout(self, timeout: float | None = None) -> Lease:
        """Check a connection out, waiting up to `timeout` seconds or the default."""

    def waiting(self) -> int:
        """Return how many callers wait."""

    def counts(self) -> Counts:
        """Return how many connections are idle and in use, by the pool's own books."""

    def on_connect(self, listener: Callable[[StubConnection], None]) -> None:
        """Call `listener` with every connection that is opened from now on."""

    def snapshot(self) -> Any:
        """Return `pyramid_dbpool.pool.stats.PoolSnapshot`: what only our own pool offers."""

    def books(self) -> Callable[[], tuple[int, int]]:
        """Return a function that tells idle and in use of the pool of this moment."""

    def dispose(self) -> None:
        """Close what is idle and go on with fresh connections."""

    def close(self) -> None:
        """Close for good; threads of the pool end."""


class Adapter(Protocol):
    """Makes pools of one kind."""

    @property
    def name(self) -> str:
        """The column's heading in the comparison."""

    @property
    def offers(self) -> frozenset[Feature]:
        """What this kind of pool has."""

    def make(self, server: StubServer, options: Options) -> PoolUnderTest:
        """Make a pool whose connections come from `server`."""


class Held:
    """Marks a connection as held, so that two holders at once are noticed."""

    def __init__(self, connection: StubConnection) -> None:
        if not connection.held.acquire(blocking=False):
            raise AssertionError(f"{connection!r} was handed to two holders at once")
        self._connection = connection

    def end(self) -> None:
        """Let the next holder have it."""
        if self._connection.held.locked():
            self._connection.held.release()
