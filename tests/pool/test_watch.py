"""Connections that are held for long are warned of."""

import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy import event, select
from sqlalchemy.orm import Session

from pyramid_dbpool import stream
from pyramid_dbpool.events import Kind, recent
from pyramid_dbpool.pool import watch
from pyramid_dbpool.pool.labels import Label, holder_label
from pyramid_dbpool.pool.line import LEASED
from pyramid_dbpool.pool.managed import ManagedPool
from tests.support.happened import Happened
from tests.support.holding import LOGGER, warnings
from tests.support.makers import PATIENCE, Maker, in_thread, wait_for
from tests.support.webapp import app


class Clock:
    """A clock that the test sets."""

    def __init__(self, pool: ManagedPool) -> None:
        self._pool = pool
        self._real = pool._core.watch._clock
        self._stopped_at: float | None = None
        self.ahead = 0.0
        pool._core.watch._clock = self

    def __call__(self) -> float:
        return self._real() + self.ahead if self._stopped_at is None else self._stopped_at

    def stop_after(self, seconds: float) -> None:
        """Stop when the one connection has been out for so long, however slow the machine is."""
        (entry,) = [each for each in self._pool._core.line.members if each.state is LEASED]
        self._stopped_at = entry.leased_at + seconds


def test_a_long_hold_is_warned_of_once(
    watched: ManagedPool, caplog: pytest.LogCaptureFixture, happened: Happened
) -> None:
    """With the label, the seconds, the place in the code and the key."""
    clock = Clock(watched)
    with holder_label("the import"):
        lease = watched.connect()
    clock.ahead = 59.0
    watched._core.watch.look()
    assert warnings(caplog) == []
    clock.stop_after(61.5)
    watched._core.watch.look()
    watched._core.watch.look()
    (text,) = warnings(caplog)
    assert text.startswith("pool 'jobs': the import has held a connection for 61.5 s, now in ")
    assert "now in test_a_long_hold_is_warned_of_once (" in text
    assert f"{__file__}:" in text
    assert "(hold_warning says" in text
    (event,) = happened()
    assert (event.kind, event.pool, event.text) == (Kind.HELD, "jobs", text)
    assert (event.fields["label"], event.fields["seconds"]) == ("the import", 61.5)
    assert str(event.fields["place"]).startswith("now in test_a_long_hold_is_warned_of_once (")
    lease.close()


def returned(happened: Happened) -> list[tuple[object, object]]:
    return [(each.fields["label"], each.fields["seconds"]) for each in happened(Kind.RETURNED)]


def ends() -> dict[str, Callable[[Any], object]]:
    return {
        "close": lambda lease: lease.close(),
        "invalidate": lambda lease: (lease.invalidate(), lease.close()),
        "detach": lambda lease: (lease.detach(), lease.close()),
    }


@pytest.mark.parametrize("listens", [False, True])
@pytest.mark.parametrize("end", ends())
def test_what_was_warned_of_is_told_of_when_it_comes_back(
    watched: ManagedPool,
    caplog: pytest.LogCaptureFixture,
    happened: Happened,
    end: str,
    listens: bool,
) -> None:
    """Once, as a warning too: whoever reads the one wants the other. Others' returns are none."""
    if listens:
        event.listen(watched, "checkout", lambda *_: None)
    clock = Clock(watched)
    with holder_label("the import"):
        lease = watched.connect()
    watched.connect().close()
    clock.stop_after(61.5)
    watched._core.watch.look()
    clock.stop_after(75.25)
    assert returned(happened) == []
    ends()[end](lease)
    assert returned(happened) == [("the import", 75.25)]
    for _ in range(2):
        watched.connect().close()
    assert len(returned(happened)) == 1
    # Not what pools that others have left behind say.
    records = [each for each in caplog.records if each.name == LOGGER]
    assert [each.getMessage() for each in records][1:] == [
        "pool 'jobs': the import has given back its connection after 75.2 s."
    ]
    assert {each.levelname for each in records} == {"WARNING"}


def test_what_comes_back_after_a_dispose_is_told_of(
    watched: ManagedPool, happened: Happened
) -> None:
    """Its pool has nobody else who would come by."""
    clock = Clock(watched)
    lease = watched.connect()
    clock.stop_after(61.0)
    watched._core.watch.look()
    watched.dispose()
    watched.recreate().dispose()
    lease.close()
    assert len(returned(happened)) == 1


def test_a_return_is_told_of_without_the_lock_and_when_it_is_done(
    watched: ManagedPool, happened: Happened
) -> None:
    """A handler may write to a table through this very pool."""
    clock, seen = Clock(watched), list[int]()
    lease = watched.connect()
    clock.stop_after(61.0)
    watched._core.watch.look()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            in_thread(lambda: seen.append(watched.checkedout())).join(PATIENCE)

    handler, logger = Handler(), logging.getLogger(watch.__name__)
    logger.addHandler(handler)
    lease.close()
    logger.removeHandler(handler)
    assert seen == [0]


