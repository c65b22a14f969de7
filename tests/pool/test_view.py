"""Who holds what and who waits, and where in the code they are."""

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import create_engine

from pyramid_dbpool.drivers.server_pids import server_pid
from pyramid_dbpool.pool.labels import Label, holder_label
from pyramid_dbpool.pool.managed import ManagedPool
from pyramid_dbpool.pool.view import Waiting
from tests.support.makers import Maker, in_thread, wait_for
from tests.support.programs import run_program


@pytest.fixture
def pool(maker: Maker) -> Iterator[ManagedPool]:
    """Yield a pool of one connection."""
    made = ManagedPool(maker, 1, 0, pool_name="jobs")
    yield made
    made.dispose()


class Stuck:
    """Threads that hold or wait, until the test is over."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self._threads: list[threading.Thread] = []

    def hold(self, pool: ManagedPool, label: object = "") -> threading.Thread:
        """Have a thread check a connection out, and stay in `holds_on`."""

        def run() -> None:
            with holder_label(label or None):
                connection = pool.connect()
            self.holds_on()
            connection.close()

        thread = in_thread(run)
        self._threads.append(thread)
        return thread

    def holds_on(self) -> None:
        """Wait for the end."""
        self.over.wait()

    def end(self) -> None:
        """Let all of them go."""
        self.over.set()
        for each in self._threads:
            each.join()


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    """Yield those who hold on, and let them go."""
    made = Stuck()
    yield made
    made.end()


def test_a_holder_is_shown_with_the_place_where_it_is(pool: ManagedPool, stuck: Stuck) -> None:
    """The app's innermost function first, and the thread by its name."""
    thread = stuck.hold(pool, "GET route 'notes'")
    wait_for(lambda: any("holds_on" in each.stack[0] for each in pool.view().holders))
    (holding,) = pool.view().holders
    assert (holding.label, holding.ident) == ("GET route 'notes'", thread.ident)
    assert holding.worker == f"thread {thread.name!r}"
    assert holding.server_pid is None
    assert holding.stack[0].startswith(f"Stuck.holds_on ({__file__}:")
    assert "run (" in holding.stack[1]
    assert 0 <= holding.seconds < 60


def test_stacks_are_made_only_for_whoever_asks(pool: ManagedPool) -> None:
    """Under gevent they take a walk over all objects."""
    with closing(pool.connect()):
        (holding,) = pool.view(stacks=False).holders
    assert holding.stack == ()


