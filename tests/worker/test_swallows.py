"""What `consume` does when a handler swallows the database's errors and goes on."""

from collections.abc import Callable
from contextlib import suppress

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.orm import Session

from pyramid_dbpool import ChangesDiscarded, TransactionFailed
from tests.support.workers import Broken, Worker, store

CONFLICT = "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40001'; END $$"
LOST = "SELECT pg_terminate_backend(pg_backend_pid())"


def store_nothing(message: str, session: Session) -> None:
    """Believe that all is well."""


def wrap(message: str, session: Session) -> None:
    """Go on, and make an error of one's own of what comes of it."""
    try:
        store(message, session)
        session.flush()
    except Exception as error:
        raise Broken from error


def swallow_another(message: str, session: Session) -> None:
    """Meet an error that only says that there was one before."""
    with suppress(DBAPIError, PendingRollbackError):
        session.execute(text("SELECT 1"))


@pytest.fixture
def pg_worker(postgres_url: str) -> Worker:
    """Return a worker on PostgreSQL, with each driver."""
    return Worker(postgres_url)


@pytest.mark.parametrize("rest", [store_nothing, store, wrap, swallow_another])
@pytest.mark.parametrize("statement", [CONFLICT, LOST])
def test_an_error_that_may_pass_is_tried_again(
    pg_worker: Worker, statement: str, rest: Callable[[str, Session], None]
) -> None:
    """A restart or a conflict must not have messages rejected whose handlers log errors."""
    numbers: list[int] = []

    def handle(message: str, session: Session) -> None:
        numbers.append(1)
        store(message, session)
        session.flush()
        if len(numbers) == 1:
            with suppress(DBAPIError):
                session.execute(text(statement))
            rest(message * 2, session)

    pg_worker.run("a", handle)
    assert (len(numbers), pg_worker.stored(), pg_worker.acked) == (2, ["a"], ["a"])


def test_an_error_of_the_message_is_not_tried_again(pg_worker: Worker) -> None:
    """It would come again, each time; the message is handed on."""
    numbers: list[int] = []

    def handle(message: str, session: Session) -> None:
        numbers.append(1)
        with suppress(DBAPIError):
            session.execute(text("SELECT 1 / 0"))

    pg_worker.run("a", handle)
    assert (len(numbers), pg_worker.acked) == (1, [])
    assert isinstance(pg_worker.failed[0][1], TransactionFailed)


def test_an_error_that_was_made_good_is_no_reason_to_try_again(pg_worker: Worker) -> None:
    """What the handler's own later error says is what counts."""
    numbers: list[int] = []

    def handle(message: str, session: Session) -> None:
        numbers.append(1)
        with suppress(DBAPIError), session.begin_nested():
            session.execute(text(CONFLICT))
        raise Broken

    pg_worker.run("a", handle)
    assert (len(numbers), [message for message, _ in pg_worker.failed]) == (1, ["a"])


@pytest.mark.parametrize("flush", [False, True])
def test_a_handler_that_closes_its_session_is_an_error(any_url: str, flush: bool) -> None:
    """Its message is not acknowledged, and what came after is not stored either."""
    worker = Worker(any_url)

    def handle(message: str, session: Session) -> None:
        store(message, session)
        if message == "b":
            if flush:
                session.flush()
            session.close()
            store("after", session)

    worker.run("abc", handle)
    ((message, error),) = worker.failed
    assert (message, type(error)) == ("b", ChangesDiscarded)
    assert (worker.acked, worker.stored()) == (["a", "c"], ["a", "c"])


def test_a_handler_that_rolls_back_is_warned_of_by_its_message(
    any_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is its right: the message is acknowledged, and the rest is stored."""
    worker = Worker(any_url)

    def handle(message: str, session: Session) -> None:
        store("lost", session)
        session.rollback()
        store(message, session)

    caplog.clear()
    worker.run("a", handle)
    (record,) = caplog.records
    assert "message #1 is committed without" in record.getMessage()
    assert (worker.acked, worker.stored()) == (["a"], ["a"])
