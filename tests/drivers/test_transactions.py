"""What the drivers say of a transaction that failed, on real servers."""

import timeit
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Dialect, text
from sqlalchemy.exc import DBAPIError

from pyramid_dbpool.drivers.connect_failures import connect_failure
from pyramid_dbpool.drivers.transactions import is_known_rollback, transaction_failed
from tests.support.failed_connects import engine_of
from tests.support.servers.fixtures import MARIADB, POSTGRES

Databases = Callable[[str], str]


def error_at(url: str, *statements: str, **options: Any) -> tuple[Dialect, DBAPIError]:
    """Run statements and commit; return the error of that."""
    engine = engine_of(url, **options)
    with pytest.raises(DBAPIError) as caught, engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    return engine.dialect, caught.value


def test_an_error_at_commit_is_no_failed_connect(postgres_url: str) -> None:
    """Neither has a statement; the server's answer to COMMIT has a SQLSTATE."""
    dialect, error = error_at(
        postgres_url,
        "CREATE TABLE t (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)",
        "INSERT INTO t VALUES (1), (1)",
    )
    assert error.statement is None
    assert connect_failure(dialect, error) is None


def test_an_error_of_a_statement_is_no_failed_connect(any_url: str) -> None:
    """Whatever its text: "no such table" is the handler's error."""
    dialect, error = error_at(any_url, "SELECT * FROM nowhere")
    assert connect_failure(dialect, error) is None
    assert not is_known_rollback(error)


def test_a_statement_may_fail_like_a_connect(postgres_url: str) -> None:
    """What dblink or a function reports of another server says nothing of this one."""
    raising = "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '53300'; END $$"
    dialect, error = error_at(postgres_url, raising)
    assert connect_failure(dialect, error) is None


@pytest.mark.parametrize("backend", POSTGRES)
def test_a_failed_transaction_is_seen(backend: str, new_database: Databases) -> None:
    """PostgreSQL gives a transaction up at its first error, a savepoint brings it back."""
    with engine_of(new_database(backend)).connect() as connection:
        driver = connection.connection.dbapi_connection
        assert not transaction_failed(driver)
        connection.execute(text("SAVEPOINT a"))
        with pytest.raises(DBAPIError):
            connection.execute(text("SELECT 1 / 0"))
        assert transaction_failed(driver)
        connection.execute(text("ROLLBACK TO SAVEPOINT a"))
        assert not transaction_failed(driver)
        connection.rollback()
        assert not transaction_failed(driver)
    assert not transaction_failed(driver)


@pytest.mark.parametrize("backend", [*MARIADB, "sqlite"])
def test_elsewhere_a_failed_statement_fails_no_transaction(
    backend: str, new_database: Databases
) -> None:
    """These databases undo the statement and go on."""
    with engine_of(new_database(backend)).connect() as connection:
        with pytest.raises(DBAPIError):
            connection.execute(text("SELECT * FROM nowhere"))
        assert not transaction_failed(connection.connection.dbapi_connection)


@pytest.mark.slow
@pytest.mark.parametrize("backend", POSTGRES)
def test_looking_for_a_failed_transaction_is_cheap(backend: str, new_database: Databases) -> None:
    """It stands on every commit's path: no round trip, about a microsecond at most."""
    with engine_of(new_database(backend)).connect() as connection:
        driver = connection.connection.dbapi_connection
        rounds = timeit.repeat(lambda: transaction_failed(driver), number=10_000, repeat=5)
    assert min(rounds) / 10_000 < 5e-6


@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_postgres_rollbacks_are_known(postgres_url: str, state: str) -> None:
    """A serialization failure, a deadlock."""
    raising = f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{state}'; END $$"
    assert is_known_rollback(error_at(postgres_url, raising)[1])


def test_other_postgres_errors_are_not_known_rollbacks(postgres_url: str) -> None:
    """A duplicate stays one, however often it is tried."""
    _, error = error_at(
        postgres_url, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1), (1)"
    )
    assert not is_known_rollback(error)


def test_mariadb_rollbacks_are_known(mariadb_url: str) -> None:
    """A deadlock, and a lock that was waited for in vain."""
    deadlock = "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213"
    assert is_known_rollback(error_at(mariadb_url, deadlock)[1])
    with engine_of(mariadb_url).begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (id int PRIMARY KEY) ENGINE=InnoDB")
        connection.exec_driver_sql("INSERT INTO t VALUES (1)")
        _, waited = error_at(mariadb_url, "SELECT * FROM t FOR UPDATE NOWAIT")
    assert is_known_rollback(waited)
    duplicate = error_at(mariadb_url, "INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (1)")[1]
    assert not is_known_rollback(duplicate)


def test_sqlite_locks_are_known_rollbacks(sqlite_url: str) -> None:
    """Another process writes: nothing of ours is stored."""
    with engine_of(sqlite_url).connect() as connection:
        connection.exec_driver_sql("BEGIN EXCLUSIVE")
        _, error = error_at(sqlite_url, "CREATE TABLE t (id int)", connect_args={"timeout": 0})
    assert is_known_rollback(error)
