"""Metrics of all pools of this host for Prometheus, from whichever process is scraped.

With the package ``prometheus_client`` (the extra ``prometheus``). Beside metrics of the app's own,
in whatever registry it exposes, also in multiprocess mode::

    registry.register(PoolCollector(settings))

Or by themselves, on a path of the app's: ``config.include("pyramid_dbpool.prometheus")``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from .telemetry.metrics import (
    ENGINE,
    METRICS,
    POOL_NAME,
    Kind,
    Reading,
    pools_shown,
    prometheus_name,
)

__all__ = ["families"]

Report = Mapping[str, Any]
Labels = dict[str, str]

_FAMILIES: Mapping[Kind, Callable[[str, str], Metric]] = {
    Kind.COUNTER: CounterMetricFamily,
    Kind.AMOUNT: GaugeMetricFamily,
    Kind.GAUGE: GaugeMetricFamily,
    Kind.HISTOGRAM: HistogramMetricFamily,
}


def families(reports: Mapping[int, Report | None]) -> list[Metric]:
    """Write the reports of processes as Prometheus' metrics.

    Each process is a series of its own, so that no counter ever goes backwards: that of one that
    has ended ends with it.

    :param reports: by process; None: it does not answer.
    """
    written = [_up(reports), _started(reports), _engines(reports)]
    said = [(_labels(report), report) for report in reports.values() if report is not None]
    pools = [
        (labels | _of_pool(pool), pool) for labels, report in said for pool in pools_shown(report)
    ]
    for metric in METRICS:
        name = prometheus_name(metric.name, metric.kind, metric.unit)
        family = _FAMILIES[metric.kind](name, f"{metric.text}.")
        for labels, pool in pools:
            for reading in metric.read(pool):
                _add(family, metric.kind, labels, reading)
        written.append(family)
    return written


def _add(family: Metric, kind: Kind, labels: Labels, reading: Reading) -> None:
    own = labels | {key.replace(".", "_"): _text(text) for key, text in reading.attributes.items()}
    if kind is Kind.HISTOGRAM:
        _add_histogram(family, own, reading.value)
    else:
        suffix = "_total" if kind is Kind.COUNTER else ""
        family.add_sample(family.name + suffix, own, reading.value)


def _add_histogram(family: Metric, labels: Labels, counted: Mapping[str, Any]) -> None:
    bounds = [*map(str, map(float, counted["bounds_seconds"])), "+Inf"]
    cumulated = list(accumulate(counted["counts"]))
    for bound, count in zip(bounds, cumulated, strict=True):
        family.add_sample(f"{family.name}_bucket", labels | {"le": bound}, count)
    family.add_sample(f"{family.name}_count", labels, cumulated[-1])
    family.add_sample(f"{family.name}_sum", labels, counted["sum_seconds"])


def _up(reports: Mapping[int, Report | None]) -> Metric:
    family = GaugeMetricFamily(
        "dbpool_process_up", "Whether a process of this host answers (1), or hangs (0)."
    )
    for pid, report in reports.items():
        # No more labels: they would tell the series of a process that hangs from that of before.
        family.add_sample(family.name, {"pid": str(pid)}, float(report is not None))
    return family


def _started(reports: Mapping[int, Report | None]) -> Metric:
    return _of_processes(
        "dbpool_process_start_time_seconds", "When a process began.", reports, "started_at"
    )


def _engines(reports: Mapping[int, Report | None]) -> Metric:
    return _of_processes("dbpool_engines", "Engines that a process has.", reports, "engines")


def _of_processes(name: str, text: str, reports: Mapping[int, Report | None], key: str) -> Metric:
    family = GaugeMetricFamily(name, text)
    for report in filter(None, reports.values()):
        family.add_sample(name, _labels(report), report[key])
    return family


def _labels(report: Report) -> Labels:
    return {
        "app": _text(report["app"]),
        "role": _text(report["role"]),
        "pid": str(report["pid"]),
    }


def _of_pool(pool: Mapping[str, Any]) -> Labels:
    return {POOL_NAME.replace(".", "_"): _text(pool["name"]), ENGINE: str(pool["number"])}


def _text(value: object) -> str:
    """Write a label; what cannot be encoded would cost the whole page."""
    text = "" if value is None else str(value)
    return text.encode("utf-8", "replace").decode()
