"""What a monitoring system is told of a pool: each metric once, as data.

Names, units and attributes are those of OpenTelemetry's semantic conventions for connection pools
(https://opentelemetry.io/docs/specs/semconv/database/database-metrics/) where these have one, and
`dbpool.*` where they have none. Each window writes them in its own form.

What tells series apart is bounded: pools, engines and processes, and reasons that the pool's code
names. Never a holder, a statement or a host, which an app would make ever more of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

__all__ = [
    "ENGINE",
    "ENGINES_SHOWN",
    "METRICS",
    "POOL_NAME",
    "Metric",
    "MetricKind",
    "Pool",
    "Reading",
    "pools_shown",
    "prometheus_name",
]

# The conventions' attributes.
POOL_NAME: Final = "db.client.connection.pool.name"
STATE: Final = "db.client.connection.state"
# Ours: which engine of the process.
ENGINE: Final = "engine"

# Of an app that makes an engine for each request and keeps them, more would bring the monitoring
# system down as well. `dbpool.engines` counts them all.
ENGINES_SHOWN = 16

# A pool's part of a report.
Pool = Mapping[str, Any]


class MetricKind(Enum):
    """How a metric's values behave."""

    COUNTER = "counter"
    """Only ever grows, as long as the process lives."""
    AMOUNT = "amount"
    """Those of several pools can be added."""
    GAUGE = "gauge"
    """To add those of several pools makes no sense."""
    HISTOGRAM = "histogram"
    """Durations, counted by size."""


@dataclass(frozen=True)
class Reading:
    """One value, and what tells it from the others of its metric.

    :ivar value: a number; of a histogram the report's dict.
    """

    value: Any
    attributes: Mapping[str, str]


@dataclass(frozen=True)
class Metric:
    """One metric of a pool.

    - `name`: OpenTelemetry's.
    - `unit`: `s`, or what is counted, in braces.
    - `text`: what it says, for people.
    - `read`: gives its readings from a pool's part of a report; none if that does not say it.
    """

    name: str
    kind: MetricKind
    unit: str
    text: str
    read: Callable[[Pool], Iterable[Reading]]


def pools_shown(report: Mapping[str, Any]) -> list[Pool]:
    """List the pools of a process that metrics are made of: those of its oldest engines."""
    return sorted(report["pools"], key=lambda pool: pool["number"])[:ENGINES_SHOWN]


def prometheus_name(name: str, kind: MetricKind, unit: str) -> str:
    """Write a metric's name as Prometheus has it, by OpenTelemetry's rules for that."""
    parts = [name.replace(".", "_")]
    if unit == "s":
        parts.append("seconds")
    if kind is MetricKind.COUNTER:
        parts.append("total")
    return "_".join(parts)


def _value(key: str) -> Callable[[Pool], Iterator[Reading]]:
    def read(pool: Pool) -> Iterator[Reading]:
        # A pool of another class does not say everything, and one without a limit no capacity.
        if pool.get(key) is not None:
            yield Reading(pool[key], {})

    return read


def _seconds(key: str) -> Callable[[Pool], Iterator[Reading]]:
    def read(pool: Pool) -> Iterator[Reading]:
        if key in pool:
            # None: it is not so just now. A series that ends keeps an alert firing for minutes.
            yield Reading(pool[key] or 0.0, {})

    return read


def _reasons(key: str, *known: str) -> Callable[[Pool], Iterator[Reading]]:
    def read(pool: Pool) -> Iterator[Reading]:
        if key in pool:
            # With zeros: what begins at one does not show as an increase.
            for reason, count in (dict.fromkeys(known, 0) | pool[key]).items():
                yield Reading(count, {"reason": reason})

    return read


def _longest(key: str) -> Callable[[Pool], Iterator[Reading]]:
    def read(pool: Pool) -> Iterator[Reading]:
        if key in pool:
            yield Reading(max((each["seconds"] for each in pool[key]), default=0.0), {})

    return read


def _count(pool: Pool) -> Iterator[Reading]:
    if "idle" in pool:
        yield Reading(pool["idle"], {STATE: "idle"})
        # Nobody else can have what is just being pinged or closed, and the server counts it.
        yield Reading(pool["leased"] + pool.get("held", 0), {STATE: "used"})


def _idle_max(pool: Pool) -> Iterator[Reading]:
    # Without a limit each one may stay.
    if pool.get("capacity") is not None:
        yield Reading(pool["size"], {})


def _timeouts(pool: Pool) -> Iterator[Reading]:
    if "refused" in pool:
        yield Reading(pool["refused"].get("timeout", 0), {})


def _waiting_holders(pool: Pool) -> Iterator[Reading]:
    if "waiters" in pool:
        yield Reading(sum(each["holds"] for each in pool["waiters"]), {})


