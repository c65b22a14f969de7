"""Holders who take a second connection from the same pool are warned of."""

import contextvars
import threading

import pytest
from pyramid.request import Request
from sqlalchemy import select

from pyramid_dbpool import get_engine, unit_of_work
from pyramid_dbpool.pool import holds
from pyramid_dbpool.pool.labels import Label, holder_label
from pyramid_dbpool.pool.managed import ManagedPool
from tests.support.holding import warnings
from tests.support.makers import Maker
from tests.support.webapp import app


def test_a_second_connection_is_warned_of_once(
    watched: ManagedPool, caplog: pytest.LogCaptureFixture
) -> None:
    """Once for each place in the code, however often it comes by."""
    for _ in range(2):
        first = watched.connect()
        second = watched.connect()
        second.invalidate()
        second.close()
        first.close()
    (text,) = warnings(caplog)
    assert "thread 'MainThread' takes a second connection" in text
    assert "now in test_a_second_connection_is_warned_of_once" in text


def test_the_places_that_are_remembered_are_not_without_end(
    watched: ManagedPool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An app that makes its code as it runs would have a new one each time."""
    monkeypatch.setattr(holds, "PLACES", 1)
    first = watched.connect()
    watched.connect().invalidate()
    watched.connect().invalidate()
    first.close()
    assert len(warnings(caplog)) == 1


def test_a_second_connection_is_found_among_idle_ones_too(
    watched: ManagedPool, caplog: pytest.LogCaptureFixture
) -> None:
    """A look sends them by the place where it is noticed."""
    filled = [watched.connect() for _ in range(2)]
    for each in filled:
        each.close()
    assert watched._service.line.total == 2
    watched._service.holds._places.clear()
    caplog.clear()
    pair = [watched.connect(), watched.connect()]
    assert warnings(caplog) == []
    for each in pair:
        each.close()
    watched._service.holds.look()
    pair = [watched.connect(), watched.connect()]
    assert len(warnings(caplog)) == 1
    for each in pair:
        each.close()


def test_two_holders_are_no_second_connection(
    watched: ManagedPool, caplog: pytest.LogCaptureFixture
) -> None:
    """Two threads hold one each, also under the same plain label."""
    with holder_label("GET /x"):
        first = watched.connect()

    def other() -> None:
        with holder_label("GET /x"):
            watched.connect().close()

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    first.close()
    assert warnings(caplog) == []


def test_a_view_with_two_sessions_is_warned_of(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own and the request's: with room for one it would wait for itself."""
    settings = {"sqlalchemy.url": sqlite_url}

    def both(request: Request) -> None:
        request.db.execute(select(1))
        with unit_of_work(settings) as session:
            session.execute(select(1))

    with app(settings, "pyramid_dbpool", both=both) as web:
        web.get("/both")
    (text,) = warnings(caplog)
    assert "GET route 'both' takes a second connection" in text
    assert get_engine(settings) is not None


def test_a_subrequest_takes_a_second_connection(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Beside that of the request around it, which is named as well."""

    def outer(request: Request) -> None:
        request.db.execute(select(1))
        request.invoke_subrequest(Request.blank("/inner"), use_tweens=True)

    with app(
        {"sqlalchemy.url": sqlite_url},
        "pyramid_dbpool",
        outer=outer,
        inner=lambda request: request.db.scalar(select(1)),
    ) as web:
        web.get("/outer")
    (text,) = warnings(caplog)
    assert "GET route 'inner' takes a second connection beside one that GET route 'outer'" in text


def test_a_thread_of_the_holders_own_is_the_same_holder(
    watched: ManagedPool, caplog: pytest.LogCaptureFixture
) -> None:
    """A view that waits for a thread, which has a copy of its context, holds two."""
    with holder_label(Label(lambda: "GET route 'both'")):
        first = watched.connect()
        work = threading.Thread(
            target=contextvars.copy_context().run, args=(lambda: watched.connect().close(),)
        )
        work.start()
        work.join()
    (text,) = warnings(caplog)
    assert "GET route 'both' takes a second connection and has held one" in text
    first.close()


def test_searches_are_few_while_a_crowd_waits(watched: ManagedPool) -> None:
    """Slow checkouts must not become slower under load."""
    watch = watched._service.holds
    for _ in range(19):
        watch.see_second(1, None, 5.0)
    assert watch.search_at < 5.0
    watch.see_second(1, None, 5.0)
    assert watch.search_at == pytest.approx(5.1)
    assert ManagedPool(Maker())._service.holds.search_at > 1e9
