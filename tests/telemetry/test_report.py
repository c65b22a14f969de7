"""What a process says of itself."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from pyramid_dbpool import DatabaseUnavailable, ManagedPool, dispose_engine, get_engine
from pyramid_dbpool.clock import monotonic
from pyramid_dbpool.drivers.connect_failures import ConnectFailure
from pyramid_dbpool.engines import registry
from pyramid_dbpool.engines.application_name import app_name
from pyramid_dbpool.engines.registry import process_engine
from pyramid_dbpool.pool.labels import holder_label
from pyramid_dbpool.telemetry import report
from pyramid_dbpool.telemetry.report import process_report
from tests.support import reports
from tests.support.programs import run_program
from tests.support.servers.ports import deaf_port


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Yield settings with two pools, and forget their engines."""
    found = {
        "sqlalchemy.url": f"sqlite:///{tmp_path}/notes.db",
        "sqlalchemy.connect_args": '{"timeout": 7}',
        "sqlalchemy.other.url": f"sqlite:///{tmp_path}/other.db",
        "sqlalchemy.other.poolclass": "NullPool",
    }
    yield found
    for name in ("default", "other"):
        dispose_engine(found, name)


def mine(engine: Engine) -> Any:
    """Return what the report says of one engine's pool."""
    database = str(engine.url.database)
    return next(
        each
        for each in process_report()["pools"]
        if each["database"].partition("?")[0].endswith(str(database))
    )


def test_a_report_has_the_shape_that_windows_are_built_on(settings: dict[str, str]) -> None:
    """Field by field; and it is JSON."""
    engine = get_engine(settings)
    with holder_label("the import"), engine.connect():
        report = process_report()
        pool = mine(engine)
    expected = reports.report()
    assert report.keys() == expected.keys()
    assert {name: type(value) for name, value in report.items() if name != "pools"} == {
        name: type(value) for name, value in expected.items() if name != "pools"
    }
    assert pool.keys() == reports.pool().keys()
    (holder,) = pool["holders"]
    assert holder.keys() == reports.holder().keys()
    assert holder["label"] == "the import"
    assert json.loads(json.dumps(report)) == json.loads(json.dumps(report))
    assert report["pid"] == os.getpid()
    assert time.time() - 24 * 3600 < report["started_at"] <= report["at"] <= time.time()


def test_no_secret_is_in_it() -> None:
    """The URL is masked; nothing needs to connect for that."""
    settings = {
        "sqlalchemy.url": "postgresql+psycopg://notes:s3cret@127.0.0.1:1/n?sslpassword=h1dden"
    }
    get_engine(settings)
    said = json.dumps(process_report())
    dispose_engine(settings)
    assert "s3cret" not in said
    assert "h1dden" not in said
    assert "notes:***@127.0.0.1" in said


def test_the_app_has_the_name_that_its_settings_give_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who looks finds it under one name in all windows, and in the server's list of sessions."""
    # Whatever other tests have left.
    monkeypatch.setattr(registry, "process_engines", lambda: [])
    assert process_report()["app"] == app_name()
    named = {
        # Nothing needs to connect for that.
        "sqlalchemy.url": "postgresql+psycopg://notes@127.0.0.1:1/n",
        "dbpool.application_name": "notes-streamer",
    }
    made = process_engine(named)
    monkeypatch.setattr(registry, "process_engines", lambda: [made])
    told = process_report()
    dispose_engine(named)
    assert (told["app"], told["name"].split()[0]) == ("notes-streamer", "notes-streamer")


def test_another_pool_class_is_listed(settings: dict[str, str]) -> None:
    """With its name and its database, and what it can say."""
    pool = mine(get_engine(settings, "other"))
    assert pool["managed"] is False
    assert pool["name"] == "other"
    assert pool["leased"] is None


def test_events_after_a_number_are_told(settings: dict[str, str]) -> None:
    """So that whoever follows them reads none twice."""
    get_engine(settings)
    second = settings | {"sqlalchemy.pool_size": "3"}
    get_engine(second)
    try:
        events = process_report()["events"]
        if events:
            assert process_report(after=events[-1]["number"])["events"] == []
        assert json.dumps(events)
    finally:
        dispose_engine(second)


def test_outages_are_counted(settings: dict[str, str]) -> None:
    """Also the one that lasts; how long all of them took adds up."""
    pool = get_engine(settings).pool
    assert isinstance(pool, ManagedPool)
    openings = pool._core.opener.openings  # type: ignore[union-attr]
    assert (pool.snapshot().outages, pool.snapshot().outage_seconds_total) == (0, 0.0)
    kind = ConnectFailure.UNREACHABLE
    now = pool._core.shared.clock()
    openings.away(kind, OSError("no route"), now - 10.0, now)
    openings.away(kind, OSError("no route"), now - 5.0, now)
    lasting = pool.snapshot()
    assert lasting.outages == 1
    assert lasting.outage_seconds_total == lasting.outage_seconds
    openings.is_back(now)
    assert pool.snapshot().outage_seconds_total == pytest.approx(10.0)
    openings.away(kind, OSError("no route"), now + 1, now + 2)
    assert pool.snapshot().outages == 2
    openings.is_back(now + 3)
    assert pool.snapshot().outage_seconds_total == pytest.approx(12.0)


FORKED = """
import os, time
from pyramid_dbpool.engines.registry import process_engine
from pyramid_dbpool.telemetry import report
from pyramid_dbpool.telemetry.report import process_report
parent = process_report()
time.sleep(0.05)
child = os.fork()
if not child:
    report = process_report()
    assert report["pid"] == os.getpid()
    assert report["started_at"] > parent["started_at"], report
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_child_began_when_it_was_forked() -> None:
    """Its counters began then, too."""
    assert run_program(FORKED).stdout.strip() == "7"


def test_the_number_of_an_engine_is_never_anothers(settings: dict[str, str]) -> None:
    """Its counters would go on where those of one that was disposed of ended."""
    other = get_engine(settings, "other")
    first = mine(get_engine(settings))["number"]
    dispose_engine(settings)
    assert mine(get_engine(settings))["number"] > first
    assert mine(other)["number"] < first


def test_an_outage_that_nobody_looks_at_any_more_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An app that sleeps would seem to be without its database all night."""
    url = f"postgresql+psycopg://127.0.0.1:{deaf_port()}/notes"
    # Refused by the first failure, however long a busy machine takes to it.
    away = {"sqlalchemy.url": url, "dbpool.outage_grace": "0s"}
    engine = get_engine(away)
    with pytest.raises(DatabaseUnavailable):
        engine.connect()
    assert mine(engine)["outage_seconds"] is not None
    later = monotonic() + 2 * report.QUIET
    monkeypatch.setattr(report, "monotonic", lambda: later)
    assert mine(engine)["outage_seconds"] is None
    dispose_engine(away)


def test_whoever_asks_has_it_seen_whether_the_server_takes_writes_again(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was seen only by somebody who waits."""
    made = process_engine(settings)
    looks: list[bool] = []
    monkeypatch.setattr(made.writes, "look_beside", lambda: looks.append(True))
    process_report()
    assert looks