def _connection(name: str) -> str:
    return f"db.client.connection.{name}"


METRICS: tuple[Metric, ...] = (
    # The conventions'.
    Metric(
        _connection("count"),
        MetricKind.AMOUNT,
        "{connection}",
        "Open connections that are idle or used",
        _count,
    ),
    Metric(
        _connection("idle.max"),
        MetricKind.AMOUNT,
        "{connection}",
        "How many connections are kept while nobody needs them (pool_size)",
        _idle_max,
    ),
    Metric(
        _connection("idle.min"),
        MetricKind.AMOUNT,
        "{connection}",
        "How many connections are kept open even when idle_timeout is over (min_idle)",
        _value("min_idle"),
    ),
    Metric(
        _connection("max"),
        MetricKind.AMOUNT,
        "{connection}",
        "How many connections there may be (pool_size + max_overflow)",
        _value("capacity"),
    ),
    Metric(
        _connection("pending_requests"),
        MetricKind.AMOUNT,
        "{request}",
        "Callers who wait for a connection",
        _value("waiting"),
    ),
    Metric(
        _connection("timeouts"),
        MetricKind.COUNTER,
        "{timeout}",
        "Callers who got no connection within their time",
        _timeouts,
    ),
    Metric(
        _connection("create_time"),
        MetricKind.HISTOGRAM,
        "s",
        "How long it took to open a connection",
        _value("connect"),
    ),
    Metric(
        _connection("wait_time"),
        MetricKind.HISTOGRAM,
        "s",
        "How long callers waited who got a connection",
        _value("wait"),
    ),
    Metric(
        _connection("use_time"),
        MetricKind.HISTOGRAM,
        "s",
        "For how long a connection was checked out",
        _value("hold"),
    ),
    # Ours.
    Metric(
        "dbpool.waited",
        MetricKind.COUNTER,
        "{checkout}",
        "Checkouts that had to wait",
        _value("waited"),
    ),
    Metric(
        "dbpool.opening",
        MetricKind.AMOUNT,
        "{connection}",
        "Connections that are just being opened",
        _value("opening"),
    ),
    Metric(
        "dbpool.longest_hold",
        MetricKind.GAUGE,
        "s",
        "For how long the oldest of those checked out now has been so",
        _longest("holders"),
    ),
    Metric(
        "dbpool.longest_wait",
        MetricKind.GAUGE,
        "s",
        "For how long the first in line has waited",
        _longest("waiters"),
    ),
    Metric(
        "dbpool.waiting_holders",
        MetricKind.AMOUNT,
        "{request}",
        "Callers who wait for a connection and hold one of this pool already",
        _waiting_holders,
    ),
    Metric(
        "dbpool.refused",
        MetricKind.COUNTER,
        "{request}",
        "Callers who got no connection, by reason",
        _reasons("refused", "timeout", "line_full", "outage", "configuration"),
    ),
    Metric(
        "dbpool.open_failed",
        MetricKind.COUNTER,
        "{attempt}",
        "Connections that could not be opened, by reason",
        _reasons("open_failed", "unreachable", "saturated", "configuration"),
    ),
    Metric(
        "dbpool.closed",
        MetricKind.COUNTER,
        "{connection}",
        "Connections that were closed, by reason",
        _reasons("closed", "idle", "lifetime", "dead", "invalidated"),
    ),
    Metric(
        "dbpool.dead_connections_avoided",
        MetricKind.COUNTER,
        "{connection}",
        "Dead connections that were found before anybody got them",
        _value("dead_avoided"),
    ),
    Metric(
        "dbpool.pings",
        MetricKind.COUNTER,
        "{ping}",
        "Questions to the server whether a connection is alive",
        _value("pings"),
    ),
    Metric(
        "dbpool.outages",
        MetricKind.COUNTER,
        "{outage}",
        "How often no connection could be opened for a while",
        _value("outages"),
    ),
    Metric(
        "dbpool.outage.time",
        MetricKind.COUNTER,
        "s",
        "For how long no connection could be opened, past outages and the present one",
        _value("outage_seconds_total"),
    ),
    Metric(
        "dbpool.outage",
        MetricKind.GAUGE,
        "s",
        "For how long no connection could be opened until now; 0: one can",
        _seconds("outage_seconds"),
    ),
    Metric(
        "dbpool.write_outage",
        MetricKind.GAUGE,
        "s",
        "For how long the server has refused to write (a failover, a full disk); 0: it does",
        _seconds("write_outage_seconds"),
    ),
    Metric(
        "dbpool.paused",
        MetricKind.GAUGE,
        "s",
        "For how long the pool has been paused; 0: it is not",
        _seconds("paused_seconds"),
    ),
)
