"""Metrics for OpenTelemetry, as its SDK's readers collect them."""

import os
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.metrics import Meter, NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    InMemoryMetricReader,
    Metric,
    NumberDataPoint,
)
from opentelemetry.semconv._incubating.metrics import db_metrics
from sqlalchemy import text

from pyramid_dbpool import dispose_engine, get_engine, opentelemetry
from pyramid_dbpool.opentelemetry import instrument, lengths
from pyramid_dbpool.pool.stats import BOUNDS_SECONDS
from pyramid_dbpool.telemetry.report import process_report
from tests.support.reports import histogram, holder, pool, report, waiter

DEFAULT = {"db.client.connection.pool.name": "default", "engine": "0"}


class Monitoring:
    """A meter provider with one reader, and the report that it is shown."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False)
        self.report = report()
        self.reports_made = 0

    def process_report(self, *, stacks: bool) -> Any:
        """Stand in for the process's own."""
        assert not stacks, "nobody is shown them"
        self.reports_made += 1
        return self.report

    def metrics(self) -> dict[str, Metric]:
        """Let the reader collect."""
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        scopes = [scope for each in data.resource_metrics for scope in each.scope_metrics]
        return {metric.name: metric for scope in scopes for metric in scope.metrics}

    def value(self, name: str, **attributes: str) -> Any:
        """Let it collect, and give a value of the default pool's."""
        return value(self.metrics(), name, DEFAULT | attributes)


def value(metrics: dict[str, Metric], name: str, attributes: dict[str, str]) -> Any:
    """Give the value that has exactly these attributes."""
    points = [p for p in metrics[name].data.data_points if dict(p.attributes or {}) == attributes]
    assert len(points) <= 1, points
    point = points[0] if points else None
    return point.value if isinstance(point, NumberDataPoint) else point


@pytest.fixture
def monitoring(monkeypatch: pytest.MonkeyPatch) -> Iterator[Monitoring]:
    """Give a provider whose process says what the test says."""
    made = Monitoring()
    monkeypatch.setattr(opentelemetry, "process_report", made.process_report)
    yield made
    made.provider.shutdown()


def test_the_conventions_metrics_are_all_there(monitoring: Monitoring) -> None:
    """With their names and units."""
    ours = {
        text: getattr(db_metrics, f"create_{constant.lower()}")
        for constant, text in vars(db_metrics).items()
        if constant.startswith("DB_CLIENT_CONNECTION_")
    }
    other = MeterProvider([reader := InMemoryMetricReader()], shutdown_on_exit=False)
    for create in ours.values():
        made = create(other.get_meter("conventions"))
        made.record(1) if hasattr(made, "record") else made.add(1)
    data = reader.get_metrics_data()
    assert data is not None
    theirs = {metric.name: metric for metric in data.resource_metrics[0].scope_metrics[0].metrics}
    instrument(monitoring.provider)
    monitoring.report = report(pools=[pool(min_idle=1, **counted(1))])
    monitoring.metrics()
    monitoring.report = report(pools=[pool(min_idle=1, **counted(2))])
    found = monitoring.metrics()
    for name, metric in theirs.items():
        assert found[name].unit == metric.unit, name
        assert type(found[name].data) is type(metric.data), name
    other.shutdown()


def counted(number: int) -> dict[str, Any]:
    """Give a pool's histograms with so many durations in each."""
    return {key: histogram({0.01: number}) for key in ("wait", "hold", "connect")}


def test_the_numbers_are_those_of_the_report(monitoring: Monitoring) -> None:
    """Each with the attributes that tell it from the others."""
    instrument(monitoring.provider)
    busy = pool(
        holders=[holder(seconds=72.5)], waiters=[waiter(holds=True)], refused={"timeout": 3}
    )
    monitoring.report = report(pools=[busy], engines=1)
    assert monitoring.value("db.client.connection.count", **{STATE: "used"}) == 1
    assert monitoring.value("db.client.connection.count", **{STATE: "idle"}) == 2
    assert monitoring.value("db.client.connection.max") == 15
    assert monitoring.value("db.client.connection.pending_requests") == 1
    assert monitoring.value("db.client.connection.timeouts") == 3
    assert monitoring.value("dbpool.refused", reason="timeout") == 3
    assert monitoring.value("dbpool.refused", reason="outage") == 0
    assert monitoring.value("dbpool.longest_hold") == 72.5
    assert monitoring.value("dbpool.waiting_holders") == 1
    assert value(monitoring.metrics(), "dbpool.engines", {}) == 1


STATE = "db.client.connection.state"


def test_one_report_is_made_each_time_that_a_reader_collects(monitoring: Monitoring) -> None:
    """For all instruments, and anew the next time."""
    instrument(monitoring.provider)
    monitoring.metrics()
    before = monitoring.reports_made
    monitoring.metrics()
    assert monitoring.reports_made == before + 1


