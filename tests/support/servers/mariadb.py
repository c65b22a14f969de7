"""A private MariaDB server."""

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

import pymysql
from sqlalchemy import make_url

from tests.support.servers.process import ServerProcess, find_program, run


class MariaDB(ServerProcess):
    """MariaDB with a user `test` (password `test`) who may do everything."""

    name = "MariaDB"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
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
        as_root = ["--user=root", "--auth-root-authentication-method=normal"]
        self.temporary.mkdir()
        folders = [f"--datadir={self.data}", f"--tmpdir={self.temporary}"]
        run(self.install, "--no-defaults", *as_root, *folders, "--skip-test-db")
        lines = [
            "CREATE USER IF NOT EXISTS test@'%' IDENTIFIED BY 'test';",
            "GRANT ALL ON *.* TO test@'%' WITH GRANT OPTION;",
        ]
        Path(self.folder, "init.sql").write_text("\n".join(lines) + "\n")

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
        words = [f"--{key}={value}" for key, value in options.items()]
        return [self.program, "--no-defaults", "--skip-name-resolve", *words]

    def answers(self) -> bool:
        """Tell whether the user can log in."""
        with contextlib.suppress(pymysql.err.Error):
            self.execute("SELECT 1")
            return True
        return False

    @property
    def offer(self) -> "OfferedMariaDB":
        """Give the running server as a client sees it."""
        return OfferedMariaDB(f"mysql://test:test@127.0.0.1:{self.port}")

    def execute(self, sql: str) -> None:
        """Run a statement as the administrator."""
        self.offer.execute(sql)

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
