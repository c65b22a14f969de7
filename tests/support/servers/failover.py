"""A primary and its standby behind one address, as behind a virtual IP or a name that moves."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pymysql
from sqlalchemy import make_url

from pyramid_dbpool.embedded import PrivatePostgres
from pyramid_dbpool.embedded.cluster import run
from tests.support.servers.mariadb import MariaDB
from tests.support.servers.ports import keep_port
from tests.support.servers.postgres import FAST
from tests.support.servers.proxy import FaultProxy

__all__ = ["MariaDBPair", "PostgresPair"]

PATIENCE = 60.0  # seconds for a standby to get what its primary has


class PostgresPair:
    """Two PostgreSQL servers, one the standby of the other, and the address of the primary.

    `url()` leads to `address`, which leads to `primary` until `lead_to` says otherwise: promoted
    is not yet reached. What a failover is made of::

        pair.primary.kill()
        old = pair.promote()      # now pair.primary is what was the standby
        pair.rejoin(old)          # the old one comes back, read-only, at its own port
        pair.lead_to(pair.primary)

    :param synchronous: whether the primary answers a COMMIT only when the standby has it, so that
        a failover loses nothing.
    """

    def __init__(self, folder: Path, *, synchronous: bool = False) -> None:
        self._folder = folder
        self._keepers = [keep_port(), keep_port()]
        self._synchronous = synchronous
        self.primary = self._server(0)
        self.standby = self._server(1)
        self.primary.start()
        self.rejoin(self.standby)
        assert self.primary.port is not None
        self.address = FaultProxy(self.primary.port)

    def __repr__(self) -> str:
        return f"<PostgresPair of {self.primary!r} and {self.standby!r}>"

    def _server(self, number: int) -> PrivatePostgres:
        # What is committed is sent to the standby.
        settings: dict[str, object] = {**FAST, "synchronous_commit": "on"}
        settings |= {"wal_keep_size": "64MB", "max_prepared_transactions": 10}
        port = self._keepers[number].getsockname()[1]
        folder = self._folder / f"server{number}"
        folder.mkdir(parents=True, exist_ok=True)
        # The same for both: they are copies of each other.
        return PrivatePostgres(folder, port, password="secret", settings=settings)

    def url(self, driver: str = "psycopg", database: str = "postgres") -> str:
        """Give the SQLAlchemy URL of a database, by the address that moves."""
        return self.address.url(self.primary.url(driver, database))

    def execute(self, sql: str, database: str = "postgres") -> object:
        """Run a statement at the primary, outside a transaction; return its one value, if any."""
        options = "-c default_transaction_read_only=off"
        address = _plain(self.primary, database)
        with psycopg.connect(address, autocommit=True, options=options) as connection:
            return _scalar(connection, sql)

    def configure(self, change: str) -> None:
        """Let the primary alter its configuration; return once every connection is told of it.

        Asked to read it, a server answers before it has: its first process reads it, tells the
        others, and only then takes a new connection, which says when that was.
        """
        loaded = "SELECT pg_conf_load_time()"
        before, until = self.execute(loaded), time.monotonic() + PATIENCE
        self.execute(f"ALTER SYSTEM {change}")
        self.execute("SELECT pg_reload_conf()")
        while self.execute(loaded) == before:
            assert time.monotonic() < until, f"{self.primary!r} does not read its configuration"
            time.sleep(0.005)

    def promote(self) -> PrivatePostgres:
        """Make the standby the primary; return the server that was it.

        The address still leads where it led.
        """
        old, self.primary = self.primary, self.standby
        self.execute("SELECT pg_promote()")
        return old

    def rejoin(self, server: PrivatePostgres) -> None:
        """Have a server come back, or come, as the standby of the primary."""
        server.kill()
        shutil.rmtree(server.folder / "data", ignore_errors=True)
        self._copy_primary(server.folder / "data")
        self.standby = server
        server.start()
        if self._synchronous:
            # Once it is there: the primary would wait for it.
            self.configure("SET synchronous_standby_names = '*'")

    def _copy_primary(self, data: Path) -> None:
        primary = self.primary
        self.configure("RESET synchronous_standby_names")
        words = ["--checkpoint=fast", "--wal-method=stream", "--no-sync", "--write-recovery-conf"]
        source = f"--dbname={_plain(primary, '')}"
        run(primary.programs / "pg_basebackup", f"--pgdata={data}", source, *words)

    @contextmanager
    def fenced(self) -> Iterator[None]:
        """Have the primary refuse writes, for everybody, also who is connected already."""
        self.configure("SET default_transaction_read_only = on")
        try:
            yield
        finally:
            self.configure("RESET default_transaction_read_only")

    def catch_up(self) -> None:
        """Return when the standby has all that the primary has."""
        with psycopg.connect(_plain(self.primary), autocommit=True) as connection:
            place = _scalar(connection, "SELECT pg_current_wal_insert_lsn()::text")
        until = time.monotonic() + PATIENCE
        with psycopg.connect(_plain(self.standby), autocommit=True) as connection:
            query = f"SELECT pg_last_wal_replay_lsn() >= '{place}'::pg_lsn"
            while not _scalar(connection, query):
                assert time.monotonic() < until, f"{self.standby!r} does not follow"
                time.sleep(0.005)

    def lead_to(self, server: PrivatePostgres) -> None:
        """Have the address lead to a server; connections that are open stay where they are."""
        assert server.port is not None
        self.address.lead_to(server.port)

    def stop(self) -> None:
        """Stop both servers, and the address."""
        self.address.close()
        for server in (self.standby, self.primary):
            server.stop("immediate")
        for keeper in self._keepers:
            keeper.close()


def _plain(server: PrivatePostgres, database: str = "postgres") -> str:
    url = make_url(server.url()).set(drivername="postgresql", database=database)
    return url.render_as_string(hide_password=False)


def _scalar(connection: "psycopg.Connection[tuple[object, ...]]", query: str) -> object:
    cursor = connection.execute(query.encode())
    row = None if cursor.description is None else cursor.fetchone()
    return row[0] if row else None


class MariaDBPair:
    """Two MariaDB servers, the one that is not primary read-only, and the primary's address.

    They do not replicate by themselves unless `replicate` is called; `url()` leads to `address`.
    The user `app` (password `app`) may do everything but write to a server that is read-only.

    :param installed: the data of another one to copy, which is quicker than to make it.
    """

    def __init__(self, folder: Path, installed: Path | None = None) -> None:
        self.primary, self.standby = (
            MariaDB(
                folder / f"server{number}",
                installed,
                server_id=number,
                log_bin="log",
                log_slave_updates="ON",
                # What a crash would lose, its binary log may have sent already.
                innodb_flush_log_at_trx_commit=1,
                sync_binlog=1,
                gtid_strict_mode="ON",
            )
            for number in (1, 2)
        )
        for server in (self.primary, self.standby):
            server.start()
            # The last one: what each has done for itself is none of the other's business.
            for sql in (*_APP_USER, "RESET MASTER"):
                server.execute(sql)
        self.standby.execute("SET GLOBAL read_only = 1")
        self.address = FaultProxy(self.primary.port)

    def __repr__(self) -> str:
        return f"<MariaDBPair of {self.primary!r} and {self.standby!r}>"

    def url(self, driver: str = "pymysql", database: str = "test") -> str:
        """Give the SQLAlchemy URL of a database, by the address that moves."""
        url = make_url(self.primary.url(driver, database)).set(username="app", password="app")
        return self.address.url(url.render_as_string(hide_password=False))

    def execute(self, sql: str) -> None:
        """Run a statement at the primary, as its administrator, and commit it."""
        self._run(self.primary, sql)

    def replicate(self) -> None:
        """Have the standby follow the primary, from what it has now."""
        for sql in (
            "STOP SLAVE",
            "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_USER='test',"
            f" MASTER_PASSWORD='{self.primary.password}', MASTER_PORT={self.primary.port},"
            " MASTER_USE_GTID=slave_pos",
            "START SLAVE",
        ):
            self.standby.execute(sql)

    def demote(self) -> None:
        """Make the primary read-only; its connections stay, and answer."""
        self.primary.execute("SET GLOBAL read_only = 1")

    def catch_up(self) -> None:
        """Return when the standby has all that the primary has."""
        place = self._ask(self.primary, "SELECT @@gtid_binlog_pos")
        query = f"SELECT MASTER_GTID_WAIT('{place}', {PATIENCE})"
        assert self._ask(self.standby, query) == 0, f"{self.standby!r} does not follow"

    def promote(self) -> MariaDB:
        """Let the standby be written to, as the primary; return the server that was it.

        The address still leads where it led.
        """
        old, self.primary = self.primary, self.standby
        for sql in ("STOP SLAVE", "RESET SLAVE ALL", "SET GLOBAL read_only = 0"):
            self.primary.execute(sql)
        return old

    def rejoin(self, server: MariaDB) -> None:
        """Have a server come back as the read-only replica of the primary."""
        # From its first moment: it would take writes that its primary never has.
        server.settings["read_only"] = 1
        server.start()
        server.execute("SET GLOBAL read_only = 1")
        self.standby = server
        server.execute("SET GLOBAL gtid_slave_pos = CONCAT(@@GLOBAL.gtid_binlog_pos, '')")
        self.replicate()

    def lead_to(self, server: MariaDB) -> None:
        """Have the address lead to a server; connections that are open stay where they are."""
        self.address.lead_to(server.port)

    def stop(self) -> None:
        """Stop both servers, and the address."""
        self.address.close()
        for server in (self.standby, self.primary):
            server.stop()

    @classmethod
    def _ask(cls, server: MariaDB, query: str) -> object:
        row = cls._run(server, query)
        return row[0] if row else None

    @staticmethod
    def _run(server: MariaDB, sql: str) -> tuple[object, ...] | None:
        address = server.offer.address
        with (
            pymysql.connect(
                host=address.host,
                port=address.port or 0,
                user=address.username,
                password=address.password or "",
                autocommit=True,
            ) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(sql)
            return cursor.fetchone()


_APP_USER = (
    "CREATE DATABASE IF NOT EXISTS test",
    "CREATE USER IF NOT EXISTS app@'%' IDENTIFIED BY 'app'",
    "GRANT ALL ON test.* TO app@'%'",
)
