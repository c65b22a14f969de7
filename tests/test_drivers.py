"""What the drivers' errors mean, on real servers."""

import os
import shutil
import signal
import sqlite3
import ssl
import subprocess
import timeit
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import psycopg2
import pytest
from sqlalchemy import Connection, Dialect, Engine, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from pyramid_dbpool import postgres_messages
from pyramid_dbpool.drivers import (
    ConnectFailure,
    classify_connect_failure,
    connect_failure,
    is_known_rollback,
    transaction_failed,
)
from pyramid_dbpool.embedded import PrivatePostgres, free_port
from pyramid_dbpool.errors import CommitUnknown, DatabaseUnavailable
from tests.servers import report
from tests.servers.fixtures import MARIADB, POSTGRES

SATURATED = ConnectFailure.SATURATED
UNREACHABLE = ConnectFailure.UNREACHABLE
CONFIGURATION = ConnectFailure.CONFIGURATION

NewPostgres = Callable[..., PrivatePostgres]
Databases = Callable[[str], str]

DRIVERS = ("psycopg", "psycopg2")


def engine_of(url: Any, **options: Any) -> Engine:
    return create_engine(url, poolclass=NullPool, **options)


def refused(url: Any, **connect_args: Any) -> ConnectFailure:
    """Classify the failure to connect to `url`; the driver's error and SQLAlchemy's agree."""
    engine = engine_of(url, connect_args=connect_args)
    with pytest.raises(Exception) as caught:
        engine.connect()
    failure = classify_connect_failure(engine.dialect, caught.value)
    if isinstance(caught.value, DBAPIError):
        assert caught.value.orig
        assert classify_connect_failure(engine.dialect, caught.value.orig) is failure
        assert connect_failure(engine.dialect, caught.value) is failure
    return failure


@contextmanager
def filled(url: str) -> Iterator[None]:
    """Take every connection that the server gives."""
    engine = engine_of(url)
    taken: list[Connection] = []
    with suppress(DBAPIError):
        while True:
            taken.append(engine.connect())
    yield
    for connection in taken:
        connection.close()


# PostgreSQL


def test_a_full_server_is_saturated(new_postgres: NewPostgres) -> None:
    """The superuser's last connections gone, psycopg and psycopg2 give no SQLSTATE."""
    server = new_postgres({"max_connections": 4, "max_wal_senders": 0})
    with filled(server.url()):
        assert refused(server.url("psycopg")) is SATURATED
        assert refused(server.url("psycopg2")) is SATURATED


def test_reserved_connections_are_saturation(new_postgres: NewPostgres) -> None:
    """An app's role is refused while the superuser still gets in."""
    server = new_postgres(
        {"max_connections": 4, "superuser_reserved_connections": 1, "max_wal_senders": 0}
    )
    with engine_of(server.url()).begin() as connection:
        connection.execute(text("CREATE ROLE app LOGIN"))
    url = make_url(server.url()).set(username="app")
    with filled(url.render_as_string()):
        assert refused(url) is SATURATED
        assert refused(url.set(drivername="postgresql+psycopg2")) is SATURATED


def test_the_limit_of_a_role_or_a_database_is_saturation(new_postgres: NewPostgres) -> None:
    """Both limits hold for everybody but superusers."""
    server = new_postgres()
    with engine_of(server.url()).connect() as connection:
        run = connection.execution_options(isolation_level="AUTOCOMMIT").execute
        run(text("CREATE ROLE few LOGIN CONNECTION LIMIT 0"))
        run(text("CREATE ROLE app LOGIN"))
        run(text("CREATE DATABASE few CONNECTION LIMIT 0"))
    for driver in DRIVERS:
        url = make_url(server.url(driver))
        assert refused(url.set(username="few")) is SATURATED
        assert refused(url.set(username="app", database="few")) is SATURATED


