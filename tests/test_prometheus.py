"""Metrics for Prometheus: what is written of the processes' reports, and by whom."""

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from sqlalchemy import make_url
from webtest import TestApp

from pyramid_dbpool import SettingsError, dispose_engine, get_engine
from pyramid_dbpool.prometheus import PoolCollector, families
from pyramid_dbpool.telemetry.metrics import ENGINES_SHOWN
from tests.support.asked import asked
from tests.support.programs import run_program
from tests.support.reports import holder, pool, report, waiter
from tests.support.servers.ports import deaf_port
from tests.support.webapp import PARTS, app

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
        ("db_client_connection_count", {"db_client_connection_state": "used"}, 3),
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
        held=1,
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


def test_an_engine_that_others_came_before_is_shown() -> None:
    """As in a process that has disposed of many."""
    registry = registry_of(Hand(report(pools=[pool(number=1000, waited=3)])))
    assert value(registry, "dbpool_waited_total", engine="1000") == 3


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


# The collector


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Give a folder that is still to be made."""
    return tmp_path / "run"


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Give those of an app without a folder."""
    made = {"sqlalchemy.url": f"sqlite:///{tmp_path}/notes.db"}
    yield made
    dispose_engine(made)


@pytest.fixture
def all_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show this process's engine, however many other tests have left behind."""
    monkeypatch.setattr("pyramid_dbpool.telemetry.metrics.ENGINES_SHOWN", 10_000)


def registered(settings: dict[str, str], timeout: float = 30) -> CollectorRegistry:
    """Give a registry with the collector alone."""
    registry = CollectorRegistry()
    registry.register(PoolCollector(settings, timeout))
    return registry


def up(registry: CollectorRegistry) -> dict[int, float]:
    """Say of each process that is shown whether it answers."""
    (found,) = [each for each in registry.collect() if each.name == "dbpool_process_up"]
    return {int(sample.labels["pid"]): sample.value for sample in found.samples}


@pytest.mark.usefixtures("all_engines")
def test_without_a_folder_a_process_shows_itself(settings: dict[str, str]) -> None:
    """With what its pools have counted."""
    get_engine(settings).connect().close()
    registry = registered(settings)
    assert up(registry) == {os.getpid(): 1}
    assert "db_client_connection_use_time_seconds_count" in generate_latest(registry).decode()


def test_whoever_is_scraped_shows_all_processes(run_dir: Path) -> None:
    """Also one without an engine of its own, which only looks."""
    with asked(run_dir) as first, asked(run_dir) as second:
        registry = registered({"dbpool.run_dir": str(run_dir)})
        shown = {pid: is_up for pid, is_up in up(registry).items() if pid != os.getpid()}
        assert shown == {first.pid: 1, second.pid: 1}
        os.kill(first.pid, signal.SIGKILL)
        first.process.wait()
        shown = {pid: is_up for pid, is_up in up(registry).items() if pid != os.getpid()}
        assert shown == {second.pid: 1}


def test_one_that_is_stopped_is_shown_as_silent(run_dir: Path) -> None:
    """The page does not wait for it for longer than it may."""
    with asked(run_dir) as first:
        os.kill(first.pid, signal.SIGSTOP)
        registry = registered({"dbpool.run_dir": str(run_dir)}, timeout=0.1)
        assert up(registry)[first.pid] == 0


