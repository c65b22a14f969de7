"""Metrics for Prometheus: what is written of the processes' reports."""

from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from pyramid_dbpool.prometheus import families
from pyramid_dbpool.telemetry.metrics import ENGINES_SHOWN
from tests.support.reports import holder, pool, report, waiter

POOL = {"db_client_connection_pool_name": "default", "engine": "0"}
WEB = {"app": "notes", "role": "web", "pid": "4711"}


class Hand(Collector):
    """Stands in for the processes: a collector of reports made by hand."""

    def __init__(self, *reports: Any, silent: tuple[int, ...] = ()) -> None:
        self.reports = {each["pid"]: each for each in reports} | dict.fromkeys(silent)

    def collect(self) -> list[Metric]:
        return families(self.reports)


def registry_of(collector: Hand) -> CollectorRegistry:
    """Give a registry with this collector alone."""
    registry = CollectorRegistry()
    registry.register(collector)
    return registry


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    """Give the value of a sample of the default pool of process 4711."""
    return registry.get_sample_value(name, POOL | WEB | labels)


@pytest.mark.parametrize(
    "name, labels, expected",
    [
        ("db_client_connection_count", {"db_client_connection_state": "idle"}, 2),
        ("db_client_connection_count", {"db_client_connection_state": "used"}, 2),
        ("db_client_connection_idle_max", {}, 5),
        ("db_client_connection_max", {}, 15),
        ("db_client_connection_pending_requests", {}, 2),
        ("db_client_connection_timeouts_total", {}, 3),
        ("db_client_connection_create_time_seconds_count", {}, 3),
        ("db_client_connection_use_time_seconds_sum", {}, 14.5),
        ("db_client_connection_wait_time_seconds_bucket", {"le": "0.0001"}, 990),
        ("db_client_connection_wait_time_seconds_bucket", {"le": "0.005"}, 990),
        ("db_client_connection_wait_time_seconds_bucket", {"le": "0.01"}, 1000),
        ("db_client_connection_wait_time_seconds_bucket", {"le": "+Inf"}, 1000),
        ("dbpool_longest_hold_seconds", {}, 72.5),
        ("dbpool_longest_wait_seconds", {}, 1.5),
        ("dbpool_waiting_holders", {}, 1),
        ("dbpool_refused_total", {"reason": "timeout"}, 3),
        ("dbpool_refused_total", {"reason": "outage"}, 0),
        ("dbpool_closed_total", {"reason": "idle"}, 1),
        ("dbpool_open_failed_total", {"reason": "unreachable"}, 0),
        ("dbpool_dead_connections_avoided_total", {}, 4),
        ("dbpool_outages_total", {}, 1),
        ("dbpool_outage_time_seconds_total", {}, 7.5),
        ("dbpool_outage_seconds", {}, 0),
        ("dbpool_write_outage_seconds", {}, 2.5),
        ("dbpool_paused_seconds", {}, 0),
    ],
)
def test_what_a_report_says_has_its_metric(
    name: str, labels: dict[str, str], expected: float
) -> None:
    """Under the conventions' name, or ours."""
    busy = pool(
        holders=[holder(seconds=0.5), holder(seconds=72.5)],
        waiters=[waiter(seconds=1.5, holds=True), waiter()],
        refused={"timeout": 3},
        dead_avoided=4,
        outages=1,
        outage_seconds_total=7.5,
        write_outage_seconds=2.5,
    )
    assert value(registry_of(Hand(report(pools=[busy]))), name, **labels) == expected


def test_a_pool_without_a_limit_says_nothing_of_one() -> None:
    """A number would be taken for the limit."""
    registry = registry_of(Hand(report(pools=[pool(size=0, capacity=None)])))
    assert value(registry, "db_client_connection_max") is None
    assert value(registry, "db_client_connection_idle_max") is None
    assert value(registry, "db_client_connection_pending_requests") == 0


def test_a_pool_of_another_class_says_what_it_can() -> None:
    """Its metrics are left out, and nothing fails."""
    other = {"name": "default", "number": 0, "database": "sqlite://", "managed": False}
    registry = registry_of(Hand(report(pools=[other])))
    assert value(registry, "db_client_connection_pending_requests") is None
    assert registry.get_sample_value("dbpool_engines", WEB) == 1


def test_a_process_that_hangs_is_there_and_silent() -> None:
    """In the same series as before."""
    registry = registry_of(Hand(report(1), silent=(2,)))
    assert registry.get_sample_value("dbpool_process_up", {"pid": "1"}) == 1
    assert registry.get_sample_value("dbpool_process_up", {"pid": "2"}) == 0


def test_two_processes_and_two_engines_are_series_of_their_own() -> None:
    """Also where the pools have one name."""
    two = [pool(number=0, waited=1), pool(number=1, waited=2)]
    registry = registry_of(Hand(report(4711, pools=two), report(5, pools=[pool(waited=4)])))
    assert value(registry, "dbpool_waited_total") == 1
    assert value(registry, "dbpool_waited_total", engine="1") == 2
    assert value(registry, "dbpool_waited_total", pid="5") == 4


def test_no_counter_goes_backwards_when_a_worker_is_killed() -> None:
    """Its series ends; what is left only grows."""
    hand = Hand(report(1, pools=[pool(waited=10)]), report(2, pools=[pool(waited=90)]))
    before = counters(hand)
    hand.reports = {1: report(1, pools=[pool(waited=11)]), 3: report(3)}
    after = counters(hand)
    both = before.keys() & after.keys()
    assert both
    assert all(after[series] >= before[series] for series in both)
    assert not any(("pid", "2") in series for series in after)


def counters(hand: Hand) -> dict[frozenset[tuple[str, str]], float]:
    """Give what only grows, by series."""
    return {
        frozenset({("", sample.name), *sample.labels.items()}): sample.value
        for family in hand.collect()
        for sample in family.samples
        if family.type in ("counter", "histogram")
    }


def test_an_app_with_an_engine_for_each_request_makes_no_series_without_end() -> None:
    """The number of its engines is there."""
    many = [pool(number=number) for number in range(1000)]
    hand = Hand(report(pools=many, engines=1000))
    registry = registry_of(hand)
    assert registry.get_sample_value("dbpool_engines", WEB) == 1000
    waited = next(f for f in hand.collect() if f.name == "dbpool_waited")
    assert len(waited.samples) == ENGINES_SHOWN


@pytest.mark.parametrize(
    "name",
    ['a"b', "a\\", "a\nb 1", "a\r\nb", 'x"} 1\ny{a="', "ünï", "\ud800", "\x00", ""],
    ids=ascii,
)
def test_a_hostile_name_breaks_no_line(name: str) -> None:
    """What is read back is one series with this name, in either format."""
    hand = Hand(report(pools=[pool(name)]))
    text = generate_latest(registry_of(hand)).decode()
    found = {
        sample.labels["db_client_connection_pool_name"]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "db_client_connection_pool_name" in sample.labels
    }
    assert found == {name.encode("utf-8", "replace").decode()}
    in_openmetrics: bytes = openmetrics.generate_latest(registry_of(hand))  # type: ignore[no-untyped-call]
    assert in_openmetrics.endswith(b"# EOF\n")


def test_nothing_of_holders_or_of_the_database_is_shown() -> None:
    """A label for each would make series without end, and a URL is nobody's business."""
    told = holder(label="GET /secret", stack=["secret (views.py:1)"])
    waits = waiter(label="GET /secret")
    one = pool(holders=[told], waiters=[waits], database="postgresql://secret:***@secret/secret")
    text = generate_latest(registry_of(Hand(report(pools=[one], host="secret"))))
    assert b"secret" not in text