def test_what_only_a_person_can_mend_is_configuration(new_postgres: NewPostgres) -> None:
    """Role, database, password, privileges and options: waiting helps against none of them."""
    server = new_postgres(password="right")
    with engine_of(server.url()).connect() as connection:
        run = connection.execution_options(isolation_level="AUTOCOMMIT").execute
        run(text("CREATE ROLE sleeper NOLOGIN PASSWORD 'right'"))
        run(text("CREATE ROLE app LOGIN PASSWORD 'right'"))
        run(text("CREATE DATABASE closed ALLOW_CONNECTIONS false"))
        run(text("CREATE DATABASE private"))
        run(text("REVOKE CONNECT ON DATABASE private FROM public"))
    for driver in DRIVERS:
        url = make_url(server.url(driver))
        assert refused(url.set(username="nobody")) is CONFIGURATION
        assert refused(url.set(database="nowhere")) is CONFIGURATION
        assert refused(url.set(password="wrong")) is CONFIGURATION
        assert refused(url._replace(password=None)) is CONFIGURATION
        assert refused(url.set(username="sleeper")) is CONFIGURATION
        assert refused(url.set(database="closed")) is CONFIGURATION
        assert refused(url.set(username="app", database="private")) is CONFIGURATION
        assert refused(url.update_query_dict({"options": "-c no_such=1"})) is CONFIGURATION
        assert refused(url.update_query_dict({"options": "-c work_mem=x"})) is CONFIGURATION
        assert refused(url.update_query_dict({"sslmode": "verify-full"})) is CONFIGURATION
        assert refused(url, no_such_option="1") is CONFIGURATION


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_server_that_is_away_is_unreachable(driver: str) -> None:
    """Nobody at the port, and a name that nobody knows (names come back)."""
    url = f"postgresql+{driver}://postgres@127.0.0.1:{free_port()}/postgres"
    assert refused(url) is UNREACHABLE
    assert refused(f"postgresql+{driver}://postgres@no-such.invalid/postgres") is UNREACHABLE


def test_a_server_that_is_shutting_down_is_unreachable(new_postgres: NewPostgres) -> None:
    """A smart shutdown refuses new connections while an old one is open."""
    server = new_postgres()
    with engine_of(server.url()).connect() as connection:
        connection.execute(text("SELECT 1"))
        assert server.pid
        os.kill(server.pid, signal.SIGTERM)
        assert eventually_refused(server.url("psycopg")) is UNREACHABLE
        assert "shutting down" in message_of(server.url("psycopg2"))
        assert refused(server.url("psycopg2")) is UNREACHABLE


def eventually_refused(url: str) -> ConnectFailure:
    while True:
        with suppress(pytest.fail.Exception):
            return refused(url)