def test_nobody_is_asked_when_it_is_registered(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry wants only the names, and refuses them a second time."""
    monkeypatch.setattr("pyramid_dbpool.prometheus.ask", lambda *_, **__: pytest.fail("asked"))
    registry = CollectorRegistry(auto_describe=True)
    registry.register(PoolCollector({"dbpool.run_dir": str(run_dir)}))
    with pytest.raises(ValueError, match="dbpool_process_up"):
        registry.register(PoolCollector({"dbpool.run_dir": str(run_dir)}))


def test_it_stands_beside_an_app_s_own_metrics(settings: dict[str, str]) -> None:
    """In one registry, as `prometheus_client`'s own is."""
    get_engine(settings)
    registry = registered(settings)
    Counter("orders", "Orders.", registry=registry).inc()
    text = generate_latest(registry).decode()
    assert "orders_total 1.0" in text
    assert "dbpool_outages_total" in text


IN_MULTIPROCESS_MODE = """
import sys
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from pyramid_dbpool import get_engine
from pyramid_dbpool.prometheus import PoolCollector

settings = {"sqlalchemy.url": sys.argv[1]}
get_engine(settings)
Counter("orders", "Orders.").inc()
registry = CollectorRegistry()
MultiProcessCollector(registry)
registry.register(PoolCollector(settings))
print(generate_latest(registry).decode())
"""


@pytest.mark.programs
def test_it_stands_beside_them_in_multiprocess_mode(
    tmp_path: Path, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the registry that is exposed."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    said = run_program(IN_MULTIPROCESS_MODE, settings["sqlalchemy.url"])
    assert "orders_total 1.0" in said.stdout, said.stderr
    assert said.stdout.count("\ndbpool_process_up{") == 1


def test_a_folder_that_cannot_be_looked_into_is_one_warning(
    tmp_path: Path, settings: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """The process shows itself."""
    missing = settings | {"dbpool.run_dir": str(tmp_path / "no" / "run")}
    get_engine(settings)
    registry = registered(missing)
    with caplog.at_level(logging.WARNING, "pyramid_dbpool.prometheus"):
        assert up(registry) == {os.getpid(): 1}
        assert up(registry) == {os.getpid(): 1}
    (said,) = [each for each in caplog.records if each.name == "pyramid_dbpool.prometheus"]
    assert "Only this process's metrics are shown." in said.getMessage()


def test_a_relative_folder_is_refused() -> None:
    """Each process would look elsewhere."""
    with pytest.raises(SettingsError, match=r"dbpool\.run_dir"):
        PoolCollector({"dbpool.run_dir": "run"})


@pytest.mark.usefixtures("all_engines")
def test_no_secret_is_shown(tmp_path: Path) -> None:
    """Neither of the URL nor of what goes to the driver."""
    url = make_url("postgresql+psycopg://me@localhost/x?sslpassword=secret1")
    secret = {
        "sqlalchemy.url": url.set(password="secret2").render_as_string(hide_password=False),
        "sqlalchemy.connect_args": '{"options": "secret3"}',
    }
    get_engine(secret)
    text = generate_latest(registered(secret)).decode()
    dispose_engine(secret)
    assert 'pool_name="default"' in text
    assert "secret" not in text


# The page


PROMETHEUS = (*PARTS, "pyramid_dbpool.prometheus")


def test_an_app_answers_with_its_metrics(psycopg_url: str) -> None:
    """In the format that is asked for; and no cache keeps them."""
    with app({"sqlalchemy.url": psycopg_url}, *PROMETHEUS) as web:
        plain = web.get("/dbpool/metrics")
        wanted = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
        other = web.get("/dbpool/metrics", headers=wanted)
    assert plain.headers["Content-Type"].startswith("text/plain; version=")
    assert plain.headers["Cache-Control"] == "no-store"
    assert 'dbpool_engines{app="' in plain.text
    assert other.headers["Content-Type"].startswith("application/openmetrics-text")
    assert other.text.endswith("# EOF\n")


def test_the_page_is_where_the_setting_says(psycopg_url: str) -> None:
    """And nowhere else; and what is sent there is the app's."""
    settings = {"sqlalchemy.url": psycopg_url, "dbpool.prometheus_route": "/pools"}
    with app(settings, *PROMETHEUS) as web:
        assert "dbpool_engines" in web.get("/pools").text
        web.get("/dbpool/metrics", status=404)
        web.client.post("/pools", status=404)


@pytest.mark.usefixtures("all_engines")
def test_the_page_is_there_without_a_free_connection(psycopg_url: str) -> None:
    """And shows that there is none."""
    url = {"sqlalchemy.url": psycopg_url, "sqlalchemy.max_overflow": 0}
    with app(url | {"sqlalchemy.pool_size": 1}, *PROMETHEUS) as web, web.engine.connect():
        text = web.get("/dbpool/metrics").text
    assert 'db_client_connection_state="used"' in text


def test_the_page_is_there_while_the_database_is_away(psycopg_url: str) -> None:
    """Nobody asks it anything."""
    url = make_url(psycopg_url).set(port=deaf_port()).render_as_string(hide_password=False)
    with app({"sqlalchemy.url": url}, *PROMETHEUS) as web:
        web.get("/dbpool/metrics", status=200)


def refusing(handler: Any, registry: Any) -> Any:
    """Make a tween that lets nobody in."""

    def tween(request: Any) -> Any:
        raise PermissionError(request.path)

    return tween


def include_refusing(config: Any) -> None:
    """Add it over all that is there."""
    config.add_tween(f"{__name__}.refusing")


def test_the_page_comes_before_all_that_an_app_asks_of_visitors(psycopg_url: str) -> None:
    """Those may ask the database who somebody is."""
    with app({"sqlalchemy.url": psycopg_url}, *PROMETHEUS, include_refusing) as web:
        web.get("/dbpool/metrics", status=200)
        with pytest.raises(PermissionError):
            web.get("/")


def test_an_app_may_include_it_under_a_prefix() -> None:
    """As its routes."""
    with Configurator(settings={"sqlalchemy.url": "sqlite:///never.db"}) as config:
        config.include("pyramid_dbpool")
        config.include("pyramid_dbpool.prometheus", route_prefix="/ops/")
    web = TestApp(config.make_wsgi_app())
    web.get("/ops/dbpool/metrics")
    web.get("/dbpool/metrics", status=404)


def test_a_wrong_path_is_an_error_of_the_configuration(psycopg_url: str) -> None:
    """With the key in it."""
    settings = {"sqlalchemy.url": psycopg_url, "dbpool.prometheus_route": "metrics"}
    with (
        pytest.raises(ConfigurationError, match=r"dbpool\.prometheus_route"),
        app(settings, "pyramid_dbpool.prometheus"),
    ):
        pass


WITHOUT_PYRAMID = """
import sys
sys.modules["pyramid"] = None
from prometheus_client import CollectorRegistry, generate_latest
from pyramid_dbpool.prometheus import PoolCollector
registry = CollectorRegistry()
registry.register(PoolCollector({}))
print(len(generate_latest(registry)) > 0)
"""


@pytest.mark.programs
def test_the_collector_needs_no_pyramid() -> None:
    """A worker, or a program that only shows metrics, has none."""
    said = run_program(WITHOUT_PYRAMID)
    assert said.stdout == "True\n", said.stderr
