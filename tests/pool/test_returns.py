"""A return that is written out here, beside SQLAlchemy's own: one does what the other does."""

import gc
import sqlite3
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, create_engine, event, make_url, text

from pyramid_dbpool.drivers.transactions import at_rest_by
from pyramid_dbpool.pool.managed import ManagedPool, PooledConnection
from tests.pool.test_door import Plain
from tests.support.makers import Maker, wait_until_gone

Calls = list[str]

# The events of a pool but for `checkout` and those of a return.
EVENTS = ("connect", "invalidate", "soft_invalidate", "close", "detach", "close_detached")


class Recorded(sqlite3.Connection):
    """A connection of SQLite's that says what is done with it."""

    calls: Calls
    refusal: BaseException | None = None

    def rollback(self) -> None:
        """Roll back, or fail."""
        self.calls.append("rollback")
        if self.refusal is not None:
            raise self.refusal
        super().rollback()

    def commit(self) -> None:
        """Commit."""
        self.calls.append("commit")
        super().commit()

    def close(self) -> None:
        """Close."""
        self.calls.append("close")
        super().close()


class Scene:
    """An engine whose pool gives connections back in one way or the other."""

    def __init__(self, *, sqlalchemys: bool, heard: str | None = None, **arguments: Any) -> None:
        self.calls: Calls = []
        self.engine: Engine = create_engine(
            "sqlite:///file:scene?mode=memory&uri=true",
            poolclass=ManagedPool,
            creator=self._connect,
            pool_size=1,
            max_overflow=0,
            **arguments,
        )
        pool = self.engine.pool
        assert isinstance(pool, ManagedPool)
        self.pool = pool
        for name in (*EVENTS, *([heard] if heard else ())):
            event.listen(pool, name, partial(self._note, name))
        if sqlalchemys:
            # Whoever listens has it all done by SQLAlchemy.
            event.listen(pool, "checkout", lambda *_: None)

    def _note(self, name: str, *_: object) -> None:
        self.calls.append(f"event {name}")

    def _connect(self) -> Recorded:
        made = sqlite3.connect(":memory:", factory=Recorded, check_same_thread=False)
        made.calls = self.calls
        return made

    def end(self) -> list[object]:
        """Return what can be told of it afterwards."""
        gc.collect()
        found = self.pool.snapshot()
        self.engine.dispose()
        counted = found.idle, found.leased, found.checkouts, found.returns, found.opened
        return [self.calls, counted, dict(found.closed)]


def close(scene: Scene) -> None:
    """Give it back at once."""
    scene.pool.connect().close()


def close_twice(scene: Scene) -> None:
    """Give it back, and again: nothing comes of it."""
    connection = scene.pool.connect()
    connection.close()
    connection.close()


def close_after_work(scene: Scene) -> None:
    """Give it back in the middle of a transaction."""
    connection = scene.pool.connect()
    connection.cursor().execute("CREATE TABLE t (n INTEGER)")
    connection.close()


def rolled_back_by_connection(scene: Scene) -> None:
    """SQLAlchemy's Connection rolls back before it gives back."""
    with scene.engine.connect() as connection:
        connection.execute(text("SELECT 1"))


def committed(scene: Scene) -> None:
    """What was committed is rolled back once more, as SQLAlchemy has it."""
    with scene.engine.begin() as connection:
        connection.execute(text("SELECT 1"))


def rollback_fails(scene: Scene) -> None:
    """A connection whose rollback fails is closed, and nobody hears an error."""
    connection = scene.pool.connect()
    driver: Any = connection.dbapi_connection
    driver.refusal = sqlite3.OperationalError("no")
    connection.close()


def rollback_is_interrupted(scene: Scene) -> None:
    """An interrupt goes on its way; the connection is closed."""
    connection = scene.pool.connect()
    driver: Any = connection.dbapi_connection
    driver.refusal = KeyboardInterrupt()
    with suppress(KeyboardInterrupt):
        connection.close()
        scene.calls.append("went on")


