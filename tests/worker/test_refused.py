"""What `consume` does when the database refuses it."""

import logging
from collections.abc import Callable

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from pyramid_dbpool import DatabaseUnavailable
from pyramid_dbpool.embedded import PrivatePostgres
from tests.support.workers import Broken, Lost, Worker, ask, outside, store

NewPostgres = Callable[..., PrivatePostgres]

OTHERS = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'app'"


@pytest.fixture(params=["psycopg", "psycopg2"])
def locked(
    request: pytest.FixtureRequest, new_postgres: NewPostgres
) -> tuple[Worker, Callable[[], None]]:
    """Give a worker, and what changes its password and ends its connections."""
    server = new_postgres(password="admin")
    admin = outside({"sqlalchemy.url": server.url()})
    with admin.begin() as connection:
        connection.execute(text("CREATE ROLE app SUPERUSER LOGIN PASSWORD 'old'"))

    def shut_out() -> None:
        with admin.begin() as connection:
            connection.execute(text("ALTER ROLE app PASSWORD 'new'"))
            connection.execute(text(OTHERS))

    url = make_url(server.url(request.param)).set(username="app", password="old")
    return Worker(url.render_as_string(hide_password=False)), shut_out


@pytest.mark.parametrize("in_hand", [False, True])
def test_a_changed_password_ends_the_loop_and_blames_no_message(
    locked: tuple[Worker, Callable[[], None]], in_hand: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether a message comes after it or is in hand; one line of the log says what to do."""
    worker, shut_out = locked

    def handle(message: str, session: Session) -> None:
        store(message, session)
        session.flush()
        if message == "2" and in_hand:
            shut_out()
            session.execute(text("SELECT 1"))

    def ack(message: str) -> None:
        worker.acked.append(message)
        if not in_hand:
            shut_out()

    with pytest.raises(DatabaseUnavailable, match="password authentication failed"):
        worker.run("123", handle, ack=ack, identify=str)
    assert (worker.acked, worker.failed) == (["1"], [])
    (record,) = (each for each in caplog.records if each.levelno >= logging.ERROR)
    said = record.getMessage()
    assert said.startswith("consume ends: pool 'default': ")
    assert "check sqlalchemy.url" in said
    assert said.endswith("message '2' is not acknowledged and will come again.")
    assert (record.exc_info, "\n" in said, "old" in said) == (None, False, False)


@pytest.mark.parametrize("poolclass", ["", "NullPool"])
def test_a_database_that_is_not_there_ends_the_loop(postgres_url: str, poolclass: str) -> None:
    """It does not come back, so nobody waits for it; with SQLAlchemy's own pools too."""
    pool = {"sqlalchemy.poolclass": poolclass} if poolclass else {}
    worker, seen = Lost(f"{postgres_url}_nowhere", **pool), []

    def handle(message: str, session: Session) -> None:
        seen.append(message)
        ask(message, session)

    with pytest.raises(DatabaseUnavailable, match="_nowhere"):
        worker.run("ab", handle)
    assert (seen, worker.acked, worker.failed) == (["a"], [], [])


def test_a_refusal_that_the_handler_has_wrapped_ends_the_loop(postgres_url: str) -> None:
    """It is no message's fault, whatever the handler calls it."""
    worker = Lost(f"{postgres_url}_nowhere")

    def handle(message: str, session: Session) -> None:
        try:
            ask(message, session)
        except DBAPIError as error:
            raise Broken from error

    with pytest.raises(DatabaseUnavailable, match="_nowhere"):
        worker.run("ab", handle)
    assert (worker.acked, worker.failed) == ([], [])


def test_a_refusal_that_is_handled_around_consume_ends_no_loop(postgres_url: str) -> None:
    """A bug of the handler is the message's, whatever the loop is there to make good."""
    lost, worker = Lost(f"{postgres_url}_nowhere"), Worker(postgres_url)

    def handle(message: str, session: Session) -> None:
        raise Broken(message)

    try:
        lost.run("a", ask)
    except DatabaseUnavailable:
        worker.run("ab", handle)
    assert [message for message, _ in worker.failed] == ["a", "b"]
