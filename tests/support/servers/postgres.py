"""The tests' PostgreSQL: private, or one that the environment offers."""

import contextlib
import os
import time
from functools import cached_property
from pathlib import Path

import psycopg
import psycopg2
from sqlalchemy import URL, make_url

from pyramid_dbpool.embedded import EmbeddedServerError, PrivatePostgres
from tests.support.servers.process import ServerMissing

# What a crash of the machine would lose, no test misses.
FAST = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    # Its transactions would count among those that some tests look at.
    "autovacuum": "off",
}

USERS = "SELECT pid FROM pg_stat_activity WHERE datname = %s"
END = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s"
NEW_SCHEMA = """
DROP SCHEMA public CASCADE;
CREATE SCHEMA public AUTHORIZATION pg_database_owner;
GRANT USAGE ON SCHEMA public TO PUBLIC;
"""
NEW_SCHEMA_BEFORE_15 = """
DROP SCHEMA public CASCADE;
CREATE SCHEMA public;
GRANT ALL ON SCHEMA public TO PUBLIC;
"""
# What tells such a database from a new one: objects of schemas show in pg_depend.
CATALOGS = "cast default_acl depend foreign_data_wrapper language largeobject_metadata publication"
TRACES = f"""
SELECT {", ".join(f"(SELECT count(*) FROM pg_{each})" for each in CATALOGS.split())},
       (SELECT string_agg(concat_ws(' ', nspname, nspowner, nspacl), ';' ORDER BY nspname)
          FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'),
       (SELECT concat_ws(' ', datdba, datconnlimit, datallowconn, datacl)
          FROM pg_database WHERE oid = this),
       (SELECT count(*) FROM pg_db_role_setting WHERE setdatabase = this),
       (SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()),
       (SELECT count(*) FROM pg_locks WHERE database = this AND pid <> pg_backend_pid())
  FROM (SELECT oid AS this FROM pg_database WHERE datname = current_database()) AS own
"""


def password_of(url: URL) -> str:
    """Give the password of a URL, or of the file that it names."""
    file = url.query.get("passfile")
    if isinstance(file, str):
        return Path(file).read_text().strip().rpartition(":")[2]
    return url.password or ""


class Postgres:
    """PostgreSQL for a whole run; `private` is the server where it is our own."""

    name = "PostgreSQL"

    def __init__(self, address: URL, private: PrivatePostgres | None = None) -> None:
        self.address = address
        self.private = private
        self._traces_of_new: tuple[object, ...] | None = None

    @classmethod
    def start(cls, folder: Path, **settings: object) -> "Postgres":
        """Start a private one; `settings` are added to the fast ones.

        TEST_POSTGRES_PROGRAMS in the environment is the folder of its programs. Raises
        ServerMissing when there is none on this machine.
        """
        programs = os.environ.get("TEST_POSTGRES_PROGRAMS")
        try:
            server = PrivatePostgres(folder, settings={**FAST, **settings}, programs=programs)
            server.start()
        except EmbeddedServerError as error:
            raise ServerMissing(str(error)) from error
        # In the URL, where a test may add its own query.
        address = make_url(server.url())
        return cls(address.set(query={}, password=password_of(address)), server)

    @property
    def version(self) -> str:
        """Give the version of the running server."""
        with self._connect() as connection:
            return connection.info.parameter_status("server_version") or "of unknown version"

    def stop(self) -> None:
        """Leave the server, and stop it where it is our own."""
        if "_administrator" in vars(self):
            self._administrator.close()
        if self.private:
            self.private.stop()

    def execute(self, sql: str) -> None:
        """Run a statement as the administrator, outside a transaction."""
        with self._connect() as connection:
            connection.execute(sql.encode())

    def create(self, database: str) -> None:
        """Make an empty database."""
        self.execute(f"CREATE DATABASE {database}")
        if self._traces_of_new is None:
            with self._connect(database) as connection:
                self._traces_of_new = connection.execute(TRACES).fetchone()

    def renew(self, database: str) -> bool:
        """Make a database as new; False: it holds more than objects in its schema "public"."""
        self._ask(END, database)
        with self._connect(database, options="-c lock_timeout=10s") as connection:
            old = connection.info.server_version < 150000
            # A prepared transaction keeps its locks.
            with contextlib.suppress(psycopg.errors.LockNotAvailable):
                connection.execute(NEW_SCHEMA_BEFORE_15 if old else NEW_SCHEMA)
            traces = connection.execute(TRACES).fetchone()
        return traces == self._traces_of_new and self._is_left(database)

    def _is_left(self, database: str) -> bool:
        """Wait until nobody is connected any more: a backend outlives its connection a little."""
        over = time.monotonic() + 10
        while self._ask(USERS, database):
            if time.monotonic() > over:
                return False
            time.sleep(0.001)
        return True

    def _ask(self, query: str, database: str) -> list[tuple[object, ...]]:
        with self._administrator.cursor() as cursor:
            cursor.execute(query, [database])
            return list(cursor.fetchall())

    @cached_property
    def _administrator(self) -> "psycopg2.extensions.connection":
        """One that is kept. psycopg would complain of it in each child that a test forks."""
        connection = psycopg2.connect(self._plain())
        connection.autocommit = True
        return connection

    def drop(self, database: str) -> None:
        """Remove a database, and end who uses it."""
        self.execute(f"DROP DATABASE {database} WITH (FORCE)")

    def url(self, driver: str = "psycopg", database: str = "postgres") -> str:
        """Give the SQLAlchemy URL of a database."""
        url = self.address.set(drivername=f"postgresql+{driver}", database=database)
        return url.render_as_string(hide_password=False)

    def _connect(
        self, database: str | None = None, options: str | None = None
    ) -> "psycopg.Connection[tuple[object, ...]]":
        return psycopg.connect(self._plain(database), autocommit=True, options=options)

    def _plain(self, database: str | None = None) -> str:
        url = self.address.set(drivername="postgresql", database=database)
        return url.render_as_string(hide_password=False)