def invalidate(scene: Scene) -> None:
    """What is invalidated is closed at once."""
    connection = scene.pool.connect()
    connection.invalidate()
    connection.close()


def invalidate_softly(scene: Scene) -> None:
    """What is invalidated softly is closed when somebody asks for it."""
    connection = scene.pool.connect()
    connection.invalidate(soft=True)
    connection.close()
    scene.pool.connect().close()


def invalidate_record(scene: Scene) -> None:
    """The record is given back empty."""
    connection: Any = scene.pool.connect()
    connection._connection_record.invalidate()
    connection.close()


def detach(scene: Scene) -> None:
    """What is detached is closed by its holder."""
    connection = scene.pool.connect()
    connection.detach()
    connection.close()


def drop(scene: Scene) -> None:
    """What is dropped comes back."""
    connection = scene.pool.connect()
    connection.cursor().execute("CREATE TABLE t (n INTEGER)")
    del connection


def drop_in_a_cycle(scene: Scene) -> None:
    """The collector finds it."""
    connection: Any = scene.pool.connect()
    connection.itself = connection
    del connection
    gc.collect()


def drop_invalidated(scene: Scene) -> None:
    """A record that is empty already is not filled for it."""
    connection: Any = scene.pool.connect()
    connection._connection_record.invalidate()
    del connection


def called_at_the_end(scene: Scene) -> None:
    """What is to be called at the return is called: SQLAlchemy resets isolation levels so."""
    with scene.engine.connect() as connection:
        driver: Any = connection.connection.dbapi_connection
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("SELECT 1"))
        assert driver.isolation_level is None
    scene.calls.append(repr(driver.isolation_level))


def checked_in_by_its_record(scene: Scene) -> None:
    """It does not come back twice."""
    connection: Any = scene.pool.connect()
    connection._connection_record.checkin()
    connection.close()


SCENES = [
    close,
    close_twice,
    close_after_work,
    rolled_back_by_connection,
    committed,
    rollback_fails,
    rollback_is_interrupted,
    invalidate,
    invalidate_softly,
    invalidate_record,
    detach,
    drop,
    drop_in_a_cycle,
    checked_in_by_its_record,
    drop_invalidated,
    called_at_the_end,
]


