"""What the log says of a message, and what it keeps to itself."""

import logging
import uuid
from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from pyramid_dbpool import CommitUnknown, DatabaseUnavailable
from tests.support.workers import TRIED, Broken, Worker, broken_at, outside

Frame = namedtuple("Frame", "id delivery_tag")

KEY = uuid.UUID(int=7)


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (SimpleNamespace(message_id="m-1", id=2), "message 'm-1'"),
        (Frame(7, "tag"), "message '7'"),
        (Frame(KEY, "tag"), f"message '{KEY}'"),
        (Frame(b"5-0", "tag"), "message '5-0'"),
        (Frame(object(), "tag"), "message 'tag'"),
        (SimpleNamespace(properties={"message_id": "p-1"}, delivery_tag=3), "message 'p-1'"),
        ({"id": "d-1", "secret": "x"}, "message 'd-1'"),
        ({"id": "two\nlines"}, "message 'two\\nlines'"),
        ({"id": "x" * 101}, f"message '{'x' * 100}'"),
        ({"id": b"\xff"}, "message '\ufffd'"),
        (SimpleNamespace(properties="p-1", delivery_tag=3), "message '3'"),
        ({"name": "hidden"}, "message #1"),
        ("hidden", "message #1"),
    ],
)
def test_the_log_names_a_message_but_shows_nothing_of_it(
    sqlite_url: str, caplog: pytest.LogCaptureFixture, message: Any, named: str
) -> None:
    """Its content may be secret."""

    def handle(message: Any, session: Session) -> None:
        raise Broken

    Worker(sqlite_url).run([message], handle)
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (
        logging.ERROR,
        f"{named} could not be handled",
    )
    assert record.exc_info
    assert "hidden" not in caplog.text


def test_the_caller_may_name_messages(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """And an error of that hides neither the message's own nor stops the loop."""
    worker = Worker(sqlite_url)
    worker.run(["a"], broken_at("a"), identify=lambda message: message * 3)
    worker.run(["b"], broken_at("b"), identify=lambda message: message.no_such_thing)
    assert "message 'aaa' could not" in caplog.text
    assert "message #1 could not" in caplog.text
    assert caplog.text.count("message #1 cannot be identified: AttributeError") == 1
    assert [message for message, _ in worker.failed] == ["a", "b"]


def test_an_identity_is_found_once(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """However many log lines need it: here, one for each try and one for the end."""
    worker, asked = Worker(sqlite_url), []

    def identify(message: str) -> str:
        asked.append(message)
        raise Broken

    def handle(message: str, session: Session) -> None:
        raise DatabaseUnavailable("SELECT 1", None, Broken())

    worker.run(["a"], handle, identify=identify, max_tries=2)
    assert "try 1 of 2" in caplog.text
    assert asked == ["a"]
    assert caplog.text.count("cannot be identified") == 1


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_log_shows_no_parameters(
    psycopg_url: str, caplog: pytest.LogCaptureFixture, wrapped: bool
) -> None:
    """SQLAlchemy prints them with its errors, also with those that caused another one."""
    insert = text("INSERT INTO nowhere (message) VALUES (:message)")

    def handle(message: str, session: Session) -> None:
        try:
            session.execute(insert, {"message": message})
        except DBAPIError as error:
            if wrapped:
                raise Broken from error
            raise

    Worker(psycopg_url).run(["content"], handle)
    assert "INSERT INTO nowhere" in caplog.text
    assert "content" not in caplog.text


def test_no_password_of_a_drivers_text_is_logged(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A driver may quote what it was given."""
    quoted = DBAPIError(
        None,
        None,
        OSError("no answer from postgresql://u:s3cret@h/x"),
        connection_invalidated=True,
    )
    numbers: list[str] = []

    def handle(message: str, session: Session) -> None:
        numbers.append(message)
        if len(numbers) == 1:
            raise quoted

    Worker(postgres_url).run("a", handle)
    assert TRIED in caplog.text and "OSError: no answer" in caplog.text
    assert "s3cret" not in caplog.text + str(CommitUnknown(quoted.orig))


def test_an_error_of_ack_shows_no_parameters(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Who acknowledges in the database fails with the message's content."""
    worker = Worker(sqlite_url)

    def ack(message: str) -> None:
        with outside(worker.settings).begin() as connection:
            connection.execute(text("DELETE FROM nowhere WHERE m = :m"), {"m": message})

    with pytest.raises(DBAPIError):
        worker.run(["content"], ack=ack)
    assert "DELETE FROM nowhere" in caplog.text
    assert "content" not in caplog.text
