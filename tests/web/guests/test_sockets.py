"""Functional tests of an app's, which keep it from the network."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpretty
import pytest
from pytest_socket import SocketBlockedError
from sqlalchemy import make_url

from pyramid_dbpool import ManagedPool, dispose_engine, get_engine
from tests.support.guests import CLOCKS, SOCKETS, Guest
from tests.support.servers.fixtures import NewDatabase
from tests.support.servers.postgres import Postgres
from tests.support.webapp import PARTS, app
from tests.web.guests.test_clocks import one, two


def descriptors() -> list[str]:
    """List what this process has open."""
    found = []
    for each in Path("/proc/self/fd").iterdir():
        try:
            found.append(f"{each.name}: {each.readlink()}")
        except FileNotFoundError:  # the one that lists them
            continue
    return sorted(found)


@pytest.fixture(params=SOCKETS)
def tool(request: pytest.FixtureRequest) -> Guest:
    """Give what an app's tests do to sockets."""
    return SOCKETS[request.param]


@pytest.fixture(params=["tcp", "unix"])
def url(request: pytest.FixtureRequest, postgres_url: str, postgres: Postgres) -> str:
    """Give the URL of a database, for each driver, by TCP and by a Unix socket."""
    if request.param == "tcp":
        return postgres_url
    folder = postgres.private and postgres.private.socket_folder
    if not folder:
        pytest.skip("the offered server's Unix socket is not known")
    address = make_url(postgres_url)
    query = {"host": str(folder), "port": str(address.port)}
    return address.set(host=None, port=None, query=query).render_as_string(hide_password=False)


def test_connections_are_opened_and_none_leaks(url: str, tool: Guest) -> None:
    """libpq uses no sockets of Python's, and no tool that refuses those keeps it from any."""
    settings = {"sqlalchemy.url": url, "dbpool.hold_warning": "off"}
    with app(settings, *PARTS, one=one, two=two) as web:
        before = descriptors()
        with tool():
            assert web.get("/two").text == "2"
            assert web.get("/two").text == "2"
            numbers = web.pool.snapshot()
            # Their sockets were looked at, and were silent.
            assert (numbers.pings, sum(numbers.closed.values())) == (0, 0)
            web.engine.dispose()
        assert descriptors() == before


def test_an_app_for_each_test_leaves_nothing(psycopg_url: str, tool: Guest) -> None:
    """A suite that makes its app anew for each test, with its tools at work, runs for long."""
    settings = {"sqlalchemy.url": psycopg_url, "dbpool.hold_warning": "off"}
    left = []
    for _test in range(3):
        with tool(), app(settings, *PARTS, two=two) as web:
            assert web.get("/two").text == "2"
        left.append(descriptors())
    assert left[0] == left[1] == left[2]


def test_all_tools_at_once(psycopg_url: str) -> None:
    """A suite that has all of them at work sees the app's own answers."""
    settings = {"sqlalchemy.url": psycopg_url, "dbpool.hold_warning": "off"}
    with (
        app(settings, *PARTS, two=two) as web,
        httpretty.enabled(allow_net_connect=False),
        CLOCKS["long-ago"](),
    ):
        assert web.get("/two").text == "2"


@pytest.mark.programs
class TestPyMySQL:
    """The driver whose sockets are Python's: a tool's refusal is the test's own wish."""

    @pytest.fixture
    def settings(self, new_database: NewDatabase) -> Iterator[dict[str, Any]]:
        """Give the settings of a pool on an empty database."""
        settings = {"sqlalchemy.url": new_database("mysql+pymysql")}
        yield settings
        dispose_engine(settings)

    @pytest.mark.filterwarnings("ignore:A test tried")
    @pytest.mark.parametrize("name", ["httpretty-alone", "pytest-socket"])
    def test_a_refusal_is_told_as_it_is(self, settings: dict[str, Any], name: str) -> None:
        """The tool's own error reaches the test, at once, and is no outage afterwards."""
        engine = get_engine(settings)
        refusals = (SocketBlockedError, httpretty.errors.UnmockedError)
        with SOCKETS[name](), pytest.raises(refusals):
            engine.connect()
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT 1").scalar() == 1
        assert isinstance(engine.pool, ManagedPool)
        assert engine.pool.outage is None
