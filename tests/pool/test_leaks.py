"""Connections that nobody gives back but the collector are told of, with whose they were."""

import gc
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from pyramid.request import Request
from sqlalchemy import event, select
from sqlalchemy.orm import Session

from pyramid_dbpool import ManagedPool, get_engine, session_factory
from pyramid_dbpool.clock import monotonic
from pyramid_dbpool.events import Event, Kind
from pyramid_dbpool.pool import watch
from pyramid_dbpool.pool.housekeeper import housekeeper
from pyramid_dbpool.pool.labels import Label, holder_label
from tests.support.happened import Happened
from tests.support.holding import LOGGER
from tests.support.makers import PATIENCE, Maker, in_thread, wait_for
from tests.support.webapp import PARTS, app


@pytest.fixture(autouse=True)
def begin_without_others(leaks_are_logged: None) -> None:
    """Have what others have left told of before."""
    gc.collect()
    over = threading.Event()
    housekeeper().call_at(monotonic(), over.set)
    assert over.wait(PATIENCE)


@pytest.fixture(params=["", "listener"])
def pool(request: pytest.FixtureRequest, maker: Maker) -> Iterator[ManagedPool]:
    """Give a pool, with our way of a checkout and with SQLAlchemy's."""
    made = ManagedPool(maker, 2, 0, pool_name="jobs")
    if request.param:
        event.listen(made, "checkout", lambda *_: None)
    yield made
    made.dispose()


def leaks(happened: Happened, count: int = 1) -> list[Event]:
    """Wait for what is told of leaks."""
    wait_for(lambda: len(happened(Kind.LEAK)) >= count)
    return happened(Kind.LEAK)


@pytest.mark.parametrize("cycle", [False, True])
def test_what_is_dropped_is_told_of(
    pool: ManagedPool, happened: Happened, caplog: pytest.LogCaptureFixture, cycle: bool
) -> None:
    """Once: with whose it was and how long, as a warning; and the connection is back."""
    with Label(lambda: "GET route 'leaks'"):
        connection: Any = pool.connect()
    if cycle:
        connection.itself = connection
    del connection
    gc.collect()
    (leak,) = leaks(happened)
    assert leak.text.startswith(
        "pool 'jobs': GET route 'leaks' (ended) has dropped its connection without giving it back,"
        " and the garbage collector has found it after 0."
    )
    assert leak.text.endswith(" (trace_checkouts = true says where it was taken.)")
    assert leak.fields["label"] == "GET route 'leaks' (ended)"
    assert isinstance(leak.fields["seconds"], float)
    assert (leak.fields["place"], leak.fields["left_out"]) == (None, 0)
    assert pool.checkedout() == 0
    pool.connect().close()
    assert [each.levelname for each in caplog.records if each.name == LOGGER] == ["WARNING"]


def test_what_is_given_back_is_no_leak(pool: ManagedPool, happened: Happened) -> None:
    """In whichever way, and whatever is collected afterwards."""
    pool.connect().close()
    pool.connect().invalidate()
    connection = pool.connect()
    connection.detach()
    connection.close()
    del connection
    gc.collect()
    # The timer tells one after the other.
    pool.connect()
    assert len(leaks(happened)) == 1


