"""Errors that a view has swallowed: what comes of its work, and of its request."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from pyramid.request import Request
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from pyramid_dbpool import TransactionFailed, get_engine
from pyramid_dbpool.embedded import PrivatePostgres
from tests.support.webapp import PARTS, Row, TwoPhaseSession, app, database
from tests.web.retry.views import (
    MARIADB_RACE,
    RACE,
    NewDatabase,
    at_first,
    lose_connection,
    ours_committed,
    settings_for,
)


def loses_a_race(request: Request) -> None:
    request.db.execute(text(RACE))


def swallowing(trouble: Callable[[Request], object]) -> Callable[[Request], None]:
    def view(request: Request) -> None:
        with pytest.raises(DBAPIError):
            trouble(request)

    return view


@pytest.mark.parametrize("trouble", [lose_connection, loses_a_race])
def test_a_request_that_has_swallowed_what_passes_is_tried_again(
    settings: dict[str, Any], count: Callable[[], int], trouble: Callable[[Request], None]
) -> None:
    """Its COMMIT is refused, and nothing is stored: the error of that COMMIT is retryable."""
    with app(settings, *PARTS, index=at_first(swallowing(trouble))) as web:
        assert web.client.post("/").text == "1"
        assert (count(), web.checked_out()) == (1, 0)


def test_one_that_goes_on_after_it_is_tried_again(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """The error of its next statement only says that there was one before."""

    def trouble(request: Request) -> None:
        swallowing(loses_a_race)(request)
        request.db.execute(text("SELECT 1"))

    with app(settings, *PARTS, index=at_first(trouble)) as web:
        assert web.client.post("/").text == "1"
        assert (count(), web.checked_out()) == (1, 0)


def test_one_that_has_stored_something_is_not(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """The error is that of the refused COMMIT."""

    def trouble(request: Request) -> None:
        swallowing(loses_a_race)(request)
        ours_committed(request)

    with app(settings, *PARTS, index=at_first(trouble)) as web:
        with pytest.raises(TransactionFailed):
            web.client.post("/")
        assert count() == 1


def test_nor_is_one_whose_error_would_come_again(settings: dict[str, Any]) -> None:
    """A division by zero stays one."""
    attempts: list[int] = []

    def trouble(request: Request) -> None:
        attempts.append(1)
        request.db.execute(text("SELECT 1 / 0"))

    with app(settings, *PARTS, index=at_first(swallowing(trouble))) as web:
        with pytest.raises(TransactionFailed):
            web.client.post("/")
        assert len(attempts) == 1


def deadlock(connection: Connection, url: str) -> None:
    """Let a transaction be the victim of a deadlock with another one, which has done more."""
    connection.execute(text("UPDATE k SET v = 1 WHERE id = 1"))
    with create_engine(url, poolclass=NullPool).connect() as other:
        other.execute(text("INSERT INTO k SELECT seq, 0 FROM seq_100_to_200"))
        other.execute(text("UPDATE k SET v = 2 WHERE id = 2"))
        waits = text("UPDATE k SET v = 2 WHERE id = 1")
        # Whichever of the two comes first waits for the other one.
        thread = threading.Thread(target=other.execute, args=(waits,))
        thread.start()
        try:
            connection.execute(text("UPDATE k SET v = 1 WHERE id = 2"))
        finally:
            thread.join()


@pytest.mark.parametrize("savepoint", [False, True])
@pytest.mark.parametrize("backend", ["mysql+pymysql", "mysql+mysqlconnector"])
def test_a_deadlock_that_is_swallowed_loses_no_write_behind_a_200(
    new_database: NewDatabase, backend: str, savepoint: bool
) -> None:
    """MariaDB has rolled everything back, and would commit what came after it."""
    url = new_database(backend)
    outside = create_engine(url, poolclass=NullPool)
    with database(url) as count, outside.begin() as connection:
        connection.execute(text("CREATE TABLE k (id int PRIMARY KEY, v int)"))
        connection.execute(text("INSERT INTO k VALUES (1, 0), (2, 0)"))

    def trouble(request: Request) -> None:
        if savepoint:
            with request.db.begin_nested():
                deadlock(request.db.connection(), url)
        else:
            deadlock(request.db.connection(), url)

    with app(settings_for(url), *PARTS, index=at_first(swallowing(trouble))) as web:
        assert web.client.post("/").text == "1"
        assert (count(), web.checked_out()) == (1, 0)


@pytest.mark.parametrize("backend", ["mysql+pymysql", "mysql+mysqlconnector", "mysql+mysqldb"])
def test_a_row_that_others_have_changed_loses_no_write_behind_a_200(
    new_database: NewDatabase, backend: str
) -> None:
    """With innodb_snapshot_isolation, on from MariaDB 11.6.2, everything is rolled back."""
    url = new_database(backend)
    outside = create_engine(url, poolclass=NullPool)

    def trouble(request: Request) -> None:
        request.db.execute(text("SET SESSION innodb_snapshot_isolation = ON"))
        request.db.execute(text("SELECT * FROM k"))
        with outside.begin() as other:
            other.execute(text("UPDATE k SET v = 1"))
        request.db.execute(text("UPDATE k SET v = 2"))

    with (
        database(url) as count,
        app(settings_for(url), *PARTS, index=at_first(swallowing(trouble))) as web,
    ):
        with outside.begin() as connection:
            connection.execute(text("CREATE TABLE k (id int PRIMARY KEY, v int)"))
            connection.execute(text("INSERT INTO k VALUES (1, 0)"))
        assert web.client.post("/").text == "1"
        assert (count(), web.checked_out()) == (1, 0)


def test_nothing_is_prepared_that_the_server_has_given_up(
    new_postgres: Callable[..., PrivatePostgres],
) -> None:
    """It would forget that part of the transaction, and commit the other database's."""
    url = new_postgres({"max_prepared_transactions": 2}).url("psycopg")
    settings = settings_for(url) | {"sqlalchemy.other.url": url}
    settings |= {"dbpool.session_class": TwoPhaseSession}
    settings |= {"dbpool.other.session_class": TwoPhaseSession}
    stored: list[int] = []

    def view(request: Request) -> None:
        request.db.add(Row())
        with pytest.raises(DBAPIError):
            request.db_other.execute(text("SELECT no_such_column"))

    def check(request: Request) -> None:
        request.db.add(Row())

    with database(url) as count, app(settings, *PARTS, index=view, check=check) as web:
        for _each in range(4):  # whichever of the two comes first
            with pytest.raises(TransactionFailed, match="UndefinedColumn"):
                web.client.post("/")
            stored.append(count())
        web.client.post("/check")
        assert (stored, count(), web.checked_out()) == ([0] * 4, 1, 0)


