"""Connections that the server ends because a view does something else for too long."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pymysql
import pytest
from pyramid.request import Request
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from pyramid_dbpool import DatabaseUnavailable
from pyramid_dbpool.drivers.sockets import has_ended
from pyramid_dbpool.embedded import PrivatePostgres, find_programs
from pyramid_dbpool.embedded.cluster import Cluster
from pyramid_dbpool.engines.hearing import Heard
from pyramid_dbpool.engines.overstays import Overstays
from pyramid_dbpool.engines.traffic import Traffic
from pyramid_dbpool.settings import load_pool
from tests.support.makers import wait_for
from tests.support.servers import report
from tests.support.servers.fixtures import POSTGRES
from tests.support.webapp import PARTS, Row, app, database
from tests.web.retry.views import NewDatabase, number, settings_for

IN_A_TENTH = {"dbpool.idle_in_transaction_timeout": "100ms"}


def something_slow(request: Request) -> None:
    """Do something else until the server has had enough of it."""
    connection = request.db.connection().connection
    wait_for(lambda: has_ended(connection.dbapi_connection))


def asks_again(request: Request) -> None:
    something_slow(request)
    request.db.execute(text("SELECT 1"))


def swallows(request: Request) -> None:
    with pytest.raises(DBAPIError):
        asks_again(request)


def writes_first(trouble: Callable[[Request], None], seen: list[int]) -> Callable[[Request], Any]:
    def view(request: Request) -> None:
        seen.append(number(request))
        request.db.add(Row())
        request.db.flush()
        trouble(request)

    return view


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("trouble", [asks_again, something_slow])
@pytest.mark.parametrize("backend", POSTGRES)
def test_a_view_that_is_slow_in_its_transaction_is_not_tried_again(
    new_database: NewDatabase, backend: str, trouble: Callable[[Request], None], method: str
) -> None:
    """It would be as slow again; the error names the setting, also where COMMIT meets it."""
    url = new_database(backend)
    seen: list[int] = []
    view = writes_first(trouble, seen)
    with database(url) as count, app(settings_for(url) | IN_A_TENTH, *PARTS, index=view) as web:
        with pytest.raises(DBAPIError) as raised:
            web.client.request("/", method=method)
        assert (seen, count(), web.checked_out()) == ([0], 0, 0)
    assert not isinstance(raised.value, DatabaseUnavailable)
    assert "dbpool.idle_in_transaction_timeout = 0.1 s: the server has" in str(raised.value)
    # psycopg2 tells no SQLSTATE of a lost connection, so the time is all that speaks for it.
    assert ("probably dbpool." in str(raised.value)) is backend.endswith("psycopg2")
    if not (backend.endswith("psycopg2") and trouble is asks_again):
        # There the driver has thrown the server's own words away.
        assert "idle-in-transaction timeout" in str(raised.value)


@pytest.mark.parametrize("backend", POSTGRES)
def test_nor_is_one_that_has_swallowed_it(new_database: NewDatabase, backend: str) -> None:
    """COMMIT finds no connection."""
    url = new_database(backend)
    seen: list[int] = []
    view = writes_first(swallows, seen)
    with database(url) as count, app(settings_for(url) | IN_A_TENTH, *PARTS, index=view) as web:
        with pytest.raises(DBAPIError):
            web.client.put("/")
        assert (seen, count()) == ([0], 0)


def test_the_servers_own_setting_is_named(new_database: NewDatabase) -> None:
    """Nobody has set ours."""
    url = new_database("postgresql+psycopg")
    seen: list[int] = []

    def trouble(request: Request) -> None:
        request.db.execute(text("SET idle_in_transaction_session_timeout = 100"))
        asks_again(request)

    view = writes_first(trouble, seen)
    with (
        database(url),
        app(settings_for(url), *PARTS, index=view) as web,
        pytest.raises(DBAPIError) as raised,
    ):
        web.client.post("/")
    assert seen == [0]
    assert "the server's idle_in_transaction_session_timeout: the" in str(raised.value)


def test_words_that_came_with_the_result_before_them_are_heard(new_database: NewDatabase) -> None:
    """As when this process has stood still; libpq takes them for a notice."""
    url = new_database("postgresql+psycopg")
    seen: list[int] = []

    def trouble(request: Request) -> None:
        connection = request.db.connection().connection
        driver = connection.driver_connection
        request.db.execute(text("SET idle_in_transaction_session_timeout = 100"))
        wait_for(lambda: has_ended(connection.dbapi_connection))
        driver.pgconn.consume_input()
        driver.pgconn.is_busy()
        request.db.execute(text("SELECT 1"))

    view = writes_first(trouble, seen)
    with (
        database(url),
        app(settings_for(url), *PARTS, index=view) as web,
        pytest.raises(DBAPIError, match="the server's idle_in_transaction_session_timeout: the"),
    ):
        web.client.post("/")
    assert seen == [0]


@pytest.mark.parametrize("backend", POSTGRES)
def test_a_connection_that_is_ended_by_others_is_tried_again(
    new_database: NewDatabase, backend: str
) -> None:
    """With the setting too, as long as it has not struck."""
    url = new_database(backend)
    seen: list[int] = []

    def trouble(request: Request) -> None:
        if number(request) == 0:
            request.db.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    settings = settings_for(url) | {"dbpool.idle_in_transaction_timeout": "1m"}
    with (
        database(url) as count,
        app(settings, *PARTS, index=writes_first(trouble, seen)) as web,
    ):
        web.client.post("/")
        assert (seen, count()) == ([0, 1], 1)


def newer_programs(folder: Path) -> Path | None:
    """Return the programs of a PostgreSQL that limits transactions, if there are any."""
    for each, programs in enumerate(find_programs()):
        if float(Cluster(folder / str(each), programs).version) >= 17:
            return programs
    return None


def test_a_transaction_that_lasts_too_long_is_not_tried_again(
    tmp_path: Path, new_postgres: Callable[..., PrivatePostgres]
) -> None:
    """PostgreSQL 17 and later have a limit for it as a whole."""
    programs = newer_programs(tmp_path / "found")
    if programs is None:
        report.skip_without("PostgreSQL 17", "there is an older one only")
    url = new_postgres(programs=programs).url("psycopg")
    seen: list[int] = []

    def trouble(request: Request) -> None:
        # From here on: what comes before may take its time.
        request.db.execute(text("SET transaction_timeout = 100"))
        asks_again(request)

    settings, view = settings_for(url), writes_first(trouble, seen)
    with database(url) as count, app(settings, *PARTS, index=view) as web:
        with pytest.raises(DBAPIError, match="the server's transaction_timeout: the server has"):
            web.client.post("/")
        assert (seen, count()) == ([0], 0)


def test_mysqls_word_for_it_counts_only_inside_a_transaction() -> None:
    """A connection may have waited in a pool that nobody looks after."""
    error = pymysql.err.OperationalError(4031, "The client was disconnected by the server")
    engine = create_engine("mysql+pymysql://x@127.0.0.1/x")
    connection: Any = SimpleNamespace(info={})
    heard = Heard(error, connection, engine.dialect, True, True)
    overstays = Overstays(load_pool({"sqlalchemy.url": "sqlite:///x.db"}))
    assert overstays.setting(heard) is None
    Traffic.note(connection, "SELECT 1", "mysql")
    assert overstays.setting(heard) is None
    Traffic.note(connection, "SELECT 1", "mysql")
    assert overstays.setting(heard) == "the server's wait_timeout"
