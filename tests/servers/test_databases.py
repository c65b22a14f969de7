"""A database that another test has used is as new."""

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any

import psycopg
import pymysql
import pytest
from sqlalchemy import create_engine, inspect, make_url, text
from sqlalchemy.pool import NullPool

from tests.support.servers.databases import KEPT, KeptDatabases
from tests.support.servers.mariadb import MariaDB, OfferedMariaDB
from tests.support.servers.postgres import Postgres

Connect = Callable[[], Any]


@pytest.fixture
def used(postgres: Postgres) -> Iterator[str]:
    """Give the name of a database, and drop it at the end."""
    name = "test_of_databases"
    postgres.create(name)
    yield name
    postgres.drop(name)


@pytest.fixture
def connect(postgres: Postgres, used: str) -> Iterator[Connect]:
    """Connect to it, and stay connected."""
    url = make_url(postgres.url(database=used)).set(drivername="postgresql")
    opened: list[Any] = []

    def connect() -> Any:
        plain = url.render_as_string(hide_password=False)
        opened.append(psycopg.connect(plain, autocommit=True))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE t (id serial PRIMARY KEY, other integer REFERENCES t)",
        "CREATE VIEW v AS SELECT 1; CREATE TYPE mood AS ENUM ('good')",
        "CREATE FUNCTION one() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "CREATE TEMPORARY TABLE t (id integer)",
        "REVOKE ALL ON SCHEMA public FROM PUBLIC",
        "ALTER SCHEMA public OWNER TO CURRENT_USER",
    ],
)
def test_what_its_schema_had_goes(
    postgres: Postgres, used: str, connect: Connect, statement: str
) -> None:
    """So does what the schema itself was made to."""
    connect().execute(statement)
    assert postgres.renew(used)
    rows = "SELECT count(*) FROM pg_class WHERE relname IN ('t', 't_id_seq', 'v')"
    assert connect().execute(rows).fetchone() == (0,)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE SCHEMA other",
        "CREATE SCHEMA other; CREATE TABLE other.t (id integer)",
        "CREATE EXTENSION IF NOT EXISTS dict_int WITH SCHEMA pg_catalog",
        "ALTER DATABASE {name} SET work_mem = '5MB'",
        "ALTER DATABASE {name} CONNECTION LIMIT 7",
        "REVOKE CONNECT ON DATABASE {name} FROM PUBLIC",
        "SELECT lo_create(0)",
        "CREATE FOREIGN DATA WRAPPER other",
        "CREATE CAST (text AS pg_lsn) WITH INOUT",
        "CREATE PUBLICATION all_of_it FOR ALL TABLES",
        "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
    ],
)
def test_with_more_than_that_it_is_not_used_again(
    postgres: Postgres, used: str, connect: Connect, statement: str
) -> None:
    """What stands beside the schema would stay: then the next test gets another database."""
    with suppress(psycopg.errors.FeatureNotSupported):  # a server without that extension
        connect().execute(statement.format(name=used))
        assert not postgres.renew(used)


def test_its_users_go_with_all_that_they_hold(
    postgres: Postgres, used: str, connect: Connect
) -> None:
    """Connections, transactions, locks and sessions' settings."""
    connect().execute("CREATE TABLE t (id integer)")
    holder = connect()
    holder.execute("SET work_mem = '5MB'")
    holder.execute("SELECT pg_advisory_lock(7)")
    holder.execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
    assert postgres.renew(used)
    with pytest.raises(psycopg.OperationalError):
        holder.execute("SELECT 1")
    now = connect()
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    assert now.execute(others).fetchone() == (1,)
    assert now.execute("SELECT pg_try_advisory_lock(7)").fetchone() == (True,)


def test_a_database_of_mariadb_is_made_anew(mariadb: MariaDB | OfferedMariaDB) -> None:
    """Whoever is connected, and whatever he holds."""
    name = "test_of_databases"
    mariadb.create(name)
    address = make_url(mariadb.url(database=name))
    with closing(
        pymysql.connect(
            host=address.host,
            port=address.port or 3306,
            user=address.username,
            password=address.password or "",
            database=name,
        )
    ) as holder:
        cursor = holder.cursor()
        cursor.execute("CREATE TABLE t (id integer) ENGINE=InnoDB")
        cursor.execute("INSERT INTO t VALUES (1)")
        assert mariadb.renew(name)
        with pytest.raises(pymysql.err.OperationalError):
            cursor.execute("SELECT 1")
    engine = create_engine(mariadb.url(database=name), poolclass=NullPool)
    with engine.connect() as connection:
        assert inspect(connection).get_table_names() == []
        users = text("SELECT count(*) FROM information_schema.processlist WHERE db = database()")
        assert connection.scalar(users) == 1
    mariadb.drop(name)


class Server:
    """A server of databases of which some cannot be renewed."""

    def __init__(self) -> None:
        self.databases: set[str] = set()
        self.spoilt: set[str] = set()

    def execute(self, sql: str) -> None: ...

    def create(self, database: str) -> None:
        assert database not in self.databases
        self.databases.add(database)

    def renew(self, database: str) -> bool:
        return database not in self.spoilt

    def drop(self, database: str) -> None:
        self.databases.remove(database)

    def url(self, driver: str, database: str) -> str:
        return f"{driver}://{database}"


def take_and_return(databases: KeptDatabases) -> str:
    name, give_back = databases.take()
    give_back()
    return name


def test_databases_are_used_in_turn() -> None:
    """One is not used again at once, while its connections may still be closing."""
    server = Server()
    databases = KeptDatabases(server)
    names = [take_and_return(databases) for _ in range(2 * KEPT)]
    assert names[:KEPT] == names[KEPT:]
    assert set(names) == server.databases


def test_one_that_cannot_be_as_new_is_dropped() -> None:
    """Another one takes its place."""
    server = Server()
    databases = KeptDatabases(server)
    names = [take_and_return(databases) for _ in range(KEPT)]
    server.spoilt.add(names[0])
    other = take_and_return(databases)
    assert server.databases == {*names[1:], other}
    databases.close()
    assert server.databases == set()


def test_no_two_tests_have_the_same_database() -> None:
    """However many a test takes at once."""
    databases = KeptDatabases(Server())
    taken = [databases.take() for _ in range(2 * KEPT)]
    assert len({name for name, _ in taken}) == 2 * KEPT
