"""Functional tests of an app's, which stop the clock or set it."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from pyramid.request import Request
from sqlalchemy import make_url, text

from pyramid_dbpool import session_factory
from tests.support.guests import CLOCKS, Guest
from tests.support.webapp import PARTS, WebApp, app

BACKEND = text("SELECT pg_backend_pid()")


@pytest.fixture(params=CLOCKS)
def clock(request: pytest.FixtureRequest, psycopg_url: str) -> Guest:
    """Give what an app's test does to the clock."""
    found = CLOCKS[request.param]
    url = make_url(psycopg_url).set(drivername="postgresql").render_as_string(False)
    with found():
        try:
            psycopg.connect(url, connect_timeout=60).close()
        except psycopg.errors.ConnectionTimeout:
            pytest.skip(f"psycopg {psycopg.__version__} by itself opens nothing under this clock")
    return found


def one(request: Request) -> Any:
    """Hold one connection."""
    return request.db.scalar(BACKEND)


def two(request: Request) -> Any:
    """Hold two connections at a time."""
    session = session_factory(request.registry.settings)
    try:
        return len({request.db.scalar(BACKEND), session.scalar(BACKEND)})
    finally:
        session.close()


@pytest.fixture
def web(settings: dict[str, Any]) -> Iterator[WebApp]:
    """Give an app that has served requests already."""
    settings["dbpool.hold_warning"] = "off"
    with app(settings, *PARTS, one=one, two=two) as made:
        yield made


def test_a_second_connection_is_opened(web: WebApp, clock: Guest) -> None:
    """A request that needs one more connection gets it, whatever was done to the clock."""
    web.get("/one")
    with clock():
        assert web.get("/two").text == "2"
    assert web.get("/two").text == "2"


def test_the_first_connection_is_opened(settings: dict[str, Any], clock: Guest) -> None:
    """An app that is made while the clock stands still serves, then and afterwards."""
    with clock(), app(settings, *PARTS, one=one) as web:
        assert web.get("/one").text == web.get("/one").text
    with app(settings, *PARTS, one=one) as web:
        web.get("/one")


def test_what_is_open_is_kept(web: WebApp, clock: Guest) -> None:
    """A connection is as old as it is, and neither closed for its age nor pinged."""
    before = web.get("/one").text
    with clock():
        assert web.get("/one").text == before
    assert web.get("/one").text == before
    numbers = web.pool.snapshot()
    assert (numbers.opened, numbers.pings, sum(numbers.closed.values())) == (1, 0, 0)


def test_a_full_pool_times_out(settings: dict[str, Any], clock: Guest) -> None:
    """A wait ends when its time is over, by the clock that locks wait by."""
    settings |= {"sqlalchemy.pool_size": "1", "sqlalchemy.max_overflow": "0"}
    settings |= {"sqlalchemy.pool_timeout": "200ms", "dbpool.hold_warning": "off"}
    with app(settings, *PARTS, one=one, two=two) as web:
        with clock():
            answer = web.get("/two", status=503)
        assert answer.headers["Retry-After"] == "1"
        web.get("/one")


def test_a_requests_own_time_is_over_in_time(
    settings: dict[str, Any], clock: Guest, caplog: pytest.LogCaptureFixture
) -> None:
    """`dbpool.request_timeout` is counted by the same clock."""
    settings |= {"sqlalchemy.pool_size": "1", "sqlalchemy.max_overflow": "0"}
    settings |= {"dbpool.request_timeout": "200ms", "dbpool.hold_warning": "off"}
    with app(settings, *PARTS, two=two) as web, clock():
        web.get("/two", status=503)
    assert "dbpool.request_timeout" in caplog.text
