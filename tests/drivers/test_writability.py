"""What drivers' errors say of a server that stores nothing, and what they do not."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pymysql
import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from pyramid_dbpool.drivers.writability import (
    WriteRefusal,
    is_read_only,
    refuses_as_standby,
    storage_refusal,
)
from pyramid_dbpool.embedded import PrivatePostgres
from tests.support.servers.failover import MariaDBPair, PostgresPair
from tests.support.servers.fixtures import need_mysqlclient
from tests.support.servers.mariadb import MariaDB

DRIVERS = ["pymysql", "mysqlconnector", "mysqldb"]


def says(url: str, *statements: str) -> tuple[bool, bool | None]:
    """Run statements, the last of which fails: does it fail as at a standby, and is it one?"""
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        dbapi = connection.connection.dbapi_connection
        for statement in statements[:-1]:
            connection.exec_driver_sql(statement)
        with pytest.raises(DBAPIError) as caught:
            connection.exec_driver_sql(statements[-1])
        refuses = refuses_as_standby(caught.value, dbapi)
        connection.rollback()
        return refuses, is_read_only(dbapi, engine.dialect.name)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE new ()",
        "CREATE TEMP TABLE new ()",
        "SELECT * FROM pg_class FOR UPDATE",
        "LISTEN news",
        "SELECT txid_current()",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET TRANSACTION READ WRITE",
    ],
)
def test_a_standby_of_postgres_refuses(
    postgres_pair: PostgresPair, driver: str, statement: str
) -> None:
    """It is known without asking, and in a transaction that has failed."""
    assert says(postgres_pair.standby.url(driver), statement) == (True, True)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
@pytest.mark.parametrize("statement", ["SELECT 1 / 0", "SELECT 1 GROUP BY 1 FOR UPDATE"])
def test_other_errors_of_a_standby_are_the_statements(
    postgres_pair: PostgresPair, driver: str, statement: str
) -> None:
    """Also those that no server supports."""
    assert says(postgres_pair.standby.url(driver), statement) == (False, True)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_primary_of_postgres_refuses_what_asked_to_be_read_only(
    postgres_pair: PostgresPair, driver: str
) -> None:
    """With the same code."""
    statements = ("SET TRANSACTION READ ONLY", "CREATE TABLE new ()")
    assert says(postgres_pair.primary.url(driver), *statements) == (False, False)


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    """Give the name of each of MariaDB's drivers."""
    if request.param == "mysqldb":
        need_mysqlclient()
    return str(request.param)


def test_a_read_only_mariadb_refuses(mariadb_pair: MariaDBPair, driver: str) -> None:
    """The option is named in the text, whose number stands for others too."""
    pair = mariadb_pair
    url = make_url(pair.standby.url(driver, "test")).set(username="app", password="app")
    pair.standby.execute("CREATE TABLE IF NOT EXISTS test.kept (id int)")
    pair.standby.execute("SET GLOBAL read_only = 1")
    app = url.render_as_string(hide_password=False)
    assert says(app, "CREATE TABLE new (id int)") == (True, True)
    # Who may write to it all the same is told of his transaction only.
    statements = ("SET TRANSACTION READ ONLY", "INSERT INTO kept VALUES (1)")
    assert says(pair.standby.url(driver, "test"), *statements) == (True, True)
    pair.standby.execute("SET GLOBAL read_only = 0")
    assert says(pair.standby.url(driver, "test"), *statements) == (False, False)


def test_a_mariadb_whose_innodb_is_read_only_refuses(
    tmp_path: Path, installed_mariadb: Path, driver: str
) -> None:
    """As on storage that cannot be written to."""
    server = MariaDB(tmp_path / "server", installed_mariadb)
    server.start()
    server.create("some")
    server.execute("CREATE TABLE some.kept (id int) ENGINE = InnoDB")
    server.stop()
    server.settings["innodb_read_only"] = "ON"
    server.start()
    try:
        assert says(server.url(driver, "some"), "INSERT INTO kept VALUES (1)") == (True, True)
    finally:
        server.stop()


def test_other_options_of_mariadb_say_nothing_of_its_role(
    mariadb_pair: MariaDBPair, driver: str
) -> None:
    """`--secure-file-priv` and its like have the same number."""

    class Refused(Exception):
        pass

    error = Refused(1290, "The MariaDB server is running with the --secure-file-priv option")
    assert not refuses_as_standby(error, None)


def raised(run: Callable[[], Any]) -> Exception:
    """Return what a call raises."""
    with pytest.raises(Exception) as caught:
        run()
    return caught.value