def test_a_flood_of_leaks_is_no_flood_of_lines(
    maker: Maker, happened: Happened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next line of that holder counts those that were left out; another's own has its own."""
    pool = ManagedPool(maker, 1, 0)

    def drop(label: str) -> None:
        with holder_label(label):
            pool.connect()

    for label in ("GET /a", "GET /a", "GET /b", "GET /a"):
        drop(label)
    wait_for(lambda: not pool._core.watch._dropped)
    monkeypatch.setattr(watch, "LOG_EVERY", 0.0)
    wait_for(lambda: drop("GET /a") or len(happened(Kind.LEAK)) > 2)
    told = [(each.fields["label"], each.fields["left_out"]) for each in happened(Kind.LEAK)]
    assert told[:3] == [("GET /a", 0), ("GET /b", 0), ("GET /a", 2)]
    assert "(2 more since the last such line)." in happened(Kind.LEAK)[2].text
    pool.dispose()


def take(pool: ManagedPool) -> Any:
    return pool.connect()


def test_a_traced_leak_says_where_it_was_taken(
    maker: Maker, happened: Happened, caplog: pytest.LogCaptureFixture
) -> None:
    """And so does what is said of a long hold."""
    pool = ManagedPool(maker, 1, 0, hold_warning=0.1, trace_checkouts=True)
    connection = take(pool)
    wait_for(lambda: happened(Kind.HELD))
    del connection
    (leak,) = leaks(happened)
    (held,) = happened(Kind.HELD)
    taken = f"taken in take ({__file__}:"
    assert f"It was {taken}" in leak.text and str(leak.fields["place"]).startswith(taken)
    assert "called by test_a_traced_leak_says_where_it_was_taken" in leak.text
    assert "trace_checkouts" not in leak.text
    assert f"; it was {taken}" in held.text
    # The return of what was warned of is told of by the leak.
    assert not happened(Kind.RETURNED)
    pool.dispose()


def test_who_takes_it_next_is_named_and_not_who_had_it_before(maker: Maker) -> None:
    """Also in a pool that was made in the place of one that was disposed of."""
    former = ManagedPool(maker, 1, 0, trace_checkouts=True)
    former.dispose()
    pool: Any = former.recreate()
    for where in (take, lambda pool: pool.connect()):
        connection = where(pool)
        (entry,) = pool._core.line.members
        assert entry.taken[0].startswith(where.__qualname__)
        connection.close()
    assert len(list(pool.dispatch.checkout)) == 1


def test_without_tracing_nobody_listens(maker: Maker) -> None:
    """Off, it has to cost nothing."""
    assert not ManagedPool(maker).dispatch.checkout


def test_a_setting_traces(sqlite_url: str, happened: Happened) -> None:
    """For each pool; the line names the key where it is not set."""
    for trace in ("true", "false"):
        settings = {"sqlalchemy.url": sqlite_url, "dbpool.trace_checkouts": trace}
        session = session_factory(settings)
        session.execute(select(1))
        del session
        gc.collect()
        get_engine(settings).dispose()
    traced, plain = leaks(happened, 2)
    assert f"It was taken in test_a_setting_traces ({__file__}:" in traced.text
    assert "(dbpool.trace_checkouts = true says" in plain.text


def test_what_the_plugin_closes_is_no_leak(sqlite_url: str, happened: Happened) -> None:
    """A request need not close its session; one that it has made itself it has to."""

    def view(request: Request) -> None:
        request.db.execute(select(1))

    def leaks_one(request: Request) -> None:
        Session(request.registry["sqlalchemy.engine"]).execute(select(1))

    with app({"sqlalchemy.url": sqlite_url}, *PARTS, index=view, leaks=leaks_one) as web:
        for _ in range(3):
            web.get()
        gc.collect()
        web.get("/leaks")
        gc.collect()
        (leak,) = leaks(happened)
    assert str(leak.fields["label"]).startswith("GET route 'leaks'")


def test_the_collector_may_come_in_the_middle_of_the_pools_own_work(
    maker: Maker, happened: Happened
) -> None:
    """Nothing is told with the lock held, nor by the thread in which the collector runs."""
    pool = ManagedPool(maker, 1, 0)
    held: list[bool] = []
    threads: list[threading.Thread] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            done = in_thread(pool.snapshot)
            done.join(PATIENCE)
            held.append(done.is_alive())
            threads.append(threading.current_thread())

    handler, logger = Handler(), logging.getLogger(watch.__name__)
    logger.addHandler(handler)
    try:
        connection: Any = pool.connect()
        with pool._core.door, pool._core.lock:
            del connection
            assert not happened(Kind.LEAK)
        leaks(happened)
        wait_for(lambda: held)
    finally:
        logger.removeHandler(handler)
    assert held == [False]
    assert threads[0] is not threading.current_thread()
    pool.dispose()


SCRIPT = """
import gc, os, sys
from sqlalchemy import create_engine, event, select
from pyramid_dbpool import ManagedPool
engine = create_engine("sqlite:///" + sys.argv[1], poolclass=ManagedPool)
if len(sys.argv) > 2:
    event.listen(engine, "checkout", lambda *_: None)
connection = engine.connect()
connection.execute(select(1))
"""
FORKS = """
if not (child := os.fork()):
    del connection
    gc.collect()
    with engine.connect():
        pass
    from pyramid_dbpool.events import recent
    print(len(recent()), flush=True)
    os._exit(0)
os.waitpid(child, 0)
connection.close()
"""


@pytest.mark.parametrize("way", [[], ["listener"]], ids=["ours", "SQLAlchemy's"])
@pytest.mark.parametrize(("rest", "said"), [("", ""), (FORKS, "0\n")], ids=["exit", "fork"])
def test_neither_the_end_nor_a_fork_is_a_leak(
    tmp_path: Any, rest: str, said: str, way: list[str]
) -> None:
    """The one drops all there is; what a child drops, the parent has still."""
    command = [sys.executable, "-c", SCRIPT + rest, str(tmp_path / "db"), *way]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert (done.stdout, done.stderr) == (said, "")


@pytest.mark.parametrize("listened", [False, True], ids=["ours", "SQLAlchemy's"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_was_dropped_comes_back_though_the_note_of_it_is_interrupted(
    maker: Maker, monkeypatch: pytest.MonkeyPatch, listened: bool
) -> None:
    """Nobody would ever give it back again."""
    pool = ManagedPool(maker, 1, 0)
    if listened:
        event.listen(pool, "checkout", lambda *_: None)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watch.LeaseWatch, "dropped", interrupted)
    connection: Any = pool.connect()
    del connection
    wait_for(lambda: (gc.collect(), pool.checkedin() == 1)[1])


def test_what_sqlalchemy_warns_of_is_not_told_twice(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an async driver it has words of its own for it."""
    pool = ManagedPool(maker, 1, 0)
    monkeypatch.setattr(pool._dialect, "is_async", True, raising=False)
    monkeypatch.setattr(watch.LeaseWatch, "_tell_soon", lambda _watch: None)
    connection: Any = pool.connect()
    with pytest.warns(Warning, match="garbage collector"):
        del connection
    assert not pool._core.watch._dropped


def test_labels_without_end_are_not_kept(pool: ManagedPool) -> None:
    """Each message may have one of its own, and a worker lives for months."""
    made = pool._core.watch
    assert all(made._left_out(f"message {number}") == 0 for number in range(5 * watch.PLACES))
    assert len(made._written) <= watch.PLACES
