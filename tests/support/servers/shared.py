"""Servers for several runs of the tests side by side, offered to them by the environment."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tests.support.servers.mariadb import MariaDB
from tests.support.servers.postgres import Postgres
from tests.support.servers.process import ServerMissing

# By default 100 and 151, which is enough for one run.
CONNECTIONS = 500


@contextmanager
def shared_servers(folder: Path, *, mariadb: bool) -> Iterator[dict[str, str]]:
    """Start the servers that all runs use, and yield the environment that offers them.

    What is offered already, and what cannot be had, is left to the runs: they tell of it.
    """
    offers: dict[str, str] = {}
    with ExitStack() as stops:
        if "TEST_POSTGRES_URL" not in os.environ:
            with suppress(ServerMissing):
                postgres = Postgres.start(folder / "postgres", max_connections=CONNECTIONS)
                stops.callback(postgres.stop)
                offers["TEST_POSTGRES_URL"] = postgres.url()
        if mariadb and "TEST_MARIADB_URL" not in os.environ:
            with suppress(ServerMissing):
                server = MariaDB(folder / "mariadb", max_connections=CONNECTIONS)
                stops.callback(server.stop)
                server.start()
                offers["TEST_MARIADB_URL"] = server.url()
        yield offers
