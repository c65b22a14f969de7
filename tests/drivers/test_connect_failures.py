"""What a failed connect means, on MariaDB, on SQLite and anywhere."""

import sqlite3
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url, text

from pyramid_dbpool.drivers.connect_failures import ConnectFailure, classify_connect_failure
from pyramid_dbpool.drivers.transactions import is_known_rollback
from pyramid_dbpool.errors import CommitUnknown, DatabaseUnavailable
from tests.support.failed_connects import (
    CONFIGURATION,
    SATURATED,
    UNREACHABLE,
    engine_of,
    refused,
    refused_when_full,
)
from tests.support.servers.fixtures import need_mysqlclient
from tests.support.servers.mariadb import MariaDB
from tests.support.servers.ports import deaf_port


def test_mariadb_failures_are_classified(mariadb_url: str) -> None:
    """By the numbers that every driver of the family hands on."""
    url = make_url(mariadb_url)
    with (
        user(mariadb_url, "few", "WITH MAX_USER_CONNECTIONS 1"),
        engine_of(url.set(username="few", password="x", database="")).connect(),
    ):
        assert refused(url.set(username="few", password="x", database="")) is SATURATED
    with user(mariadb_url, "locked", "ACCOUNT LOCK"):
        assert refused(url.set(username="locked", password="x", database="")) is CONFIGURATION
    assert refused(url.set(password="wrong")) is CONFIGURATION
    assert refused(url.set(database="nowhere")) is CONFIGURATION
    assert refused(url, no_such_option=1) is CONFIGURATION
    assert refused(url.set(port=deaf_port())) is UNREACHABLE
    assert refused(url.set(host="no-such.invalid")) is UNREACHABLE


@contextmanager
def user(url: str, name: str, options: str) -> Iterator[None]:
    with engine_of(url).connect() as connection:
        connection.execute(text(f"CREATE USER {name}@'%' IDENTIFIED BY 'x' {options}"))
        try:
            yield
        finally:
            connection.execute(text(f"DROP USER {name}@'%'"))


@pytest.mark.parametrize("driver", ["pymysql", "mysqlconnector", "mysqldb"])
def test_a_full_mariadb_is_saturated(new_mariadb: Callable[[], MariaDB], driver: str) -> None:
    """The limit is the server's own."""
    if driver == "mysqldb":
        need_mysqlclient()
    server = new_mariadb()
    server.execute("SET GLOBAL max_connections = 10")
    # One more than the limit is let in, for a user with SUPER.
    assert refused_when_full(server.url(driver)) is SATURATED


def test_pymysql_without_cryptography_is_configuration() -> None:
    """PyMySQL raises a RuntimeError where a password's method needs another package."""
    dialect = engine_of("mysql+pymysql://").dialect
    error = RuntimeError("'cryptography' package is required for sha256_password")
    assert classify_connect_failure(dialect, error) is CONFIGURATION


def test_sqlite_failures_are_classified(tmp_path: Path) -> None:
    """No folder, and no database: only a person can help; locked: another can let go."""
    assert refused(f"sqlite:///{tmp_path}/none/a.db") is CONFIGURATION
    other = tmp_path / "other.db"
    other.write_bytes(b"not a database" * 100)
    dialect = engine_of("sqlite://").dialect
    with (
        closing(sqlite3.connect(other)) as connection,
        pytest.raises(sqlite3.DatabaseError) as wrong,
    ):
        connection.execute("SELECT * FROM a")
    assert classify_connect_failure(dialect, wrong.value) is CONFIGURATION
    assert classify_connect_failure(dialect, locked_error(tmp_path / "a.db")) is SATURATED


def locked_error(path: Path) -> sqlite3.Error:
    with closing(sqlite3.connect(path)) as one, closing(sqlite3.connect(path, timeout=0)) as other:
        one.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError) as caught:
            other.execute("BEGIN EXCLUSIVE")
        return caught.value


@pytest.mark.parametrize("url", ["postgresql+psycopg://", "mysql+pymysql://", "sqlite://"])
@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (OSError("no route to host"), UNREACHABLE),
        (ssl.SSLCertVerificationError("self-signed certificate"), CONFIGURATION),
        (TypeError("no such keyword"), CONFIGURATION),
        (ModuleNotFoundError("no such module"), CONFIGURATION),
        (Exception("nobody knows"), UNREACHABLE),
    ],
)
def test_what_no_table_knows_is_told_by_its_type(
    url: str, error: Exception, failure: ConnectFailure
) -> None:
    """A program's error does not go away by itself, everything else may."""
    assert classify_connect_failure(engine_of(url).dialect, error) is failure


def test_our_own_errors_are_looked_through() -> None:
    """The driver's error inside counts; an error that wraps itself ends the search."""
    dialect = engine_of("postgresql+psycopg://").dialect
    full = psycopg.OperationalError("FATAL:  sorry, too many clients already")
    inner = DatabaseUnavailable(None, None, full)
    assert classify_connect_failure(dialect, inner) is SATURATED
    assert not is_known_rollback(CommitUnknown(None))