def test_a_translated_server_is_understood(
    new_postgres: NewPostgres,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A German server says FATAL and "schon zu viele Verbindungen", and nothing else."""
    monkeypatch.setenv("LOCPATH", str(tmp_path))
    locale = german_locale(tmp_path)
    try:
        server = new_postgres({"max_connections": 4, "max_wal_senders": 0, "lc_messages": locale})
    except Exception as error:
        report.skip_without("translated PostgreSQL", str(error).partition("\n")[0])
    if "existiert nicht" not in message_of(server.url(database="nirgends")):
        report.skip_without("translated PostgreSQL", "the server's programs are English only")
    with filled(server.url()):
        assert refused(server.url("psycopg")) is SATURATED
        assert refused(server.url("psycopg2")) is SATURATED
    for driver in DRIVERS:
        assert refused(server.url(driver, "nirgends")) is CONFIGURATION
        assert refused(make_url(server.url(driver)).set(username="niemand")) is CONFIGURATION


def german_locale(folder: Path) -> str:
    localedef = shutil.which("localedef") or ""
    if not localedef:
        report.skip_without("translated PostgreSQL", "no program localedef to make a locale with")
    command = [localedef, "-i", "de_DE", "-f", "UTF-8", str(folder / "de_DE.UTF-8")]
    if subprocess.run(command, check=False, capture_output=True).returncode > 1:
        report.skip_without("translated PostgreSQL", "no German locale's source")
    return "de_DE.UTF-8"


def message_of(url: str) -> str:
    with pytest.raises(DBAPIError) as caught:
        engine_of(url).connect()
    return str(caught.value)


MESSAGES = [
    (failure, message)
    for failure, messages in {
        SATURATED: postgres_messages.SATURATED,
        UNREACHABLE: postgres_messages.UNREACHABLE,
        CONFIGURATION: postgres_messages.CONFIGURATION,
    }.items()
    for message in messages
]


@pytest.mark.parametrize("error", [psycopg.OperationalError, psycopg2.OperationalError])
def test_every_known_translation_has_one_meaning(error: type[Exception]) -> None:
    """No text of one kind is taken for one of another, whatever the names in it."""
    dialect = engine_of("postgresql+psycopg://").dialect
    for failure, message in MESSAGES:
        said = message.replace("%s", "some name")
        whole = f'connection to server at "127.0.0.1", port 5432 failed: FATAL:  {said}\n'
        assert classify_connect_failure(dialect, error(whole)) is failure, message


@pytest.mark.parametrize("encoding", ["cp1251", "koi8-r"])
def test_a_message_that_psycopg2_cannot_decode_is_understood(encoding: str) -> None:
    """Servers on Windows write their own encoding, psycopg2 raises UnicodeDecodeError then."""
    dialect = engine_of("postgresql+psycopg2://").dialect
    for said, failure in (
        ("ВАЖНО:  извините, уже слишком много клиентов", SATURATED),
        ('ВАЖНО:  база данных "nowhere" не существует', CONFIGURATION),
        ("что-то ещё", UNREACHABLE),
    ):
        with pytest.raises(UnicodeDecodeError) as caught:
            said.encode(encoding).decode()
        assert classify_connect_failure(dialect, caught.value) is failure


def test_the_name_of_a_file_is_not_translated() -> None:
    """No catalogue's text is needed to see that pg_hba.conf refuses the client."""
    dialect = engine_of("postgresql+psycopg://").dialect
    error = psycopg.OperationalError("FATAL:  kein pg_hba.conf-Eintrag für Host »::1«")
    assert classify_connect_failure(dialect, error) is CONFIGURATION


def test_of_several_addresses_the_one_worth_waiting_for_counts() -> None:
    """One host is starting, the other does not let this client in: wait."""
    dialect = engine_of("postgresql+psycopg://").dialect
    said = "FATAL:  {}\nMultiple connection attempts failed. All failures were:\n- {}\n- {}"
    no_entry, starting = "no pg_hba.conf entry for host", "the database system is starting up"
    error = psycopg.OperationalError(said.format(no_entry, starting, no_entry))
    assert classify_connect_failure(dialect, error) is UNREACHABLE
    full = "sorry, too many clients already"
    error = psycopg.OperationalError(said.format(no_entry, full, no_entry))
    assert classify_connect_failure(dialect, error) is SATURATED


# MySQL and MariaDB


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
    assert refused(url.set(port=free_port())) is UNREACHABLE
    assert refused(url.set(host="no-such.invalid")) is UNREACHABLE


@contextmanager
def user(url: str, name: str, options: str) -> Iterator[None]:
    with engine_of(url).connect() as connection:
        connection.execute(text(f"CREATE USER {name}@'%' IDENTIFIED BY 'x' {options}"))
        try:
            yield
        finally:
            connection.execute(text(f"DROP USER {name}@'%'"))


def test_a_full_mariadb_is_saturated(mariadb_url: str) -> None:
    """The server's own limit, lowered to what is connected already."""
    with engine_of(mariadb_url).connect() as connection:
        limit = connection.scalar(text("SELECT @@max_connections"))
        connection.execute(text("SET GLOBAL max_connections = 10"))
        try:
            # One more than the limit is let in, for a user with SUPER.
            with filled(mariadb_url):
                assert refused(mariadb_url) is SATURATED
        finally:
            connection.execute(text(f"SET GLOBAL max_connections = {limit}"))


def test_pymysql_without_cryptography_is_configuration() -> None:
    """PyMySQL raises a RuntimeError where a password's method needs another package."""
    dialect = engine_of("mysql+pymysql://").dialect
    error = RuntimeError("'cryptography' package is required for sha256_password")
    assert classify_connect_failure(dialect, error) is CONFIGURATION


# SQLite


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


# Any database


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
