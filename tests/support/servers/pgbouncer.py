"""A private PgBouncer before the tests' PostgreSQL."""

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import make_url

from tests.support.servers.postgres import password_of
from tests.support.servers.process import ServerProcess, find_program, run


class PgBouncer(ServerProcess):
    """PgBouncer in transaction mode; it asks for the password that its PostgreSQL asks for."""

    name = "PgBouncer"
    leave_root = True

    def __init__(self, folder: Path, postgres: str, **settings: object) -> None:
        super().__init__(folder)
        self.program = find_program("pgbouncer")
        self.postgres = make_url(postgres)
        self.settings = {"pool_mode": "transaction", "default_pool_size": 5, **settings}

    @property
    def version(self) -> str:
        """Give the program's version."""
        return run(self.program, "--version").split()[1]

    def command(self) -> Sequence[str | Path]:
        """Write the configuration and give the command line."""
        server = self.postgres
        users = self.folder / "users"
        users.touch(mode=0o600)
        users.write_text(f'"{server.username}" "{password_of(server)}"\n')
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": users,
            "ignore_startup_parameters": "extra_float_digits",
            **self.settings,
        }
        lines = ["[databases]", f"* = host={server.host} port={server.port or 5432}"]
        lines += ["[pgbouncer]", *(f"{key} = {value}" for key, value in settings.items())]
        configuration = self.folder / "pgbouncer.ini"
        configuration.write_text("\n".join(lines) + "\n")
        return [self.program, "-q", configuration]

    def url(self, driver: str = "psycopg", database: str = "postgres") -> str:
        """Give the SQLAlchemy URL of a database behind PgBouncer.

        psycopg needs `connect_args={"prepare_threshold": None}` with it.
        """
        url = self.postgres.set(
            drivername=f"postgresql+{driver}",
            host="127.0.0.1",
            port=self.port,
            database=database,
        )
        return url.render_as_string(hide_password=False)