def test_a_second_call_does_nothing(monitoring: Monitoring) -> None:
    """An SDK that gives each instrument its callbacks would count each duration twice."""
    asked: list[str] = []

    class Provider(NoOpMeterProvider):
        def get_meter(self, name: str, *words: Any, **others: Any) -> Meter:
            asked.append(name)
            return super().get_meter(name, *words, **others)

    provider = Provider()
    instrument(provider)
    instrument(provider)
    assert asked == ["pyramid_dbpool"]
    instrument(Provider())
    assert len(asked) == 2


def test_histograms_have_what_was_counted_since_the_last_time(monitoring: Monitoring) -> None:
    """In the pool's own buckets, with the right sum; what was before the call is not told."""
    monitoring.report = report(pools=[pool(wait=histogram({0.0001: 1_000_000}))])
    instrument(monitoring.provider)
    monitoring.metrics()
    monitoring.report = report(pools=[pool(wait=histogram({0.0001: 1_000_010, 0.1: 5}))])
    point = monitoring.value("db.client.connection.wait_time")
    assert isinstance(point, HistogramDataPoint)
    assert list(point.explicit_bounds) == list(BOUNDS_SECONDS)
    assert point.bucket_counts[0] == 10
    assert point.bucket_counts[6] == 5
    assert point.count == 15
    assert point.sum == pytest.approx(0.501)
    monitoring.report = report(pools=[pool(wait=histogram({0.0001: 1_000_011, 0.1: 5}))])
    assert monitoring.value("db.client.connection.wait_time").count == 16


def test_the_histograms_of_a_new_pool_are_told_from_its_beginning(monitoring: Monitoring) -> None:
    """Of an engine that is made later, and of one whose pool was disposed of."""
    monitoring.report = report(pools=[pool(hold=histogram({0.1: 100}))])
    instrument(monitoring.provider)
    late = pool(number=1, hold=histogram({0.1: 3}))
    monitoring.report = report(pools=[pool(hold=histogram({0.1: 2})), late])
    found = monitoring.metrics()
    name = "db.client.connection.use_time"
    assert value(found, name, DEFAULT).count == 2
    assert value(found, name, DEFAULT | {"engine": "1"}).count == 3


def test_histograms_can_be_left_out(monitoring: Monitoring) -> None:
    """For who has many checkouts, and a reader that comes often."""
    instrument(monitoring.provider, histograms=False)
    monitoring.report = report(pools=[pool(**counted(5))])
    names = monitoring.metrics()
    assert "db.client.connection.count" in names
    assert "db.client.connection.wait_time" not in names


def test_a_forked_child_tells_what_it_has_counted_itself(
    monitoring: Monitoring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pools begin at zero, whatever the parent had told."""
    monitoring.report = report(pools=[pool(hold=histogram({0.1: 100}))])
    instrument(monitoring.provider)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    monitoring.report = report(pools=[pool(hold=histogram({0.1: 103}))])
    assert monitoring.value("db.client.connection.use_time").count == 103


def test_a_pool_at_work_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has counted, as its own report says it."""
    # However many engines other tests have left behind.
    monkeypatch.setattr("pyramid_dbpool.telemetry.metrics.ENGINES_SHOWN", 10_000)
    settings = {"sqlalchemy.url": f"sqlite:///{tmp_path}/notes.db"}
    engine, made = get_engine(settings), Monitoring()
    instrument(made.provider)
    for _ in range(3):
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    found, pool_ = made.metrics(), process_report()["pools"][-1]
    own = {"db.client.connection.pool.name": "default", "engine": str(pool_["number"])}
    assert value(found, "db.client.connection.use_time", own).count == 3
    assert value(found, "db.client.connection.create_time", own).count == pool_["opened"]
    assert value(found, "db.client.connection.count", own | {STATE: "idle"}) == pool_["idle"]
    made.provider.shutdown()
    dispose_engine(settings)


@given(st.lists(st.floats(0, 100), max_size=30))
def test_lengths_fall_into_their_buckets_and_have_their_sum(seconds: list[float]) -> None:
    """Whatever the durations were."""
    counts = [0] * (len(BOUNDS_SECONDS) + 1)
    for each in seconds:
        counts[bisect_left(BOUNDS_SECONDS, each)] += 1
    found = lengths(BOUNDS_SECONDS, counts, sum(seconds))
    again = [0] * len(counts)
    for length, count in found:
        again[bisect_left(BOUNDS_SECONDS, length)] += count
    assert again == counts
    assert sum(length * count for length, count in found) == pytest.approx(sum(seconds), abs=1e-9)
