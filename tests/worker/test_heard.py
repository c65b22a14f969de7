"""What `consume` makes of what drivers say and do."""

import json
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine, ExceptionContext, event, insert, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from pyramid_dbpool.drivers.sockets import has_ended
from tests.support.makers import wait_for
from tests.support.servers.fixtures import POSTGRES, NewDatabase
from tests.support.workers import Done, Worker, outside, store


@pytest.fixture
def pg_worker(postgres_url: str) -> Worker:
    """Give a worker on PostgreSQL."""
    return Worker(postgres_url)


def of_the_driver(session: Session) -> None:
    driver = session.connection().connection.dbapi_connection
    assert driver is not None
    driver.commit()


def of_the_pool(session: Session) -> None:
    session.connection().connection.commit()


def of_a_loader(session: Session) -> None:
    driver = session.connection().connection.driver_connection
    assert driver is not None
    driver.commit()
    driver.cursor().execute("SELECT 1")


@pytest.mark.parametrize("idempotent", [False, True])
@pytest.mark.parametrize("commits", [of_the_driver, of_the_pool, of_a_loader])
def test_a_message_that_the_driver_has_stored_is_not_handled_twice(
    pg_worker: Worker, commits: Callable[[Session], None], idempotent: bool
) -> None:
    """Unless that does no harm."""
    tries: list[str] = []

    def handle(message: str, session: Session) -> None:
        tries.append(message)
        store(message, session)
        session.flush()
        if len(tries) == 1:
            commits(session)
            pg_worker.end_backends()
            session.execute(text("SELECT 1"))

    pg_worker.run("a", handle, idempotent=idempotent)
    assert (len(tries), len(pg_worker.failed)) == ((2, 0) if idempotent else (1, 1))


@pytest.mark.parametrize("idempotent", [False, True])
@pytest.mark.parametrize("where", ["statement", "commit"])
@pytest.mark.parametrize("backend", POSTGRES)
def test_a_handler_that_is_slow_in_its_transaction_has_failed(
    new_database: NewDatabase, backend: str, where: str, idempotent: bool
) -> None:
    """It would be as slow again, and repeat what it does elsewhere; the error says what struck."""
    url = new_database(backend)
    worker = Worker(url, **{"dbpool.idle_in_transaction_timeout": "100ms"})
    tries: list[str] = []

    def handle(message: str, session: Session) -> None:
        tries.append(message)
        store(message, session)
        session.flush()
        if message == "a":
            connection = session.connection().connection
            wait_for(lambda: has_ended(connection.dbapi_connection))
            if where == "statement":
                session.execute(text("SELECT 1"))

    worker.run("ab", handle, idempotent=idempotent)
    ((message, error),) = worker.failed
    assert (message, tries, worker.stored()) == ("a", ["a", "b"], ["b"])
    assert "dbpool.idle_in_transaction_timeout = 0.1 s" in str(error)


def test_so_has_one_on_an_engine_of_others(new_database: NewDatabase) -> None:
    """Nobody hears of it there but from the error."""
    worker = Worker(new_database("postgresql+psycopg"))
    tries: list[str] = []

    def handle(message: str, session: Session) -> None:
        tries.append(message)
        # Did this process stand still for so long, the words would come with the result, unheard.
        session.execute(text("SET idle_in_transaction_session_timeout = 500"))
        connection = session.connection().connection
        wait_for(lambda: has_ended(connection.dbapi_connection))
        session.execute(text("SELECT 1"))

    theirs = outside(worker.settings)
    worker.run("a", handle, session_factory=lambda _settings: Session(theirs))
    assert (tries, [message for message, _ in worker.failed]) == (["a"], ["a"])


def test_a_lock_that_was_not_had_in_time_is_tried_again(postgres_url: str) -> None:
    """However long that took: nobody waits for the answer."""
    worker = Worker(postgres_url, **{"sqlalchemy.pool_timeout": "100ms"})
    worker.run("x")
    other = outside(worker.settings).connect()
    other.execute(text("LOCK TABLE done"))
    tries: list[str] = []

    def handle(message: str, session: Session) -> None:
        tries.append(message)
        if len(tries) == 2:
            other.close()
        session.execute(text("SET LOCAL lock_timeout = '300ms'"))
        session.execute(insert(Done).values(message=message))

    worker.run("a", handle)
    assert (tries, worker.stored(), worker.failed) == (["a", "a"], ["x", "a"], [])


def test_a_prepared_statement_whose_result_has_changed_is_tried_again(
    new_database: NewDatabase,
) -> None:
    """A migration came between."""
    arguments = json.dumps({"prepare_threshold": 0})
    worker = Worker(new_database("postgresql+psycopg"), **{"sqlalchemy.connect_args": arguments})
    with outside(worker.settings).begin() as connection:
        connection.execute(text("CREATE TABLE changing (a int)"))
    tries: list[str] = []

    def handle(message: str, session: Session) -> None:
        tries.append(message)
        store(message, session)
        if tries == ["a", "b"]:
            with outside(worker.settings).begin() as connection:
                connection.execute(text("ALTER TABLE changing ADD b int"))
        session.execute(text("SELECT * FROM changing"))

    worker.run("ab", handle)
    assert (tries, worker.stored(), worker.failed) == (["a", "b", "b"], ["a", "b"], [])


def drivers_own(context: ExceptionContext) -> None:
    """Raise the driver's error, as some apps want it."""
    if isinstance(context.sqlalchemy_exception, DBAPIError):
        raise context.original_exception


@pytest.fixture
def unwrapped() -> Iterator[None]:
    """Have every engine raise its driver's errors."""
    event.listen(Engine, "handle_error", drivers_own)
    yield
    event.remove(Engine, "handle_error", drivers_own)


@pytest.mark.usefixtures("unwrapped")
@pytest.mark.parametrize("swallowed", [False, True])
@pytest.mark.parametrize("trouble", ["race", "loss"])
def test_an_error_of_the_driver_is_tried_again(
    pg_worker: Worker, trouble: str, swallowed: bool
) -> None:
    """It has been heard before it was put in the place of SQLAlchemy's."""
    tries: list[str] = []
    race = text("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40001'; END $$")

    def handle(message: str, session: Session) -> None:
        tries.append(message)
        store(message, session)
        session.flush()
        if len(tries) > 1:
            return
        if trouble == "loss":
            pg_worker.end_backends()
        try:
            session.execute(race)
        except Exception:
            if not swallowed:
                raise

    pg_worker.run("a", handle)
    assert (len(tries), pg_worker.stored(), pg_worker.failed) == (2, ["a"], [])
