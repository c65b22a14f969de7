"""A private MariaDB server."""

import contextlib
import re
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

import pymysql
from sqlalchemy import make_url

from tests.support.servers.process import ServerProcess, copy_folder, find_program, run

# By default 96 MB are written at first.
LOG_SIZE = "--innodb-log-file-size=8M"
USERS = "SELECT id FROM information_schema.processlist WHERE db = %s"


class MariaDB(ServerProcess):
    """MariaDB with a user `test` who may do everything.

    Everybody on the machine can reach it, so his password is drawn at random and nobody else
    can log in: SQL would read the files of whoever runs the tests.

    `installed` is the data of another one to copy, which is quicker than to make it.
    """

    name = "MariaDB"

    def __init__(self, folder: Path, installed: Path | None = None, **settings: object) -> None:
        super().__init__(folder)
        self.installed = installed
        self.settings = settings
        self.password = secrets.token_hex(16)
        self.program = find_program("mariadbd")
        self.install = find_program("mariadb-install-db")
        # The install script calls it; Debian has it in the package mariadb-client-core.
        find_program("my_print_defaults")
        self.data = folder / "data"
        # Each that starts, and each installation, removes the tables that others have there.
        self.temporary = folder / "tmp"

    @property
    def version(self) -> str:
        """Give the server's version."""
        found = re.search(r"Ver (\d+(\.\d+)+)", run(self.program, "--no-defaults", "--version"))
        return found[1] if found else "of unknown version"

    def prepare(self) -> None:
        """Make the system tables and the user."""
        self.temporary.mkdir()
        if self.installed:
            copy_folder(self.installed, self.data)
        else:
            as_root = ["--user=root", "--auth-root-authentication-method=normal"]
            folders = [f"--datadir={self.data}", f"--tmpdir={self.temporary}"]
            run(self.install, "--no-defaults", *as_root, *folders, LOG_SIZE, "--skip-test-db")
        lines = [
            # At each start: a replica would be ahead of its primary.
            "SET sql_log_bin = 0;",
            f"CREATE OR REPLACE USER test@'%' IDENTIFIED BY '{self.password}';",
            "GRANT ALL ON *.* TO test@'%' WITH GRANT OPTION;",
            # Root has none at all, also by TCP.
            "DELETE FROM mysql.global_priv WHERE user IN ('root', '');",
            "FLUSH PRIVILEGES;",
        ]
        init = Path(self.folder, "init.sql")
        init.touch(mode=0o600)
        init.write_text("\n".join(lines) + "\n")

    def command(self) -> Sequence[str | Path]:
        """Give the command line of the server."""
        options = {
            "user": "root",
            "datadir": self.data,
            "tmpdir": self.temporary,
            "socket": "",
            "port": self.port,
            "bind-address": "127.0.0.1",
            "init-file": self.folder / "init.sql",
            "pid-file": self.folder / "server.pid",
            "innodb-buffer-pool-size": "32M",
            "innodb-flush-log-at-trx-commit": 0,
        }
        words = [f"--{key}={value}" for key, value in {**options, **self.settings}.items()]
        return [self.program, "--no-defaults", "--skip-name-resolve", LOG_SIZE, *words]

    def answers(self) -> bool:
        """Tell whether the user can log in."""
        with contextlib.suppress(pymysql.err.Error):
            self.execute("SELECT 1")
            return True
        return False

    @property
    def offer(self) -> "OfferedMariaDB":
        """Give the running server as a client sees it."""
        return OfferedMariaDB(f"mysql://test:{self.password}@127.0.0.1:{self.port}")

    def execute(self, sql: str) -> None:
        """Run a statement as the administrator."""
        self.offer.execute(sql)

    def create(self, database: str) -> None:
        """Make an empty database."""
        self.offer.create(database)

    def renew(self, database: str) -> bool:
        """Make a database as new."""
        return self.offer.renew(database)

    def drop(self, database: str) -> None:
        """Remove a database, and end who uses it."""
        self.offer.drop(database)

    def url(self, driver: str = "pymysql", database: str = "mysql") -> str:
        """Give the SQLAlchemy URL of a database."""
        return self.offer.url(driver, database)


class OfferedMariaDB:
    """A MariaDB or MySQL server that runs already, by the URL of an administrator."""

    def __init__(self, address: str) -> None:
        self.address = make_url(address)

    @property
    def version(self) -> str:
        """Give the server's version."""
        with self._connect() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT VERSION()")
            (version,) = cursor.fetchone() or ("of unknown version",)
            return str(version)

    def execute(self, sql: str) -> None:
        """Run a statement as the administrator."""
        with self._connect() as connection, connection.cursor() as cursor:
            cursor.execute(sql)

    def create(self, database: str) -> None:
        """Make an empty database."""
        self.execute(f"CREATE DATABASE {database}")

    def renew(self, database: str) -> bool:
        """Make a database as new: all that it has goes with it."""
        self.drop(database)
        self.create(database)
        return True

    def drop(self, database: str) -> None:
        """Remove a database, and end who uses it: it would wait for their locks."""
        with self._connect() as connection, connection.cursor() as cursor:
            deadline = time.monotonic() + 10
            while cursor.execute(USERS, [database]) and time.monotonic() < deadline:
                for (number,) in cursor.fetchall():
                    with contextlib.suppress(pymysql.err.OperationalError):  # it has ended
                        cursor.execute(f"KILL {number}")
                time.sleep(0.002)
            cursor.execute(f"DROP DATABASE {database}")

    def url(self, driver: str = "pymysql", database: str = "mysql") -> str:
        """Give the SQLAlchemy URL of a database."""
        url = self.address.set(drivername=f"mysql+{driver}", database=database)
        return url.render_as_string(hide_password=False)

    def _connect(self) -> "pymysql.Connection[pymysql.cursors.Cursor]":
        return pymysql.connect(
            host=self.address.host,
            port=self.address.port or 3306,
            user=self.address.username,
            password=self.address.password or "",
            connect_timeout=5,
        )
