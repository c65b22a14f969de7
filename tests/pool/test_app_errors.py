"""What the app's own code raises while a connection is opened is not blamed on the database."""

import logging
import re
import sqlite3
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import psycopg2
import pymysql
import pytest
from sqlalchemy import Engine, create_engine, event, text

from pyramid_dbpool import DatabaseUnavailable, deadline, dispose_engine, get_engine
from pyramid_dbpool.drivers.app_errors import place_in_app
from pyramid_dbpool.drivers.connect_failures import ConnectFailure, classify_connect_failure
from pyramid_dbpool.engines.probes import connect_once, reason
from pyramid_dbpool.settings import load_pool
from tests.support.makers import PATIENCE, in_thread, wait_for
from tests.support.servers.ports import deaf_port

HERE = rf"\({re.escape(__file__)}:\d+\): URLError: <urlopen error \[Errno 111\]"
UNREACHABLE = ConnectFailure.UNREACHABLE
TOKEN = f"http://127.0.0.1:{deaf_port()}/token"


def ask_for_token(*_: Any) -> None:
    """Stand for a service that gives out passwords, and is away."""
    with urllib.request.urlopen(TOKEN):
        pass


def asks_first(engine: Engine) -> None:
    """Be an engine hook that has each connection's password asked for."""
    event.listen(engine, "do_connect", ask_for_token)


@pytest.fixture
def settings(psycopg_url: str) -> Iterator[dict[str, Any]]:
    """Give settings whose database is there, and whose passwords are not."""
    settings = {
        "sqlalchemy.url": psycopg_url,
        "dbpool.engine_hook": asks_first,
        "dbpool.outage_grace": "0",
    }
    yield settings
    dispose_engine(settings)


def test_a_listener_that_fails_is_named_with_its_place(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """In the error and in the log, which say nothing of the server."""
    with pytest.raises(DatabaseUnavailable) as caught, deadline(PATIENCE):
        get_engine(settings).connect()
    wait_for(lambda: "Callers wait until it does" in caplog.text)
    opens_none = "pool 'default': the app's own code opens no connection"
    assert re.search(
        rf"{opens_none}, and has not for \d+\.\d s \(ask_for_token {HERE}", str(caught.value)
    )
    assert re.search(rf"{opens_none} \(ask_for_token {HERE}", caplog.text)
    assert "server" not in f"{caught.value} {caplog.text}"


def test_a_service_that_comes_back_is_waited_for(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It is as an outage: whoever waits is served, and the log's second line fits the first."""
    caplog.set_level(logging.WARNING)
    away = [True]

    def fails_at_first(engine: Engine) -> None:
        event.listen(engine, "do_connect", lambda *_: ask_for_token() if away else None)

    settings |= {"dbpool.engine_hook": fails_at_first, "dbpool.outage_grace": "off"}
    engine = get_engine(settings | {"sqlalchemy.pool_timeout": str(PATIENCE)})
    served: list[Any] = []

    def ask() -> None:
        with engine.connect() as connection:
            served.append(connection.scalar(text("SELECT 1")))

    patient = in_thread(ask)
    wait_for(lambda: "the app's own code opens no connection" in caplog.text)
    away.clear()
    patient.join(PATIENCE)
    assert served == [1]
    wait_for(lambda: "pool 'default': connections are opened again after " in caplog.text)
    engine.dispose()


def test_a_look_outside_of_the_pool_names_the_place_too(settings: dict[str, Any]) -> None:
    """At start-up and in `pdbpool check`."""
    pool = load_pool(settings)
    error = connect_once(pool, [asks_first])
    assert error is not None
    assert re.match(f"ask_for_token {HERE}", reason(pool, error))


def test_a_file_that_the_app_looks_for_may_still_come(psycopg_url: str) -> None:
    """Somebody else writes it: no configuration is known to be wrong."""
    engine = create_engine(psycopg_url)
    with pytest.raises(FileNotFoundError) as caught:
        Path("/nowhere/token").read_bytes()
    assert classify_connect_failure(engine.dialect, caught.value) is UNREACHABLE


CONNECTS: dict[str, Callable[[str, int], object]] = {
    "postgresql+psycopg": lambda host, port: psycopg.connect(f"host={host} port={port}"),
    "postgresql+psycopg2": lambda host, port: psycopg2.connect(f"host={host} port={port}"),
    "mysql+pymysql": lambda host, port: pymysql.connect(host=host, port=port),
}


@pytest.mark.parametrize("driver", CONNECTS)
def test_a_creator_whose_driver_fails_is_not_blamed(driver: str) -> None:
    """The app's code is on the way to it, and the server is away all the same."""

    def creator() -> Any:
        return CONNECTS[driver]("127.0.0.1", deaf_port())

    settings = {
        "sqlalchemy.url": f"{driver}://",
        "sqlalchemy.creator": creator,
        "dbpool.outage_grace": "0",
    }
    with pytest.raises(DatabaseUnavailable, match=r"the database server of sqlalchemy\.url has"):
        get_engine(settings).connect()
    dispose_engine(settings)


def test_what_a_driver_raises_bare_is_its_own() -> None:
    """PyMySQL reads certificates before it connects, in the app's creator or by the URL."""
    missing = {"ca": "/nowhere/x.crt"}
    by_url = create_engine("mysql+pymysql://127.0.0.1/", connect_args={"ssl": missing})
    by_app = create_engine("mysql+pymysql://", creator=lambda: pymysql.connect(ssl=missing))
    for engine in (by_url, by_app):
        with pytest.raises(FileNotFoundError) as caught:
            engine.connect()
        assert place_in_app(caught.value) is None


def test_a_driver_that_nobody_knows_is_not_taken_for_the_app() -> None:
    """What SQLAlchemy itself calls to connect is the driver, whatever it is called."""

    class Driver:
        Error = sqlite3.Error

        def connect(self, *_: Any, **_kw: Any) -> None:
            raise OSError("no network")

    engine = create_engine("sqlite:///nowhere.db")
    engine.dialect.dbapi = Driver()  # type: ignore[assignment]
    with pytest.raises(OSError, match="no network") as caught:
        engine.connect()
    assert place_in_app(caught.value) is None
