"""Callers who wait for a connection beside one that they hold are warned of."""

import contextvars
import itertools
import sys
import threading
from contextlib import AbstractContextManager

import pytest
from pyramid.request import Request
from sqlalchemy import select

from pyramid_dbpool import PoolTimeout, deadline, unit_of_work
from pyramid_dbpool.events import Kind
from pyramid_dbpool.pool import checkout, watch
from pyramid_dbpool.pool.labels import Label, holder_label
from pyramid_dbpool.pool.managed import ManagedPool
from pyramid_dbpool.stopping import stoppable
from tests.support.happened import Happened
from tests.support.holding import warnings
from tests.support.makers import PATIENCE, Maker, in_thread, wait_for
from tests.support.striking import striking
from tests.support.webapp import View, WebApp, app


@pytest.fixture(autouse=True)
def waits_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for what a caller holds as soon as he waits."""
    monkeypatch.setattr(checkout, "LONG_WAIT", 0.0)


@pytest.fixture
def narrow(maker: Maker) -> ManagedPool:
    """Give a pool with room for one."""
    return ManagedPool(maker, 1, 0, timeout=0.01, hold_warning=60.0, pool_name="jobs")


def wait_in_vain(pool: ManagedPool) -> str:
    """Wait for a connection that does not come; return the error's text."""
    with pytest.raises(PoolTimeout) as caught:
        pool.connect()
    return str(caught.value)


def test_who_waits_beside_what_he_holds_is_warned_of_once(
    narrow: ManagedPool, caplog: pytest.LogCaptureFixture, happened: Happened
) -> None:
    """Once for each place in the code, however often it comes by."""
    for _ in range(2):
        first = narrow.connect()
        wait_in_vain(narrow)
        first.close()
    (text,) = warnings(caplog)
    assert "pool 'jobs': thread 'MainThread' waits for a second connection" in text
    assert "now in wait_in_vain" in text
    (event,) = happened(Kind.SECOND_CONNECTION)
    assert (event.pool, event.text) == ("jobs", text)
    assert event.fields["label"] == event.fields["holder"] == "thread 'MainThread'"
    assert {"seconds", "place"} < event.fields.keys()


