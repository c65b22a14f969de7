"""Connections that are held for long, and holders who take a second one, are warned of."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from pyramid_dbpool import get_engine, stream, unit_of_work
from pyramid_dbpool.housekeeper import housekeeper
from pyramid_dbpool.labels import holder_label
from pyramid_dbpool.pool import ManagedPool
from tests.makers import Maker, wait_for
from tests.webapp import app

LOGGER = "pyramid_dbpool.holds"


class Clock:
    """A clock that the test sets."""

    def __init__(self, pool: ManagedPool) -> None:
        self._real = pool._service.holds._clock
        self.ahead = 0.0
        pool._service.holds._clock = self

    def __call__(self) -> float:
        return self._real() + self.ahead


@pytest.fixture
def watched(maker: Maker) -> Iterator[ManagedPool]:
    """Give a pool that warns after a minute."""
    pool = ManagedPool(maker, 2, 2, hold_warning=60.0, pool_name="jobs")
    yield pool
    pool.dispose()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """List what was warned of."""
    return [each.getMessage() for each in caplog.records if each.name == LOGGER]


def test_a_long_hold_is_warned_of_once(
    watched: ManagedPool, caplog: pytest.LogCaptureFixture
) -> None:
    """With the label, the seconds, the place in the code and the key."""
    clock = Clock(watched)
    with holder_label("the import"):
        lease = watched.connect()
    clock.ahead = 59.0
    watched._service.holds.look()
    assert warnings(caplog) == []
    clock.ahead = 61.5
    watched._service.holds.look()
    watched._service.holds.look()
    (text,) = warnings(caplog)
    assert text.startswith("pool 'jobs': the import has held a connection for 61.5 s, now in ")
    assert "now in test_a_long_hold_is_warned_of_once (" in text
    assert f"{__file__}:" in text
    assert "dbpool.jobs.hold_warning" in text
    lease.close()


def test_the_next_long_hold_of_a_connection_is_another_one(
    watched: ManagedPool, caplog: pytest.LogCaptureFixture
) -> None:
    """What was said of one lease says nothing of the next."""
    clock = Clock(watched)
    for _ in range(2):
        lease = watched.connect()
        clock.ahead = 61.0
        watched._service.holds.look()
        lease.close()
        clock.ahead = 0.0
        watched._service.holds.look()
    assert len(warnings(caplog)) == 2


def test_the_housekeeper_comes_by_itself(maker: Maker, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing but an open connection is needed."""
    pool = ManagedPool(maker, 1, 0, hold_warning=0.05)
    lease = pool.connect()
    wait_for(lambda: warnings(caplog))
    lease.close()
    pool.dispose()
    assert len(warnings(caplog)) == 1


def test_no_thread_if_it_is_off(maker: Maker) -> None:
    """A pool without the setting leaves the housekeeper alone."""
    before = repr(housekeeper())
    pool = ManagedPool(maker, 1, 0)
    pool.connect().close()
    assert pool._service.holds._task is None
    assert repr(housekeeper()) == before


def test_the_watch_ends_with_the_last_connection(watched: ManagedPool) -> None:
    """And begins again with the next one."""
    watched.connect().close()
    assert watched._service.holds._watching
    watched.dispose()
    assert not watched._service.holds._watching
    watched.connect().close()
    assert watched._service.holds._watching
    watched.connect().invalidate()
    watched._service.holds.look()
    assert not watched._service.holds._watching


def test_a_pool_that_is_over_is_not_watched(maker: Maker) -> None:
    """A connection that is opened for it in its last moment keeps no thread."""
    pool = ManagedPool(maker, 1, 0, hold_warning=60.0)
    pool.dispose()
    pool.recreate()
    lease = pool.connect()
    assert not pool._service.holds._watching
    lease.close()


def test_a_watch_that_is_called_off_as_it_begins_leaves_no_task(watched: ManagedPool) -> None:
    """The housekeeper would wait for it with nothing to do."""
    holds = watched._service.holds
    holds._look_at(1e9)
    assert holds._task is None


def test_a_leak_is_told_from_a_slow_view(
    watched: ManagedPool, caplog: pytest.LogCaptureFixture
) -> None:
    """A thread that has ended, or waits in its server, gives nothing back any more."""
    clock = Clock(watched)
    leases: list[Any] = []
    thread = threading.Thread(target=lambda: leases.append(watched.connect()))
    thread.start()
    thread.join()
    clock.ahead = 61.0
    watched._service.holds.look()
    (text,) = warnings(caplog)
    assert "its thread has ended without giving it back" in text
    leases.pop().close()


def test_a_body_that_streams_is_warned_of(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its connection is held for as long as the slowest client likes."""
    settings = {"sqlalchemy.url": sqlite_url, "dbpool.hold_warning": "100ms"}

    def export(request: Request) -> Response:
        def rows(session: Session) -> Iterator[bytes]:
            session.execute(select(1))
            yield b"first"
            wait_for(lambda: warnings(caplog))
            yield b"second"

        return Response(app_iter=stream(request, rows))

    with app(settings, "pyramid_dbpool", export=export) as web:
        assert web.get("/export").body == b"firstsecond"
    (text,) = warnings(caplog)
    assert "GET route 'export', streaming its body has held a connection for 0.1 s" in text


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


def test_searches_are_few_while_a_crowd_waits(watched: ManagedPool) -> None:
    """Slow checkouts must not become slower under load."""
    holds = watched._service.holds
    for _ in range(19):
        holds.see_second(1, None, None, 5.0)
    assert holds.search_at < 5.0
    holds.see_second(1, None, None, 5.0)
    assert holds.search_at == pytest.approx(5.1)
    assert ManagedPool(Maker())._service.holds.search_at > 1e9


GREENLETS = """
from gevent import monkey
monkey.patch_all()
import logging, gevent
from sqlalchemy import create_engine
from pyramid_dbpool import ManagedPool

logging.basicConfig(format="%%(message)s")
engine = create_engine("sqlite:///%s", poolclass=ManagedPool, hold_warning=0.05)

def holding():
    with engine.connect():
        gevent.sleep(0.5)

gevent.spawn(holding).join()
"""


def test_the_place_of_a_greenlet_is_found(tmp_path: Any) -> None:
    """Though it is no thread, and suspended."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", GREENLETS % (tmp_path / "some.db")],
        timeout=30,
        capture_output=True,
        check=False,
        text=True,
    )
    assert "now in holding (<string>:13)" in done.stderr, done.stderr
