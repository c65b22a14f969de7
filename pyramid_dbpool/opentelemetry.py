"""Metrics of this process's pools for OpenTelemetry.

With the package ``opentelemetry-api`` (the extra ``opentelemetry``); without an SDK it does
nothing. Once in each process that has a meter provider, behind a fork in the child::

    instrument()

Nothing is measured: what the pools have counted anyway is read when a reader collects.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from math import inf, nextafter
from operator import mul, sub
from typing import Any
from weakref import WeakSet

from opentelemetry.metrics import (
    CallbackOptions,
    Histogram,
    Meter,
    MeterProvider,
    Observation,
    get_meter,
    get_meter_provider,
)

from .pool.stats import BOUNDS_SECONDS
from .telemetry.metrics import (
    ENGINE,
    METRICS,
    POOL_NAME,
    Metric,
    MetricKind,
    Pool,
    pools_shown,
)
from .telemetry.report import process_report

__all__ = ["instrument"]

Attributes = dict[str, str]
Counted = tuple[list[int], float]

# Those that show the pools already: twice, each pool would be there twice.
_instrumented: WeakSet[MeterProvider] = WeakSet()


def instrument(meter_provider: MeterProvider | None = None, *, histograms: bool = True) -> None:
    """Have a meter provider show the pools of this process, also those made later.

    Once for each provider; again does nothing. Counters show what was counted since the pool was
    made, histograms what came after this call.

    :param meter_provider: the one; None: OpenTelemetry's global one.
    :param histograms: whether to show how long waits, uses and openings took. For each checkout
        these cost some 25 microseconds, where the reader collects.
    """
    provider = get_meter_provider() if meter_provider is None else meter_provider
    if provider in _instrumented:
        return
    _instrumented.add(provider)
    meter = get_meter("pyramid_dbpool", version("pyramid_dbpool"), provider)
    timed = [metric for metric in METRICS if histograms and metric.kind is MetricKind.HISTOGRAM]
    reports = _Reports([_Durations(meter, metric) for metric in timed])
    for metric in METRICS:
        if metric.kind is not MetricKind.HISTOGRAM:
            observe = partial(_pools, reports, metric)
            _create(meter, metric.kind)(metric.name, [observe], metric.unit, metric.text)
    meter.create_observable_up_down_counter(
        "dbpool.engines", [partial(_engines, reports)], "{engine}", "Engines that this process has"
    )


def _create(meter: Meter, kind: MetricKind) -> Callable[..., object]:
    return {
        MetricKind.COUNTER: meter.create_observable_counter,
        MetricKind.AMOUNT: meter.create_observable_up_down_counter,
        MetricKind.GAUGE: meter.create_observable_gauge,
    }[kind]


def _pools(reports: _Reports, metric: Metric, _options: CallbackOptions) -> Iterator[Observation]:
    for pool in pools_shown(reports.for_the_next_look_of(metric.name)):
        for reading in metric.read(pool):
            yield Observation(reading.value, _of_pool(pool) | dict(reading.attributes))


def _engines(reports: _Reports, _options: CallbackOptions) -> Iterator[Observation]:
    yield Observation(reports.for_the_next_look_of("dbpool.engines")["engines"])


def _of_pool(pool: Pool) -> Attributes:
    return {POOL_NAME: pool["name"], ENGINE: str(pool["number"])}


class _Reports:
    """Makes one report for each time that a reader collects: it asks instrument by instrument."""

    def __init__(self, durations: list[_Durations]) -> None:
        self._durations = durations
        self._shown: set[str] = set()
        self._report: Mapping[str, Any] | None = None
        for pool in pools_shown(process_report(stacks=False)):
            for each in durations:
                each.begin(pool)

    def for_the_next_look_of(self, instrument: str) -> Mapping[str, Any]:
        """Return a report that this instrument has not shown yet."""
        if self._report is None or instrument in self._shown:
            self._shown = set()
            self._report = process_report(stacks=False)
            for pool in pools_shown(self._report):
                for each in self._durations:
                    each.record(pool)
        self._shown.add(instrument)
        return self._report


class _Durations:
    """Tells a histogram what the pools have counted by size since it was told last.

    OpenTelemetry has no histogram that is observed, and one that hears of each checkout would make
    each slower. So the durations are recorded here: as many in each bucket as there were, and of
    such lengths that their sum is right. Only the least and the greatest are not what they were.
    """

    def __init__(self, meter: Meter, metric: Metric) -> None:
        self._metric = metric
        self._histogram: Histogram = meter.create_histogram(
            metric.name,
            metric.unit,
            metric.text,
            explicit_bucket_boundaries_advisory=BOUNDS_SECONDS,
        )
        # By process and engine: what a forked child has counted, it has counted itself.
        self._told: dict[tuple[int, int], Counted] = {}

    def begin(self, pool: Pool) -> None:
        """Take what was counted already as told: it may be millions."""
        for reading in self._metric.read(pool):
            self._new(pool, reading.value)

    def record(self, pool: Pool) -> None:
        """Record what is new."""
        for reading in self._metric.read(pool):
            counts, seconds = self._new(pool, reading.value)
            for value, count in lengths(reading.value["bounds_seconds"], counts, seconds):
                for _ in range(count):
                    self._histogram.record(value, _of_pool(pool))

    def _new(self, pool: Pool, counted: Mapping[str, Any]) -> Counted:
        key = (os.getpid(), pool["number"])
        now: Counted = (list(counted["counts"]), counted["sum_seconds"])
        before, self._told[key] = self._told.get(key), now
        if before is None:
            return now
        counts = list(map(sub, now[0], before[0]))
        # After `engine.dispose()` a new pool has begun at zero.
        return now if min(counts) < 0 else (counts, now[1] - before[1])


def lengths(
    bounds: Sequence[float], counts: Sequence[int], seconds: float
) -> list[tuple[float, int]]:
    """Find durations that fall into these buckets and have this sum: (seconds, how many).

    :param bounds: the upper bounds of the buckets but the last, which has none.
    :param counts: how many there are in each bucket.
    :param seconds: their sum.
    """
    floors, longest = [0.0, *bounds], bounds[-1]
    above = counts[-1]
    least = sum(map(mul, floors, counts))
    room = sum(map(mul, map(sub, bounds, floors), counts))
    # All that are within bounds as far up in their buckets; the middle if others make up the sum.
    share = 0.5 if above else 1.0
    if room and (not above or least + room / 2 > seconds):
        share = min(max((seconds - least) / room, 0.0), 1.0)
    rest = (seconds - (least - above * longest) - share * room) / above if above else 0.0
    values = [
        # Within (floor, bound]: the next bucket has its floor, and zero the first one.
        min(max(floor + share * (bound - floor), nextafter(floor, inf) if floor else 0.0), bound)
        for floor, bound in pairwise(floors)
    ]
    values.append(max(rest, nextafter(longest, inf)))
    return [(value, count) for value, count in zip(values, counts, strict=True) if count]
