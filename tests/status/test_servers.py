"""The page under the servers that apps run on, while nobody gets a connection."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest

from pyramid_dbpool.embedded import PrivatePostgres
from tests.support.makers import wait_for
from tests.support.servers.ports import kept_port

pytestmark = pytest.mark.programs

APP = "tests.support.status_server"
GUNICORN = ["-m", "gunicorn", "-b", "127.0.0.1:{port}"]
# The command, and how many processes serve.
SERVERS = {
    "waitress": (["-m", "waitress", "--listen", "127.0.0.1:{port}", f"{APP}:application"], 1),
    "gunicorn-sync-preload": ([*GUNICORN, "--preload", "-w", "2", f"{APP}:application"], 2),
    "gunicorn-gthread": ([*GUNICORN, "-w", "2", "--threads", "2", f"{APP}:application"], 2),
    "uwsgi": (
        "--http-socket 127.0.0.1:{port} --master --processes 2 --enable-threads --threads 2"
        f" --die-on-term --wsgi {APP}".split(),
        2,
    ),
}


class Server:
    """A server that runs the app, in two processes if it can."""

    def __init__(self, kind: str, port: int, settings: dict[str, str], log: Path) -> None:
        words, self.processes = SERVERS[kind]
        program = Path(sys.executable)
        if kind == "uwsgi":
            program = program.with_name("uwsgi")
        self._address = f"http://127.0.0.1:{port}"
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [str(program), *(word.format(port=port) for word in words)],
                stdout=output,
                stderr=output,
                env={**os.environ, "STATUS_APP": json.dumps(settings), "PYTHONPATH": os.getcwd()},
                start_new_session=True,
            )

    def get(self, path: str) -> tuple[int, str]:
        """Ask for something, as a guest."""
        asked = Request(f"{self._address}{path}", headers={"X-User": "guest"})
        try:
            # Much shorter than anybody would wait for a connection here.
            with urlopen(asked, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def answers(self) -> bool:
        """Tell whether it serves by now."""
        assert self._process.poll() is None, self.log.read_text()
        with suppress(URLError, ConnectionError):
            return self.get("/drop")[0] == 200
        return False

    def numbers(self) -> dict[str, Any]:
        """Return what the page's lines are drawn from, by process."""
        status, text = self.get("/dbpool.json")
        assert status == 200, text
        (found,) = json.loads(text)["numbers"].values() or [{}]
        return dict(found)

    def everywhere(self, path: str, used: int) -> None:
        """Ask until each process that serves has so many connections in use."""

        def is_so() -> bool:
            self.get(path)
            uses = [one["used"] for one in self.numbers().values()]
            # gunicorn's own process, which has loaded the app, is there too, and uses none.
            return sum(uses) == used * self.processes and set(uses) <= {0, used}

        wait_for(is_so)

    def stop(self) -> None:
        """End it."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture(params=SERVERS)
def server(
    request: pytest.FixtureRequest, database: PrivatePostgres, tmp_path: Path
) -> Iterator[Server]:
    """Start a server, each pool of which has two connections."""
    settings = {
        "sqlalchemy.url": database.url("psycopg"),
        "sqlalchemy.pool_size": "2",
        "sqlalchemy.max_overflow": "0",
        "sqlalchemy.pool_timeout": "1h",
        "dbpool.outage_grace": "0",
        "dbpool.hold_warning": "off",
        "dbpool.run_dir": str(tmp_path / "run"),
        "dbpool.status_permission": "look",
        "tm.annotate_user": "true",
    }
    with kept_port() as port:
        found = Server(request.param, port, settings, tmp_path / "server.log")
        try:
            wait_for(found.answers)
            yield found
        finally:
            found.stop()


@pytest.fixture
def database(new_postgres: Callable[..., PrivatePostgres]) -> PrivatePostgres:
    """Give a PostgreSQL that may be stopped."""
    return new_postgres()


def test_it_is_there_while_nobody_gets_a_connection(
    server: Server, database: PrivatePostgres
) -> None:
    """All processes are shown, exhausted and then without a database, by whichever answers."""
    server.everywhere("/keep", 2)
    for _process in range(4):
        status, page = server.get("/dbpool")
        assert status == 200 and page.count(">2 of 2</td>") == server.processes, page
    server.everywhere("/drop", 0)
    database.stop("fast")
    assert server.get("/dbpool")[0] == 200
    assert server.get("/use")[0] == 503
    for _process in range(4):
        status, page = server.get("/dbpool")
        assert status == 200 and "<h1>The database of pool default has been away for" in page