def test_a_deadlock_in_a_two_phase_transaction_is_over_with_it(
    pymysql_url: str,
) -> None:
    """The next one of the connection is prepared."""
    settings = settings_for(pymysql_url)
    with app(settings, *PARTS), get_engine(settings).connect() as connection:
        with pytest.raises(DBAPIError), connection.begin_twophase():
            connection.execute(text(MARIADB_RACE))
        with connection.begin_twophase() as transaction:
            connection.execute(text("SELECT 1"))
            transaction.prepare()


@pytest.mark.parametrize("backend", ["mysql+pymysql", "mysql+mysqlconnector"])
def test_a_deadlock_in_autocommit_ends_nothing_but_its_statement(
    new_database: NewDatabase, backend: str
) -> None:
    """What the others did is stored, so the COMMIT that follows is no error."""
    settings = settings_for(new_database(backend))
    with app(settings, *PARTS):
        engine = get_engine(settings).execution_options(isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            with pytest.raises(DBAPIError):
                connection.execute(text(MARIADB_RACE))
            connection.commit()


def test_a_deadlock_that_was_rolled_back_is_over(pymysql_url: str) -> None:
    """The next transaction of the connection commits."""
    settings = settings_for(pymysql_url)
    with app(settings, *PARTS), get_engine(settings).connect() as connection:
        with pytest.raises(DBAPIError):
            connection.execute(text(MARIADB_RACE))
        connection.rollback()
        connection.execute(text("SELECT 1"))
        connection.commit()