@pytest.mark.parametrize("sqlstate", ["53000", "53100", "53200", "58000", "58030"])
@pytest.mark.parametrize("name", ["psycopg", "psycopg2"])
def test_postgres_says_that_it_has_no_room(psycopg_url: str, name: str, sqlstate: str) -> None:
    """Whatever the statement was."""
    error = raise_in_postgres(psycopg_url, name, sqlstate, "no room")
    assert storage_refusal(error) is WriteRefusal.FULL
    temporary = raise_in_postgres(psycopg_url, name, sqlstate, "base/pgsql_tmp/pgsql_tmp1.0")
    assert storage_refusal(temporary) is WriteRefusal.EXHAUSTED


@pytest.mark.parametrize("sqlstate", ["53300", "53400", "54000", "22003", "58P01"])
def test_other_limits_of_postgres_are_the_statements(psycopg_url: str, sqlstate: str) -> None:
    """A limit that somebody has set is no server without room."""
    assert storage_refusal(raise_in_postgres(psycopg_url, "psycopg", sqlstate, "limit")) is None


def raise_in_postgres(url: str, driver: str, sqlstate: str, said: str) -> Exception:
    engine = create_engine(
        make_url(url).set(drivername=f"postgresql+{driver}"), poolclass=NullPool
    )
    block = f"DO $$ BEGIN RAISE EXCEPTION '{said}' USING ERRCODE = '{sqlstate}'; END $$"
    with engine.connect() as connection:
        return raised(lambda: connection.execute(text(block)))


def test_a_table_of_locks_that_is_too_small_is_no_want_of_memory(
    new_postgres: Callable[..., PrivatePostgres],
) -> None:
    """PostgreSQL has the same code for it, and another statement finds room."""
    # A server of its own: others would find no room for their locks meanwhile.
    engine = create_engine(new_postgres().url(), poolclass=NullPool)
    lock = text("SELECT pg_advisory_xact_lock(n) FROM generate_series(1, 100000) n")
    with engine.connect() as connection:
        error = raised(lambda: connection.execute(lock))
    assert "max_locks_per_transaction" in str(error)
    assert storage_refusal(error) is None


MARIADB_SAYS = {
    (1021, "Disk full (./some/kept.ibd); waiting for someone to free some space"): "FULL",
    (1026, "Error writing file './log.000001' (errno: 28)"): "FULL",
    (3, "Error writing file './some/kept' (Errcode: 28 \"No space left on device\")"): "FULL",
    (3, "Error writing file '/tmp/MYfd=63' (Errcode: 28 \"No space left\")"): "EXHAUSTED",
    (3, "Error writing file '/tmp/MYbaXyZ9' (Errcode: 28 \"No space left\")"): "EXHAUSTED",
    (1114, "The table 'kept' is full"): "FULL",
    (1114, "The table '/tmp/#sql-temptable-1-2.MAI' is full"): "EXHAUSTED",
    (1114, "The table '(temporary)' is full"): "EXHAUSTED",
    (1030, 'Got error 28 "No space left on device" from storage engine InnoDB'): "FULL",
    (1030, 'Got error 1 "Operation not permitted" from storage engine InnoDB'): None,
    (1037, "Out of memory; restart server and try again (needed 2 bytes)"): "FULL",
    (1041, "Out of memory."): "FULL",
    (1878, "Temporary file write failure."): "EXHAUSTED",
    (1206, "The total number of locks exceeds the lock table size"): None,
    (1153, "Got a packet bigger than 'max_allowed_packet' bytes"): None,
}


@pytest.mark.parametrize("said", MARIADB_SAYS, ids=str)
def test_mariadb_says_that_it_has_no_room(said: tuple[int, str]) -> None:
    """Temporary files are what the statement itself has filled."""
    kind = MARIADB_SAYS[said]
    found = storage_refusal(pymysql.err.OperationalError(*said))
    assert found is (None if kind is None else WriteRefusal[kind])


def test_sqlite_says_that_it_has_no_room(tmp_path: Path) -> None:
    """Its file may not grow."""
    connection = sqlite3.connect(tmp_path / "small.db")
    connection.execute("CREATE TABLE kept (id TEXT)")
    connection.execute("PRAGMA max_page_count = 3")
    fill = "INSERT INTO kept VALUES (zeroblob(100000))"
    assert storage_refusal(raised(lambda: connection.execute(fill))) is WriteRefusal.FULL
    wrong = raised(lambda: connection.execute("SELECT * FROM nowhere"))
    assert storage_refusal(wrong) is None
    connection.close()
