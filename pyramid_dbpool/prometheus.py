"""Metrics of all pools of this host for Prometheus, from whichever process is scraped.

With the package ``prometheus_client`` (the extra ``prometheus``). Beside metrics of the app's own,
in whatever registry it exposes, also in multiprocess mode::

    registry.register(PoolCollector(settings))

Or by themselves, on a path of the app's: ``config.include("pyramid_dbpool.prometheus")``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from .settings import app_setting
from .telemetry.host import TIMEOUT, Answer, RunDirError, ask
from .telemetry.metrics import (
    ENGINE,
    METRICS,
    POOL_NAME,
    MetricKind,
    Reading,
    pools_shown,
    prometheus_name,
)
from .telemetry.report import process_report

__all__ = ["PoolCollector", "families", "includeme", "tween_factory"]

log = logging.getLogger(__name__)

TWEEN = f"{__name__}.tween_factory"
READS = frozenset({"GET", "HEAD"})

# The registry's key of the app's `_Page`.
_PAGE = "pyramid_dbpool.prometheus"

Report = Mapping[str, Any]
Labels = dict[str, str]

_FAMILIES: Mapping[MetricKind, Callable[[str, str], Metric]] = {
    MetricKind.COUNTER: CounterMetricFamily,
    MetricKind.AMOUNT: GaugeMetricFamily,
    MetricKind.GAUGE: GaugeMetricFamily,
    MetricKind.HISTOGRAM: HistogramMetricFamily,
}


class PoolCollector(Collector):
    """Collects the metrics of all processes of this host that answer in `dbpool.run_dir`.

    For a registry of ``prometheus_client``. Where no folder is set, of this process alone. ::

        registry.register(PoolCollector(settings))

    In multiprocess mode register it with the registry that is exposed, beside the
    `MultiProcessCollector`: what it finds is never in that one's files.

    :param settings: the app's settings; only `dbpool.run_dir` is looked at.
    :param timeout: how long processes may take to answer, in seconds.
    :raises SettingsError: `dbpool.run_dir` is wrong.
    """

    def __init__(self, settings: Mapping[str, Any], timeout: float = TIMEOUT) -> None:
        self._run_dir: str | None = app_setting(settings, "run_dir")
        self._timeout = timeout
        self._complaint = ""

    def describe(self) -> list[Metric]:
        """Name the metrics; a registry asks when this is registered, and nobody else is asked."""
        return families({})

    def collect(self) -> list[Metric]:
        """Ask the processes, and write what they answer."""
        reports = {answer.pid: answer.report for answer in self._answers()}
        own = process_report(stacks=False)
        # Itself without asking: its socket may not be there. Who has no pools only looks.
        if own["pools"] or own["pid"] in reports:
            reports[own["pid"]] = own
        return families(reports)

    def _answers(self) -> list[Answer]:
        if self._run_dir is None:
            return []
        try:
            answers = ask(self._run_dir, stacks=False, timeout=self._timeout)
        except RunDirError as error:
            self._complain(f"{error} Only this process's metrics are shown.")
            return []
        self._complaint = ""
        return answers

    def _complain(self, text: str) -> None:
        # Prometheus comes every few seconds.
        if text != self._complaint:
            log.warning("%s", text)
        self._complaint = text


def includeme(config: Any) -> None:
    """Answer on `dbpool.prometheus_route` with the metrics of all pools of this host.

    What ``config.include("pyramid_dbpool.prometheus")`` calls. The answer comes before any view
    and security policy, because those may ask a database that is away: who reaches the path reads
    it.

    :raises SettingsError: the path or `dbpool.run_dir` is wrong (also a Pyramid
        `ConfigurationError`).
    """
    # Here: a collector works without Pyramid.
    from .web import include  # noqa: PLC0415

    settings = config.get_settings()
    with include.as_configuration_error():
        path = app_setting(settings, "prometheus_route")
        whole = include.whole_path(config, path)
        config.registry[_PAGE] = _Page(whole, PoolCollector(settings))
    include.add_outer_tween(config, TWEEN)


class _Page:
    """What one app answers."""

    def __init__(self, path: str, collector: Collector) -> None:
        self.path = path
        self.registry = CollectorRegistry()
        self.registry.register(collector)

    def fill(self, response: Any, accept: str) -> Any:
        """Write the metrics into a response, in the format that is asked for."""
        encoder, content_type = choose_encoder(accept)
        response.body = encoder(self.registry)
        response.headers["Content-Type"] = content_type
        response.cache_control = "no-store"
        return response


def tween_factory(handler: Callable[[Any], Any], registry: Any) -> Callable[[Any], Any]:
    """Return the tween that answers on the path."""
    page: _Page = registry[_PAGE]

    def tween(request: Any) -> Any:
        # What else is sent there is the app's: it may have a view of its own.
        if request.environ.get("PATH_INFO") != page.path or request.method not in READS:
            return handler(request)
        return page.fill(request.response, request.headers.get("Accept", ""))

    return tween


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


def _add(family: Metric, kind: MetricKind, labels: Labels, reading: Reading) -> None:
    own = labels | {key.replace(".", "_"): _text(text) for key, text in reading.attributes.items()}
    if kind is MetricKind.HISTOGRAM:
        _add_histogram(family, own, reading.value)
    else:
        suffix = "_total" if kind is MetricKind.COUNTER else ""
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
