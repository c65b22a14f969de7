"""An app's `handle_error` listener calls a connection lost, and its driver does not."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, text
from sqlalchemy.exc import DBAPIError

from pyramid_dbpool import dispose_engine, get_engine
from pyramid_dbpool.pool.managed import ManagedPool
from tests.support.makers import wait_for
from tests.support.servers.fixtures import MARIADB, POSTGRES, NewDatabase

PLAIN = {"postgresql": "SELECT 1 / 0", "mysql": "SELECT nothing"}
OWN_NUMBER = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT CONNECTION_ID()"}
END = {"postgresql": "SELECT pg_terminate_backend({})", "mysql": "KILL {}"}
KINDS = ["alone", "plugin", "in an app"]

MakeEngine = Callable[[str], Engine]


@pytest.fixture(params=KINDS)
def make_engine(request: pytest.FixtureRequest) -> Iterator[MakeEngine]:
    """Make engines on a bare pool, one with all that the plugin has, and one that is the app's."""
    ends: list[Callable[[], object]] = []

    def make(url: str) -> Engine:
        if request.param == "in an app":
            settings = {"sqlalchemy.url": url, "dbpool.min_idle": "0"}
            ends.append(lambda: dispose_engine(settings))
            return get_engine(settings)
        arguments: dict[str, Any] = {"pool_size": 5, "max_overflow": 10}
        if request.param == "plugin":
            arguments = ManagedPool.plugin_arguments() | {"min_idle": 0}
        engine = create_engine(url, poolclass=ManagedPool, **arguments)
        ends.append(engine.dispose)
        return engine

    yield make
    for end in ends:
        end()


def number_of(connection: Connection) -> int:
    """Ask the server for the connection's number."""
    found: int = connection.scalar(text(OWN_NUMBER[connection.dialect.name]))
    connection.rollback()
    return found


def numbers(engine: Engine, count: int) -> set[int]:
    """Take so many connections at once; return their numbers."""
    held = [engine.connect() for _ in range(count)]
    found = {number_of(connection) for connection in held}
    for connection in held:
        connection.close()
    return found


def fail(connection: Connection, statement: str) -> None:
    with pytest.raises(DBAPIError):
        connection.execute(text(statement))
    connection.rollback()


def call_lost(engine: Engine, *, pool_too: bool = True) -> None:
    """Have every error of the engine's call its connection lost."""

    @event.listens_for(engine, "handle_error")
    def listener(context: ExceptionContext) -> None:
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = pool_too


@pytest.mark.parametrize("backend", [*POSTGRES, *MARIADB])
def test_what_was_opened_before_is_replaced(
    new_database: NewDatabase, make_engine: MakeEngine, backend: str
) -> None:
    """As with QueuePool: what is idle now, and what is in use when it comes back."""
    engine = make_engine(new_database(backend))
    call_lost(engine)
    with engine.connect() as in_use:
        leased = number_of(in_use)
        before = numbers(engine, 3)
        with engine.connect() as connection:
            fail(connection, PLAIN[engine.dialect.name])
        assert number_of(in_use) == leased
    assert not numbers(engine, 4) & (before | {leased})


@pytest.mark.parametrize("backend", ["postgresql+psycopg", "mysql+pymysql"])
def test_those_that_fail_later_leave_what_was_opened_since(
    new_database: NewDatabase, make_engine: MakeEngine, backend: str
) -> None:
    """As with QueuePool: what they say is known, and said of those that were there before."""
    engine = make_engine(new_database(backend))
    call_lost(engine)
    with engine.connect() as first, engine.connect() as second:
        fail(first, PLAIN[engine.dialect.name])
        since = numbers(engine, 2)
        fail(second, PLAIN[engine.dialect.name])
        assert numbers(engine, 2) == since


@pytest.mark.parametrize("backend", ["postgresql+psycopg", "mysql+pymysql"])
def test_the_others_stay_where_the_listener_says_so(
    new_database: NewDatabase, make_engine: MakeEngine, backend: str
) -> None:
    """With `invalidate_pool_on_disconnect` off it is about the one connection."""
    engine = make_engine(new_database(backend))
    call_lost(engine, pool_too=False)
    before = numbers(engine, 3)
    with engine.connect() as connection:
        lost = number_of(connection)
        fail(connection, PLAIN[engine.dialect.name])
    after = numbers(engine, 3)
    assert before - after == {lost}


@pytest.mark.parametrize("make_engine", ["plugin", "in an app"], indirect=True)
@pytest.mark.parametrize("backend", [*POSTGRES, *MARIADB])
def test_the_others_are_looked_at_where_the_driver_says_it(
    new_database: NewDatabase, make_engine: MakeEngine, backend: str
) -> None:
    """Somebody has ended one session; those that answer a ping stay, whatever a listener adds."""
    engine = make_engine(new_database(backend))
    call_lost(engine)
    end = END[engine.dialect.name]
    before = numbers(engine, 4)
    pool = engine.pool
    assert isinstance(pool, ManagedPool)
    with engine.connect() as killer, engine.connect() as connection:
        lost = number_of(connection)
        killer.execute(text(end.format(lost)))
        wait_for(lambda: is_lost(connection))
    wait_for(lambda: pool.snapshot().held == 0)
    assert numbers(engine, 3) <= before - {lost}


def is_lost(connection: Connection) -> bool:
    """Ask until the driver says that it is."""
    try:
        connection.execute(text("SELECT 1"))
    except DBAPIError as error:
        return error.connection_invalidated
    return False
