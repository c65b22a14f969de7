"""Databases that are full until a test makes room, with a table `kept` that needs some."""

import itertools
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from pyramid_dbpool.embedded import PrivatePostgres
from tests.support.servers.disks import SmallDisk

__all__ = [
    "ASK",
    "INSERT",
    "LONG",
    "Full",
    "add_tablespace",
    "full_at_commit",
    "full_mariadb",
    "full_postgres",
    "full_sqlite",
]

TABLE = "CREATE TABLE kept (id INTEGER PRIMARY KEY, content TEXT)"
INSERT = text("INSERT INTO kept (id, content) VALUES (:id, :content)")
WRITES_AT_COMMIT = """
CREATE TABLE asked (id INTEGER, content TEXT);
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO kept (id, content) VALUES (NEW.id, NEW.content); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER keep AFTER INSERT ON asked DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION keep();
"""
ASK = text("INSERT INTO asked (id, content) VALUES (:id, :content)")
# Longer than what is left in a page, and nothing that could be compressed.
LONG = random.Random(1).randbytes(30_000).hex()


@dataclass
class Full:
    """A database that is full until `free` is called."""

    url: str
    free: Callable[[], object]
    prepare: Callable[[Engine], object] = lambda _engine: None
    content: str = LONG

    def row(self, number: int) -> dict[str, object]:
        """Give the parameters of `INSERT` for a row for which there is no room."""
        return {"id": number, "content": self.content}

    def rows(self) -> list[int]:
        """List the rows that are stored."""
        with create_engine(self.url, poolclass=NullPool).connect() as connection:
            return list(connection.scalars(text("SELECT id FROM kept ORDER BY id")))


def full_postgres(server: PrivatePostgres, driver: str, disk: SmallDisk) -> Full:
    """Put the table on a disk that is full."""
    url = server.url(driver)
    add_tablespace(url, disk)
    with create_engine(url, poolclass=NullPool).begin() as connection:
        connection.execute(text(f"{TABLE} TABLESPACE small"))
    disk.fill()
    return Full(url, disk.free)


def full_at_commit(server: PrivatePostgres, driver: str, disk: SmallDisk) -> Full:
    """Put the table on a full disk, and have `ASK` write to it at COMMIT."""
    found = full_postgres(server, driver, disk)
    with create_engine(found.url, poolclass=NullPool).begin() as connection:
        connection.exec_driver_sql(WRITES_AT_COMMIT)
    return found


def add_tablespace(url: str, disk: SmallDisk) -> None:
    """Let a PostgreSQL use a disk, as the tablespace `small`."""
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE TABLESPACE small LOCATION '{disk.folder}'"))


def full_mariadb(url: str) -> Full:
    """Fill a table whose size is limited: InnoDB's own ends the server when its files are full."""
    engine = create_engine(url, poolclass=NullPool)
    limited = "CREATE TABLE kept (id INTEGER PRIMARY KEY, content CHAR(200)) ENGINE = MEMORY"
    with engine.connect() as connection:
        connection.execute(text("SET SESSION max_heap_table_size = 16384"))
        connection.execute(text(limited))
        with suppress(DBAPIError):
            for number in itertools.count(1):
                connection.execute(INSERT, {"id": -number, "content": ""})

    def free() -> None:
        with engine.begin() as connection:
            connection.execute(text("DELETE FROM kept"))

    return Full(url, free, content="short")


def full_sqlite(url: str) -> Full:
    """Let a file grow no more; `prepare` restricts an engine's connections to that."""
    with create_engine(url, poolclass=NullPool).begin() as connection:
        connection.execute(text(TABLE))
    limit = {"pages": 3}

    def prepare(engine: Engine) -> None:
        @event.listens_for(engine, "begin")
        def restrict(connection: object) -> None:
            connection.exec_driver_sql(f"PRAGMA max_page_count = {limit['pages']}")  # type: ignore[attr-defined]

    return Full(url, lambda: limit.update(pages=10_000), prepare)