def test_one_who_is_not_in_the_apps_code_is_shown_in_a_librarys(pool: ManagedPool) -> None:
    """Which is better than nothing: what blocks there is often what is wrong."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    with closing(pool.connect()):
        thread.start()
        (entry,) = pool._core.line.members
        entry.holder = thread.ident or 0
        wait_for(lambda: any("Event.wait" in each for each in pool.view().holders[0].stack))
        over.set()
        thread.join()
        # Where it has ended, there is none.
        wait_for(lambda: pool.view().holders[0].stack == ())


def test_the_oldest_come_first(maker: Maker, stuck: Stuck) -> None:
    """In the order in which one would look into them."""
    pool = ManagedPool(maker, 3, 0)
    for number in range(3):
        stuck.hold(pool, f"number {number}")
        wait_for(lambda: pool.checkedout() == number + 1)  # noqa: B023
    assert [each.label for each in pool.view().holders] == ["number 0", "number 1", "number 2"]


def test_who_waits_is_shown(pool: ManagedPool, stuck: Stuck) -> None:
    """With label, thread and place; and that one of them holds a connection already."""
    label = Label(lambda: "GET route 'pair'")
    refused: list[BaseException] = []

    def pair() -> None:
        with label, closing(pool.connect()):
            stuck.hold(pool, "another")
            wait_for(lambda: pool.view().waiters)
            try:
                pool.connect().close()
            except BaseException as error:
                refused.append(error)

    pool._core.shared.__dict__["timeout"] = 60.0
    thread = in_thread(pair)
    wait_for(lambda: len(pool.view().waiters) == 2)
    view = pool.view()
    first, second = view.waiters
    assert (first.label, first.holds) == ("another", False)
    assert (second.label, second.ident, second.holds) == ("GET route 'pair'", thread.ident, True)
    assert "pair (" in second.stack[0]
    assert first.seconds >= second.seconds >= 0
    assert view.snapshot.waiting == 2
    assert [each.label for each in view.snapshot.holders] == ["GET route 'pair'"]
    pool._core.line.capacity = 3
    pool._core.line._slot_freed()
    thread.join()
    assert not refused


def test_one_who_has_ended_is_shown_where_nobody_else_is(pool: ManagedPool) -> None:
    """Whoever works in its thread by now would be blamed for what it has left behind."""
    with Label(lambda: "GET route 'leaky'"):
        leaked = pool.connect()
    (seen,) = pool.view().holders
    leaked.close()
    assert (seen.label, seen.over, seen.stack) == ("GET route 'leaky' (ended)", True, ())


def test_where_a_connection_was_taken_is_shown(maker: Maker) -> None:
    """If it is noted."""
    pool = ManagedPool(maker, trace_checkouts=True)
    with closing(pool.connect()):
        (seen,) = pool.view().holders
    pool.dispose()
    assert not seen.over
    assert seen.taken[0].startswith("test_where_a_connection_was_taken_is_shown (")


def test_whoever_works_in_a_thread_after_a_leak_is_innocent(pool: ManagedPool) -> None:
    """What another request has left behind there is none of his."""
    label = Label(lambda: "GET route 'leaky'")
    with label:
        leaked = pool.connect()
    seen: list[Waiting] = []

    def look() -> None:
        wait_for(lambda: pool.view().waiters)
        seen.extend(pool.view().waiters)
        leaked.close()

    thread = in_thread(look)
    pool.connect().close()
    thread.join()
    assert [each.holds for each in seen] == [False]


def test_the_servers_number_is_shown(postgres_url: str) -> None:
    """By which an administrator finds the connection in pg_stat_activity."""
    engine = create_engine(postgres_url, poolclass=ManagedPool)
    assert isinstance(engine.pool, ManagedPool)
    with engine.connect() as connection:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        assert [each.server_pid for each in engine.pool.view().holders] == [pid]
    engine.dispose()


@pytest.mark.programs
def test_mariadbs_number_is_shown(mariadb_url: str) -> None:
    """The same for SHOW PROCESSLIST."""
    engine = create_engine(mariadb_url, poolclass=ManagedPool)
    assert isinstance(engine.pool, ManagedPool)
    with engine.connect() as connection:
        number = connection.exec_driver_sql("SELECT CONNECTION_ID()").scalar_one()
        assert [each.server_pid for each in engine.pool.view().holders] == [number]
    engine.dispose()


def test_a_driver_that_fails_to_say_has_no_number() -> None:
    """Nobody's work is to fail for it."""

    class Closed:
        @property
        def info(self) -> Any:
            raise RuntimeError("the connection is closed")

    Closed.__module__ = "psycopg"
    assert server_pid(Closed()) is None


GREENLETS = """
from gevent import monkey
monkey.patch_all()
import gevent
from gevent.event import Event
from sqlalchemy import create_engine
from pyramid_dbpool import ManagedPool

over = Event()
engine = create_engine("sqlite:///%s", poolclass=ManagedPool, pool_size=2, max_overflow=0)

def holding():
    with engine.connect():
        over.wait(20)

def waiting():
    with engine.connect():
        pass

def looking():
    with engine.connect():
        spawned.append(gevent.spawn(waiting))
        gevent.sleep(0)
        while not engine.pool.view(stacks=False).waiters:
            gevent.sleep(0.01)
        view = engine.pool.view()
        for each in view.holders + view.waiters:
            print(each.worker.split()[0], each.stack[0].split()[0])
    over.set()

spawned = [gevent.spawn(holding)]
gevent.sleep(0)
looking()
gevent.joinall(spawned)
"""


@pytest.mark.programs
def test_greenlets_are_found_also_the_one_that_looks(tmp_path: Any) -> None:
    """They are no threads; those that are suspended are found by a walk."""
    done = run_program(GREENLETS % (tmp_path / "some.db"))
    said = ["greenlet holding", "thread looking", "greenlet waiting"]
    assert done.stdout.splitlines() == said, done