@pytest.mark.parametrize("echo", [None, "debug"], ids=["silent", "echo"])
@pytest.mark.parametrize("heard", [None, "reset", "checkin"])
@pytest.mark.parametrize("reset", ["rollback", "commit", None])
@pytest.mark.parametrize("play", SCENES, ids=lambda play: play.__name__)
def test_both_ways_do_the_same(
    play: Callable[[Scene], None],
    reset: Any,
    heard: str | None,
    echo: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The driver and listeners see the same, the pool counts the same, the log says the same."""
    arguments: dict[str, Any] = {"heard": heard, "pool_reset_on_return": reset, "echo_pool": echo}
    seen = []
    for sqlalchemys in (False, True):
        caplog.clear()
        scene = Scene(sqlalchemys=sqlalchemys, **arguments)
        play(scene)
        said = [(each.levelname, each.message.split(" <")[0]) for each in caplog.records]
        seen.append([*scene.end(), said])
    ours, theirs = seen
    assert ours == theirs


def test_what_is_dropped_with_its_pool_is_rolled_back() -> None:
    """Although nobody knows the pool any more: the driver may not say goodbye by itself."""
    calls: Calls = []

    class Driver:
        def rollback(self) -> None:
            calls.append("rollback")

        def close(self) -> None:
            calls.append("close")

    connection: Any = ManagedPool(Driver).connect()
    connection.itself = connection
    del connection
    gc.collect()
    assert calls == ["rollback"]


def test_return_that_a_listener_breaks_keeps_no_connection_open() -> None:
    """Nobody has it any more, and so the driver closes it."""
    pool = ManagedPool(Plain, 1, 0)
    event.listen(pool, "checkin", lambda *_: 1 / 0)
    connection = pool.connect()
    known = weakref.ref(connection.dbapi_connection)
    with pytest.raises(ZeroDivisionError):
        connection.close()
    del connection, pool
    wait_until_gone(known)


def test_return_that_is_interrupted_at_its_end_keeps_no_connection_open() -> None:
    """It comes back no more; the pool that had it is gone, and the driver closes it."""

    class Interrupting(ManagedPool):
        def _return_conn(self, record: object) -> None:
            raise KeyboardInterrupt

    pool = Interrupting(Plain, 1, 0)
    connection = pool.connect()
    known = weakref.ref(connection.dbapi_connection)
    with pytest.raises(KeyboardInterrupt):
        connection.close()
    del connection, pool
    wait_until_gone(known)


@pytest.mark.parametrize("heard", [None, "checkin"])
def test_return_comes_by_what_a_subclass_has_written(heard: str | None) -> None:
    """An app may have its own `_do_return_conn`, as with SQLAlchemy's pools."""
    returned: Calls = []

    class Apps(ManagedPool):
        def _do_return_conn(self, record: object) -> None:
            returned.append("returned")
            super()._do_return_conn(record)

    pool = Apps(Plain, 1, 0)
    if heard:
        event.listen(pool, heard, lambda *_: None)
    for _ in range(2):
        pool.connect().close()
    assert returned == ["returned"] * 2
    assert (pool.snapshot().idle, pool.snapshot().leased) == (1, 0)


def test_usual_return_is_made_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLAlchemy is not asked, unless it has more to do than a rollback."""
    asked: list[Any] = []
    unheard, heard = Scene(sqlalchemys=False), Scene(sqlalchemys=False, heard="checkin")
    with monkeypatch.context() as patch:
        patch.setattr(PooledConnection, "_checkin", lambda self, *_: asked.append(self))
        close(unheard)
        assert not asked
        close(heard)
    (connection,) = asked
    connection._checkin()
    unheard.engine.dispose()
    heard.engine.dispose()


class Emptied(ManagedPool):
    """A pool whose connections another thread invalidates just as they are handed out."""

    def _do_get(self) -> Any:
        record = super()._do_get()
        record.invalidate()
        return record


def test_caller_who_is_given_an_empty_record_gets_a_connection(maker: Maker) -> None:
    """Where none can be opened he has the error, and the slot is free."""
    pool = Emptied(maker, 1, 0)
    lease = pool.connect()
    driver: Any = lease.dbapi_connection
    assert driver is maker.made[1]
    lease.close()
    maker.error = OSError("no more")
    with pytest.raises(OSError, match="no more"):
        pool.connect()
    assert (pool.checkedout(), pool.snapshot().leased) == (0, 0)
    pool.dispose()


class AtRest:
    """What psycopg's connection shows."""

    def __init__(self, **shown: object) -> None:
        self.__dict__.update(_pipeline=None, _tpc=None, _num_transactions=0)
        self.pgconn = SimpleNamespace(transaction_status=0)
        self.__dict__.update(shown)


@pytest.mark.parametrize(
    ("shown", "rests"),
    [
        ({}, True),
        ({"pgconn": SimpleNamespace(transaction_status=2)}, False),
        ({"pgconn": SimpleNamespace(transaction_status=4)}, False),
        ({"_pipeline": object()}, False),
        ({"_tpc": (object(), True)}, False),
        ({"_num_transactions": 1}, False),
    ],
)
def test_driver_with_something_to_end_does_not_rest(shown: dict[str, Any], rests: bool) -> None:
    """A pipeline, a block and a transaction of two phases are for the driver's own rollback."""
    ask = at_rest_by(AtRest(**shown))
    assert ask is not None
    assert ask() is rests


def test_driver_that_shows_less_is_rolled_back() -> None:
    """Another driver, or another release of psycopg, is not taken to rest."""
    connection = AtRest()
    del connection.__dict__["_tpc"]
    assert at_rest_by(connection) is None


class Counting(psycopg.Connection[Any]):
    """A connection of psycopg's that counts its rollbacks."""

    rollbacks = 0

    def rollback(self) -> None:
        """Roll back."""
        Counting.rollbacks += 1
        super().rollback()


@pytest.fixture
def engine(psycopg_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """Yield an engine whose connections count their rollbacks, one of them open."""
    dsn = make_url(psycopg_url).set(drivername="postgresql").render_as_string(False)
    made = create_engine(psycopg_url, poolclass=ManagedPool, creator=lambda: Counting.connect(dsn))
    with made.connect():
        pass
    monkeypatch.setattr(Counting, "rollbacks", 0)
    yield made
    made.dispose()


def test_idle_psycopg_is_not_rolled_back(engine: Engine) -> None:
    """Its rollback would do nothing; where there is something to end, it is called."""
    engine.pool.connect().close()
    assert Counting.rollbacks == 0
    connection = engine.pool.connect()
    connection.cursor().execute("SELECT 1")
    connection.close()
    assert Counting.rollbacks == 1
    assert engine.pool.status().startswith("Pool size: 5  Connections in pool: 1")


def test_dialects_own_rollback_is_made(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may do more than to roll back, idle or not."""
    called: list[object] = []
    monkeypatch.setattr(engine.dialect, "do_rollback", called.append)
    engine.pool.connect().close()
    assert len(called) == 1


def test_prepared_transaction_is_not_left_to_the_next_caller(engine: Engine) -> None:
    """psycopg refuses to roll back then; so the connection is closed."""
    connection = engine.pool.connect()
    driver: Any = connection.dbapi_connection
    driver.tpc_begin(driver.xid(1, "left", "behind"))
    connection.close()
    again = engine.pool.connect()
    assert again.dbapi_connection is not driver
    again.close()


def run(script: str) -> str:
    """Run a script; return what it says, errors included."""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout + done.stderr


OPENED = """
import ctypes, gc, os, socket
from pyramid_dbpool.pool.managed import ManagedPool

class Connection:
    def __init__(self):
        self.near, self.far = socket.socketpair()
    def rollback(self):
        print("rolled back", flush=True)
        self.near.send(b"R")
    def close(self):
        print("closed", flush=True)

pool = ManagedPool(Connection)
connection = pool.connect()
"""


def test_what_is_out_at_the_end_of_the_process_goes_with_it() -> None:
    """Nobody rolls back while the interpreter takes itself apart, and nothing is said."""
    assert run(f"{OPENED}print('over')") == "over\n"


def test_what_was_dropped_before_the_end_is_rolled_back() -> None:
    """In a handler of the exit's too, while there is an interpreter."""
    drop = "import atexit\natexit.register(lambda: globals().pop('connection'))\n"
    said = run(OPENED + drop)
    assert said.startswith("rolled back\n")
    # The timer's thread may still come to say so, or be gone.
    assert "closed" not in said
    assert said == "rolled back\n" or "has dropped its connection without" in said


@pytest.mark.parametrize("fork", ["os.fork()", "ctypes.CDLL(None).fork()"])
def test_child_that_drops_its_parents_connection_sends_nothing(fork: str) -> None:
    """Whether Python knew of the fork or not."""
    script = f"""{OPENED}
far = connection.dbapi_connection.far
child = {fork}
if not child:
    del connection
    gc.collect()
    os._exit(0)
os.waitpid(child, 0)
far.setblocking(False)
try:
    print("sent", far.recv(10), flush=True)
except BlockingIOError:
    print("nothing sent", flush=True)
os._exit(0)
"""
    assert run(script) == "nothing sent\n"
