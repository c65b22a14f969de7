"""What a pool counts, and the frozen snapshot that it shows.

Counting must be cheap enough to be always on: plain additions under the lock
that the pool holds anyway, and nothing at all where a number follows from others.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from itertools import accumulate
from operator import sub

from .line import E, Line

# OpenTelemetry's advice for database durations, in seconds, with two finer steps
# at the start: most waits and holds of a healthy pool are below a millisecond.
BOUNDS_SECONDS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)

# As many holds make up the picture of a usual one.  Fewer, and one hold decides;
# more, and what was usual before a spike hides how short its holds are.
RECENT_HOLDS = 4


class Histogram:
    """Durations in seconds, counted by size."""

    __slots__ = ("counts", "sum_seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_SECONDS) + 1)
        self.sum_seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration; the caller holds the pool's lock."""
        self.counts[bisect_left(BOUNDS_SECONDS, seconds)] += 1
        self.sum_seconds += seconds

    def frozen(self, at_once: int = 0) -> HistogramSnapshot:
        """Copy the state; `at_once` durations of zero, which nobody counted, come on top."""
        counts = (self.counts[0] + at_once, *self.counts[1:])
        return HistogramSnapshot(BOUNDS_SECONDS, counts, sum(counts), self.sum_seconds)


@dataclass(frozen=True)
class HistogramSnapshot:
    """Counts per bucket (not cumulated; the last one has no upper bound)."""

    bounds_seconds: tuple[float, ...]
    counts: tuple[int, ...]
    count: int
    sum_seconds: float


@dataclass(frozen=True)
class Holder:
    """One connection that is checked out: by whom, and for how long."""

    label: str
    held_seconds: float


@dataclass(frozen=True)
class PoolSnapshot:
    """A pool at one moment.

    Now: `capacity` is how many connections there may be (None: no limit), `idle` how many are open
    and unused, `leased` checked out, `held` just being pinged or closed, `opening` being opened;
    `waiting` counts callers. `holders` has each lease. `outage_seconds` is for how long
    no connection could be opened, None while one can; `paused_seconds` for how long nobody has
    been served because of a `pause`.

    Counted since the pool was made, also by those that `engine.dispose()` has replaced:
    `checkouts`, those that had to wait (`waited`), `returns`; connections `opened`; `pings`, and
    the `fallback_pings` among them, which a look at the socket would have saved, had the driver
    shown it; `suspicions`, dead connections that made the
    others suspect. `closed`, `refused` and `open_failed` map a reason to a count. `wait`, `hold`
    and `connect` are durations in seconds. `unreceived` and `disowned` are leases that the
    pool has given up: nobody ever received the one, the others were out when it was disposed of.
    `outages` counts times in which no connection could be opened, the present one included, and
    `outage_seconds_total` is how long they have lasted; `dead_avoided` counts dead connections
    that were found before anybody was handed them.
    """

    name: str
    size: int
    capacity: int | None
    idle: int
    leased: int
    held: int
    opening: int
    waiting: int
    checkouts: int
    waited: int
    returns: int
    opened: int
    pings: int
    fallback_pings: int
    suspicions: int
    unreceived: int
    disowned: int
    open_failed: Mapping[str, int]
    refused: Mapping[str, int]
    closed: Mapping[str, int]
    wait: HistogramSnapshot
    hold: HistogramSnapshot
    connect: HistogramSnapshot
    outage_seconds: float | None
    paused_seconds: float | None = None
    outages: int = 0
    outage_seconds_total: float = 0.0
    dead_avoided: int = 0
    holders: tuple[Holder, ...] = field(default=())


_COUNTED = (
    *("waited", "opened", "pings", "fallback_pings", "suspicions", "unreceived", "disowned"),
    *("outages", "outage_seconds", "open_failed", "refused", "closed"),
)