def test_what_comes_back_as_it_is_warned_of_is_neither(
    watched: ManagedPool, happened: Happened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next one who holds that connection is told of only for himself."""
    clock = Clock(watched)
    lease = watched.connect()
    clock.ahead = 61.0
    monkeypatch.setattr(watch, "places", lambda _idents: lease.close() or {})
    watched._core.watch.look()
    watched.connect().close()
    assert happened() == []
    assert not watched._core.watch._awaited


def test_the_next_long_hold_of_a_connection_is_another_one(
    watched: ManagedPool, caplog: pytest.LogCaptureFixture
) -> None:
    """What was said of one lease says nothing of the next."""
    clock = Clock(watched)
    for _ in range(2):
        lease = watched.connect()
        clock.ahead = 61.0
        watched._core.watch.look()
        lease.close()
        clock.ahead = 0.0
        watched._core.watch.look()
    assert len(warnings(caplog)) == 2


@pytest.mark.parametrize("listens", [False, True])
def test_a_child_does_not_tell_of_what_its_parent_holds(
    watched: ManagedPool, listens: bool
) -> None:
    """It lets go of its copy, and its parent has the connection still."""
    if listens:
        event.listen(watched, "checkin", lambda *_: None)
    clock = Clock(watched)
    lease = watched.connect()
    clock.stop_after(61.5)
    watched._core.watch.look()
    if (pid := os.fork()) == 0:
        lease.close()
        watched.connect().close()
        os._exit(len([each for each in recent() if each.kind is Kind.RETURNED]))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    lease.close()


def test_what_was_opened_for_nobody_is_watched_too(
    maker: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    """Once the pool was empty, `min_idle` is opened again, and taken at once by the next one."""
    pool = ManagedPool(maker, 1, 0, min_idle=1, background=True, hold_warning=60.0)
    clock, core = Clock(pool), pool._core
    pool.connect().close()
    (entry,) = core.line.idle
    with core.door, core.lock:
        core.line.hold(entry)
        core.line.lost(entry)
    core.watch.look()  # and finds nothing to watch
    core.opener.replan()
    wait_for(lambda: core.line.idle)
    lease = pool.connect()
    clock.ahead = 61.0
    wait_for(lambda: core.watch._watching)
    core.watch.look()
    assert len(warnings(caplog)) == 1
    lease.close()
    pool.dispose()


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
    pool = ManagedPool(maker, 1, 0)
    pool.connect().close()
    assert pool._core.watch._task is None
    assert not pool._core.watch._watching


def test_the_watch_ends_with_the_last_connection(watched: ManagedPool) -> None:
    """And begins again with the next one."""
    watched.connect().close()
    task = watched._core.watch._task
    assert task is not None
    assert watched._core.watch._watching
    watched.dispose()
    assert not watched._core.watch._watching
    assert task.run is None
    watched.connect().close()
    assert watched._core.watch._watching
    watched.connect().invalidate()
    watched._core.watch.look()
    assert not watched._core.watch._watching


def test_openings_do_not_put_the_look_off(watched: ManagedPool) -> None:
    """A pool that opens connections all the time would never be looked at."""
    first = watched.connect()
    task = watched._core.watch._task
    second = watched.connect()
    assert watched._core.watch._task is task
    first.close()
    second.close()


def test_one_look_at_a_time_is_to_come(watched: ManagedPool) -> None:
    """Two that begin to watch in the same moment leave one task, not two for ever."""
    watched.connect().close()
    task = watched._core.watch._task
    assert task is not None
    watched._core.watch._look_at(1e9)
    assert task.run is None


def test_a_pool_that_is_over_is_not_watched(maker: Maker) -> None:
    """A connection that is opened for it in its last moment keeps no thread."""
    pool = ManagedPool(maker, 1, 0, hold_warning=60.0)
    pool.dispose()
    pool.recreate()
    lease = pool.connect()
    assert not pool._core.watch._watching
    lease.close()


def test_a_watch_that_is_called_off_as_it_begins_leaves_no_task(watched: ManagedPool) -> None:
    """The housekeeper would wait for it with nothing to do."""
    watch = watched._core.watch
    watch._look_at(1e9)
    assert watch._task is None


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
    watched._core.watch.look()
    (text,) = warnings(caplog)
    assert "its thread cannot be found: it may have ended" in text
    leases.pop().close()


def test_what_is_given_back_in_time_is_not_warned_of(
    watched: ManagedPool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its holder is being looked for, the next one may have it already."""
    clock = Clock(watched)
    lease = watched.connect()
    clock.ahead = 61.0

    def meanwhile(_idents: object) -> dict[int, str]:
        nonlocal lease
        lease.close()
        lease = watched.connect()
        return {}

    monkeypatch.setattr(watch, "places", meanwhile)
    watched._core.watch.look()
    assert warnings(caplog) == []
    lease.close()


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
    assert re.search(r"GET route 'export', streaming its body has held a connection for \d", text)


def test_nobody_is_blamed_for_what_was_left_behind_in_his_thread(
    watched: ManagedPool, caplog: pytest.LogCaptureFixture, happened: Happened
) -> None:
    """A request that leaks is named; the one that the thread serves now is not."""
    clock = Clock(watched)
    with Label(lambda: "GET route 'leaks'"):
        left = watched.connect()
    with holder_label(Label(lambda: "GET route 'innocent'")):
        watched.connect().close()
    assert warnings(caplog) == []
    clock.stop_after(61.0)
    watched._core.watch.look()
    (text,) = warnings(caplog)
    assert "GET route 'leaks' (ended) has held a connection for 61.0 s, and has ended" in text
    assert "without giving it back; trace_checkouts = true says where it was taken." in text
    assert "test_nobody" not in text
    (event,) = happened()
    assert str(event.fields["place"]).startswith("has ended without giving it back; ")
    left.close()
