"""The tests' PostgreSQL: private, or one that the environment offers."""

from pathlib import Path

import psycopg
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


class Postgres:
    """PostgreSQL for a whole run; `private` is the server where it is our own."""

    name = "PostgreSQL"

    def __init__(self, address: URL, private: PrivatePostgres | None = None) -> None:
        self.address = address
        self.private = private

    @classmethod
    def start(cls, folder: Path, offered: str | None) -> "Postgres":
        """Take the server that the environment offers, or start a private one.

        Raises ServerMissing when neither can be had.
        """
        if offered:
            return cls(make_url(offered))
        try:
            server = PrivatePostgres(folder, settings=FAST)
            server.start()
        except EmbeddedServerError as error:
            raise ServerMissing(str(error)) from error
        return cls(make_url(server.url()), server)

    @property
    def version(self) -> str:
        """Give the version of the running server."""
        with self._connect() as connection:
            return connection.info.parameter_status("server_version") or "of unknown version"

    def stop(self) -> None:
        """Stop the server where it is our own."""
        if self.private:
            self.private.stop()

    def execute(self, sql: str) -> None:
        """Run a statement as the administrator, outside a transaction."""
        with self._connect() as connection:
            connection.execute(sql.encode())

    def url(self, driver: str = "psycopg", database: str = "postgres") -> str:
        """Give the SQLAlchemy URL of a database."""
        url = self.address.set(drivername=f"postgresql+{driver}", database=database)
        return url.render_as_string(hide_password=False)

    def _connect(self) -> "psycopg.Connection[tuple[object, ...]]":
        plain = self.address.set(drivername="postgresql").render_as_string(hide_password=False)
        return psycopg.connect(plain, autocommit=True)