class Stats:
    """The counters of one pool; whoever changes them holds the pool's lock."""

    __slots__ = (
        "_hold_time",
        "_mark",
        "_marked_counts",
        "closed",
        "connect",
        "connect_time",
        "disowned",
        "fallback_pings",
        "hold",
        "hold_at_least",
        "open_failed",
        "opened",
        "outage_seconds",
        "outages",
        "pings",
        "refused",
        "suspicions",
        "unreceived",
        "wait",
        "waited",
        "waiting_holders",
    )

    def __init__(self) -> None:
        self.waited = self.opened = 0
        self.pings = self.fallback_pings = self.suspicions = 0
        self.unreceived = self.disowned = 0
        # Those that have begun, and how long those that are over have lasted.
        self.outages, self.outage_seconds = 0, 0.0
        self.open_failed: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.closed: Counter[str] = Counter()
        # Callers in the line who hold a connection already, as far as that was looked for.
        self.waiting_holders = 0
        self.wait = Histogram()
        self.hold = Histogram()
        self.connect = Histogram()
        # A moving average, in seconds, from which the demand is estimated.
        self.connect_time: float | None = None
        # The state of `hold` from which on holds are recent, and the mean of those.
        self._mark = (0, 0.0)
        self._hold_time = 0.0
        # Half of the holds between the last two marks were so long, in seconds, or longer: what a
        # few long ones among many short ones do not change. 0: not known.
        self.hold_at_least = 0.0
        self._marked_counts = list(self.hold.counts)

    @property
    def returns(self) -> int:
        """How many connections have been given back."""
        return sum(self.hold.counts)

    @property
    def contacts(self) -> int:
        """How often a connection was opened, or came back unharmed: the server was there."""
        return self.opened + self.returns - self.closed["invalidated"]

    @property
    def turned_away(self) -> int:
        """How often the server was there, and let nobody in."""
        return self.open_failed["configuration"]

    def count_on_from(self, former: Stats) -> None:
        """Count on from where a pool ended in whose place this one is.

        Whoever asks at intervals takes a counter that falls for an error, or for a restart. What
        is estimated begins anew.
        """
        for name in _COUNTED:
            setattr(self, name, copy(getattr(former, name)))
        for name in ("wait", "hold", "connect"):
            ours, theirs = getattr(self, name), getattr(former, name)
            ours.counts, ours.sum_seconds = list(theirs.counts), theirs.sum_seconds
        self._mark = (self.returns, self.hold.sum_seconds)
        self._marked_counts = list(self.hold.counts)

    def hold_time(self) -> float:
        """Say how long a usual hold is, in seconds: the mean of the last few."""
        count, seconds = self.returns, self.hold.sum_seconds
        recent = count - self._mark[0]
        if recent:
            self._hold_time = (seconds - self._mark[1]) / recent
        if recent >= RECENT_HOLDS:
            self._mark = (count, seconds)
            self._note_median(recent)
        return self._hold_time

    def _note_median(self, recent: int) -> None:
        before, self._marked_counts = self._marked_counts, list(self.hold.counts)
        shorter = accumulate(map(sub, self._marked_counts, before))
        bucket = next(place for place, count in enumerate(shorter) if 2 * count >= recent)
        self.hold_at_least = BOUNDS_SECONDS[bucket - 1] if bucket else 0.0

    def connected(self, seconds: float) -> None:
        """Count an opening that took so many seconds."""
        self.opened += 1
        self.connect.observe(seconds)
        before = self.connect_time
        self.connect_time = seconds if before is None else before + (seconds - before) * 0.25

    def waited_for(self, seconds: float) -> None:
        """Count a checkout that had to wait for so many seconds."""
        self.waited += 1
        # `observe`, without the call: every thread in the line waits for it.
        self.wait.counts[bisect_left(BOUNDS_SECONDS, seconds)] += 1
        self.wait.sum_seconds += seconds

    def frozen(
        self,
        *,
        name: str,
        size: int,
        line: Line[E],
        now: float,
        outage_since: float | None,
    ) -> PoolSnapshot:
        """Copy everything but the holders, with the state of the line, under the pool's lock."""
        # Every checkout ends in a return, sooner or later, or is given up.
        checkouts = self.returns + line.leased + self.unreceived + self.disowned
        lasting = None if outage_since is None else now - outage_since
        return PoolSnapshot(
            name=name,
            size=size,
            capacity=line.capacity,
            idle=len(line.idle),
            leased=line.leased,
            held=line.held,
            opening=line.opening,
            waiting=line.waiting,
            checkouts=checkouts,
            waited=self.waited,
            returns=self.returns,
            opened=self.opened,
            pings=self.pings,
            fallback_pings=self.fallback_pings,
            suspicions=self.suspicions,
            unreceived=self.unreceived,
            disowned=self.disowned,
            open_failed=dict(self.open_failed),
            refused=dict(self.refused),
            closed=dict(self.closed),
            wait=self.wait.frozen(at_once=checkouts - self.waited),
            hold=self.hold.frozen(),
            connect=self.connect.frozen(),
            outage_seconds=lasting,
            outages=self.outages,
            outage_seconds_total=self.outage_seconds + (lasting or 0.0),
            # By a ping, by a look at the socket, or by the driver's own word.
            dead_avoided=self.closed["dead"] + self.closed["closed"],
            paused_seconds=None if line.paused is None else now - line.paused.since,
        )