def test_who_holds_nothing_is_not_woken_to_be_looked_at(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With thousands of greenlets in line that would cost as much as the hand-offs."""
    looks = list[int]()
    monkeypatch.setattr(watch.LeaseWatch, "holds_already", lambda _: looks.append(1))
    pool = ManagedPool(maker, 2, 0, timeout=PATIENCE, hold_warning=60.0)

    def wait() -> None:
        # A name in plain text may be that of many.
        with holder_label("GET /x"):
            pool.connect().close()

    with holder_label("GET /x"):
        leases = [pool.connect(), pool.connect()]
    waiter = in_thread(wait)
    wait_for(lambda: pool.snapshot().waiting == 1)
    leases.pop().close()
    waiter.join(PATIENCE)
    assert not looks
    leases.append(pool.connect())
    with deadline(0.01), pytest.raises(PoolTimeout):
        pool.connect()
    assert looks


def test_who_is_served_while_a_helper_waits_holds_for_it_too(
    maker: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    """A request's thread and its helper may stand in the same line, the helper first."""
    pool = ManagedPool(maker, 1, 0, timeout=0.5, hold_warning=60.0)
    busy, said = pool.connect(), list[str]()
    with holder_label(Label(lambda: "GET route 'both'")):
        context = contextvars.copy_context()
        leases: list[object] = []
        served = in_thread(lambda: leases.append(context.copy().run(pool.connect)))
        wait_for(lambda: pool.snapshot().waiting == 1)
        helper = in_thread(lambda: said.append(context.run(wait_in_vain, pool)))
        wait_for(lambda: pool.snapshot().waiting == 2)
    busy.close()
    helper.join()
    served.join()
    assert "1 of those who wait holds a connection already" in said[0]
    (text,) = warnings(caplog)
    assert "GET route 'both' waits for a second connection" in text


def test_the_error_says_how_many_wait_beside_what_they_hold(maker: Maker) -> None:
    """Their waits end only when others give something back: a bigger pool may not help."""
    pool = ManagedPool(maker, 2, 0, timeout=30.0, hold_warning=None)
    both, stuck, errors = threading.Barrier(2), threading.Event(), list[str]()

    def hold_and_wait() -> None:
        lease = pool.connect()
        both.wait(PATIENCE)
        with stoppable(stuck.is_set):
            errors.append(wait_in_vain(pool))
        both.wait(PATIENCE)
        lease.close()

    threads = [in_thread(hold_and_wait) for _ in range(2)]
    wait_for(lambda: pool._core.stats.waiting_holders == 2)
    with deadline(0.01):
        text = wait_in_vain(pool)
    assert "; 2 of those who wait hold a connection already)" in text
    assert "use one session, or give the first connection back before. Give" in text
    stuck.set()
    for thread in threads:
        thread.join()
    assert all("of those who wait hold" in text for text in errors)
    assert pool._core.stats.waiting_holders == 0
    pool.dispose()


def test_the_places_that_are_remembered_are_not_without_end(
    narrow: ManagedPool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An app that makes its code as it runs would have a new one each time."""
    monkeypatch.setattr(watch, "PLACES", 1)
    first = narrow.connect()
    wait_in_vain(narrow)
    with pytest.raises(PoolTimeout):
        narrow.connect()
    first.close()
    assert len(warnings(caplog)) == 1


def test_a_script_that_opens_several_on_purpose_is_left_alone(
    maker: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    """Who never waits harms nobody."""
    pool = ManagedPool(maker, 8, 0, hold_warning=60.0)
    leases = [pool.connect() for _ in range(8)]
    for each in leases:
        each.close()
    assert warnings(caplog) == []
    pool.dispose()


def test_who_does_not_wait_at_all_is_not_warned_of(
    narrow: ManagedPool, caplog: pytest.LogCaptureFixture
) -> None:
    """A caller who only asks whether there is a connection is in nobody's way."""
    first = narrow.connect()
    with deadline(0.0):
        wait_in_vain(narrow)
    first.close()
    assert warnings(caplog) == []


def test_two_holders_are_no_second_connection(
    narrow: ManagedPool, caplog: pytest.LogCaptureFixture
) -> None:
    """Two threads hold one and wait for one, also under the same plain label."""
    with holder_label("GET /x"):
        first = narrow.connect()

    def other() -> None:
        with holder_label("GET /x"):
            wait_in_vain(narrow)

    in_thread(other).join()
    first.close()
    assert warnings(caplog) == []


def test_a_short_wait_is_not_looked_into(
    maker: Maker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crowd whose turns come within milliseconds must not pay for it."""
    monkeypatch.setattr(checkout, "LONG_WAIT", 60.0)
    pool = ManagedPool(maker, 2, 0, timeout=30.0, hold_warning=60.0)
    first, given_back = pool.connect(), pool.connect()
    helper = in_thread(lambda: wait_for(lambda: pool.snapshot().waiting) or given_back.close())
    pool.connect().close()
    helper.join()
    first.close()
    assert warnings(caplog) == []
    pool.dispose()


def serving(url: str, **views: View) -> AbstractContextManager[WebApp]:
    """Serve views on a pool with room for one."""
    settings = {
        "sqlalchemy.url": url,
        "sqlalchemy.pool_size": "1",
        "sqlalchemy.max_overflow": "0",
        # Long enough for the first connection to be opened on a busy machine.
        "sqlalchemy.pool_timeout": "500ms",
    }
    return app(settings, "pyramid_dbpool", **views)


def test_a_view_with_two_sessions_is_warned_of(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own and the request's: with room for one it waits for itself."""

    def both(request: Request) -> None:
        request.db.execute(select(1))
        with unit_of_work(request.registry.settings) as session:
            session.execute(select(1))

    with serving(sqlite_url, both=both) as web:
        web.client.get("/both", status=503)
    (text,) = warnings(caplog)
    assert "GET route 'both' waits for a second connection" in text


def test_a_subrequest_waits_for_a_second_connection(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Beside that of the request around it, which is named as well."""

    def outer(request: Request) -> None:
        request.db.execute(select(1))
        request.invoke_subrequest(Request.blank("/inner"), use_tweens=True)

    inner = {"inner": lambda request: request.db.scalar(select(1))}
    with serving(sqlite_url, outer=outer, **inner) as web:
        web.client.get("/outer", expect_errors=True)
    (text,) = warnings(caplog)
    assert (
        "GET route 'inner' waits for a second connection beside one that GET route 'outer'" in text
    )


def test_a_thread_of_the_holders_own_is_the_same_holder(
    narrow: ManagedPool, caplog: pytest.LogCaptureFixture
) -> None:
    """A view that waits for a thread, which has a copy of its context, holds two."""
    with holder_label(Label(lambda: "GET route 'both'")):
        first = narrow.connect()
        context = contextvars.copy_context()
        in_thread(lambda: context.run(wait_in_vain, narrow)).join()
    (text,) = warnings(caplog)
    assert "GET route 'both' waits for a second connection and has held one" in text
    first.close()


def test_a_look_without_the_lock_stands_what_other_threads_change(maker: Maker) -> None:
    """Another thread opens a connection at any of its opcodes, and nobody's wait fails."""
    sys._getframe().f_trace_opcodes = True
    for step in itertools.count():
        pool = ManagedPool(maker, 3, 0)
        lease = pool.connect()
        lease.dbapi_connection.close()  # type: ignore[union-attr]
        (entry,) = pool._core.line.members
        # Somebody else's, so that all of them are looked at.
        entry.holder = 0
        left = [step]

        def open_another(pool: ManagedPool = pool) -> None:
            other = in_thread(lambda: pool.connect().close())
            other.join()

        sys.settrace(striking(open_another, left))
        try:
            assert not pool._core.watch.seems_to_hold()
        finally:
            sys.settrace(None)
        maker.forget()
        if left[0] >= 0:
            assert step > 5, "nothing was looked at"
            return
