"""What is tried again on SQLite, and what it has stored before."""

import json
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from pyramid.request import Request
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError

from tests.support.webapp import PARTS, Row, app, database
from tests.web.retry.views import exception_view, number, settings_for


def test_a_locked_sqlite_file_is_tried_again(sqlite_url: str) -> None:
    """Somebody else is writing; at the second attempt it has finished."""
    settings = settings_for(sqlite_url) | {"sqlalchemy.connect_args": '{"timeout": 0}'}
    with database(sqlite_url) as count:
        other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")

        def view(request: Request) -> str:
            if number(request) == 1:
                other.rollback()
            request.db.add(Row())
            request.db.flush()
            return str(number(request))

        with app(settings, *PARTS, exception_view, index=view) as web:
            assert web.client.post("/").text == "1"
            assert count() == 1
        other.close()


def insert_row(request: Request) -> None:
    request.db.execute(text("INSERT INTO rows (id) VALUES (500)"))


def asks(request: Request) -> None:
    request.db.scalar(select(1))


def in_words(request: Request) -> None:
    insert_row(request)
    request.db.execute(text("COMMIT"))


def in_a_savepoint(request: Request) -> None:
    with request.db.begin_nested():
        request.db.add(Row())


def behind_with(request: Request) -> None:
    request.db.execute(text("WITH one (id) AS (SELECT 500) INSERT INTO rows SELECT id FROM one"))


def new_table(request: Request) -> None:
    request.db.execute(text("CREATE TABLE another (id int)"))


def after_a_change(request: Request) -> None:
    request.db.add(Row())
    request.db.flush()
    in_a_savepoint(request)


def busy() -> OperationalError:
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = sqlite3.SQLITE_BUSY
    return OperationalError(None, None, error)


@pytest.mark.parametrize(
    ("writes", "arguments", "again"),
    [
        (in_a_savepoint, {}, False),
        (behind_with, {}, False),
        (new_table, {}, False),
        (in_words, {}, False),
        (insert_row, {"isolation_level": None}, False),
        (insert_row, {}, True),
        (after_a_change, {}, True),
        (asks, {"isolation_level": None}, True),
    ],
)
def test_what_sqlite_stores_outside_of_a_transaction_is_stored(
    sqlite_url: str, writes: Callable[[Request], None], arguments: dict[str, Any], again: bool
) -> None:
    """Its driver begins one for INSERT, UPDATE, DELETE and REPLACE, and for nothing else."""
    options = json.dumps({"timeout": 0, **arguments})
    settings = settings_for(sqlite_url) | {"sqlalchemy.connect_args": options}

    def view(request: Request) -> str:
        writes(request)
        if number(request) == 0:
            raise busy()
        return str(number(request))

    with database(sqlite_url), app(settings, *PARTS, index=view) as web:
        if again:
            assert web.client.post("/").text == "1"
        else:
            with pytest.raises(OperationalError, match="locked"):
                web.client.post("/")
