"""`request.release_db()` is refused where it would lose something."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
from pyramid.request import Request
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, PendingRollbackError
from webtest import AppError

from pyramid_dbpool import SessionInUse, TransactionFailed
from tests.support.webapp import TM, Row, app, database


def refused(
    settings: dict[str, Any],
    view: Callable[[Request], Any],
    error: type,
    end: AbstractContextManager[object] | None = None,
) -> None:
    """Check that a view is refused to release what it has done.

    :param end: how the request ends, if not well.
    """
    told: list[str] = []

    def index(request: Request) -> None:
        view(request)
        with pytest.raises(error, match="GET route 'index' cannot give its connection back") as e:
            request.release_db()
        told.append(str(e.value))

    with app(settings, *TM, index=index) as web, end or nullcontext():
        web.get()
    assert told


def insert_text(request: Request) -> str:
    """Write an INSERT by hand; the table's name has to be quoted in MariaDB."""
    dialect = request.db.get_bind().dialect
    return str(
        insert(Row).values(id=1).compile(dialect=dialect, compile_kwargs={"literal_binds": True})
    )


@pytest.mark.parametrize(
    "write",
    [
        lambda request: request.db.add(Row(id=1)),
        lambda request: (request.db.add(Row(id=1)), request.db.flush()),
        lambda request: request.db.execute(insert(Row).values(id=1)),
        lambda request: request.db.execute(text(insert_text(request))),
    ],
    ids=["pending", "flushed", "orm", "text"],
)
def test_uncommitted_changes_are_not_lost(
    settings: dict[str, Any], count: Callable[[], int], write: Callable[[Request], Any]
) -> None:
    """The view is refused, and its work is committed as if it had not asked."""
    refused(settings, write, SessionInUse)
    assert count() == 1


@pytest.mark.parametrize(
    "write",
    [
        lambda request: request.db.connection().execute(insert(Row).values(id=1)),
        lambda request: request.db.bulk_insert_mappings(Row, [{"id": 1}]),
        lambda request: request.db.execute(
            text(insert_text(request).replace("INSERT ", "/* x */ INSERT\n"))
        ),
        lambda request: request.db.connection().exec_driver_sql(insert_text(request)),
    ],
    ids=["core", "bulk", "comment", "driver"],
)
def test_changes_that_the_session_has_not_seen_are_not_lost(
    settings: dict[str, Any], count: Callable[[], int], write: Callable[[Request], Any]
) -> None:
    """The engine has sent them."""
    refused(
        settings, lambda request: (request.db.execute(select(1)), write(request)), SessionInUse
    )
    assert count() == 1


@pytest.mark.parametrize(
    "write",
    [
        lambda request: request.db.connection().execute(insert(Row).values(id=1)),
        lambda request: request.db.execute(
            text("WITH new AS (INSERT INTO rows VALUES (1) RETURNING id) SELECT * FROM new")
        ),
    ],
    ids=["core", "hidden"],
)
def test_postgresql_tells_of_changes_that_nobody_saw(
    postgres_url: str, write: Callable[[Request], Any]
) -> None:
    """It numbers a transaction when that writes."""
    settings = {"sqlalchemy.url": postgres_url, "tm.manager_hook": "pyramid_tm.explicit_manager"}
    with database(postgres_url) as count:
        refused(settings, write, SessionInUse)
        assert count() == 1


def test_a_failed_statement_is_not_forgotten(psycopg_url: str) -> None:
    """What came before it would be rolled back without a word."""
    settings = {"sqlalchemy.url": psycopg_url}

    def swallow(request: Request) -> None:
        with pytest.raises(DBAPIError):
            request.db.execute(text("SELECT no_such_column"))

    end = pytest.raises(TransactionFailed, match="Nothing was committed")
    refused(settings, swallow, TransactionFailed, end)


def test_a_transaction_that_mariadb_has_rolled_back_is_told_as_failed(mariadb_url: str) -> None:
    """After a deadlock there is nothing left to lose, and nothing will be committed."""

    def swallow(request: Request) -> None:
        with pytest.raises(DBAPIError):
            request.db.execute(text("SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213"))

    end = pytest.raises(TransactionFailed, match="Nothing was committed")
    refused({"sqlalchemy.url": mariadb_url}, swallow, TransactionFailed, end)


def test_a_failed_flush_is_not_forgotten(sqlite_url: str) -> None:
    """The session itself has given its transaction up."""

    def swallow(request: Request) -> None:
        request.db.add_all([Row(id=1), Row(id=1)])
        with pytest.raises(IntegrityError):
            request.db.flush()

    settings = {"sqlalchemy.url": sqlite_url}
    with database(sqlite_url):
        refused(settings, swallow, TransactionFailed, pytest.raises(PendingRollbackError))


def test_a_lost_connection_is_not_forgotten(psycopg_url: str) -> None:
    """What was done on it is gone, and the answer says so though the view swallowed the error."""
    settings = {"sqlalchemy.url": psycopg_url}

    def lose(request: Request) -> None:
        with pytest.raises(DBAPIError):
            request.db.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    refused(settings, lose, TransactionFailed, pytest.raises(AppError, match="503 Service"))
