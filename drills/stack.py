"""Everything that a drill needs: PostgreSQL, the proxy before it, the web app, the streamer."""

import http.client
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, create_engine, make_url, text
from sqlalchemy.pool import NullPool

from drills import processes
from drills.processes import PATIENCE, Process
from example_app.migrate import upgrade
from pyramid_dbpool import dispose_engine
from pyramid_dbpool.embedded import PrivatePostgres
from tests.support.servers.ports import kept_port
from tests.support.servers.proxy import FaultProxy

# No machine crashes in a drill: without these a start takes as long as its disk likes.
SERVER = {"fsync": "off", "full_page_writes": "off"}


@dataclass
class Programs:
    """The programs of an app of drill.ini, on the database at `url`.

    `patience` and `grace` are the app's `pool_timeout` and `outage_grace`, in seconds. `command`
    is what starts a program, if its system is not to be this one.
    """

    folder: Path
    app: str
    url: str
    ends: ExitStack
    patience: float = 5
    grace: float = 10
    command: Sequence[str] = ()

    @property
    def run_dir(self) -> Path:
        """Give the folder in which each process answers, where the app has one."""
        return self.folder / "run"

    @property
    def variables(self) -> dict[str, str]:
        """Give those of drill.ini."""
        return {
            # Ini files take a % for the beginning of a name.
            "database_url": self.url.replace("%", "%%"),
            "broker_folder": str(self.folder / "broker"),
            "run_dir": str(self.run_dir),
            "patience": str(self.patience),
            "grace": str(self.grace),
        }

    def start_web(self, *, workers: int, threads: int, path: str) -> tuple[Process, int]:
        """Start the app under gunicorn; return when `path` is answered, with its port."""
        options = ["--workers", str(workers), "--threads", str(threads)]
        program, port = self._gunicorn("web.log", self.app, *options)
        end = time.monotonic() + PATIENCE
        while not answers(port, path):
            program.check(end, "no request was answered")
            time.sleep(0.1)
        return program, port

    def start_streamer(self, config: str) -> tuple[Process, int]:
        """Start the streamer; return when it listens to the broker, with its port."""
        program, port = self._gunicorn(
            "streamer.log", "streamer", "--config", f"python:{config}", "--threads", "16"
        )
        program.wait_for("Listening to the queue")
        return program, port

    def start_worker(self, module: str) -> Process:
        """Start a module that listens to the broker; return when it does."""
        program = self._start("worker.log", self.app, ["-m", module])
        program.wait_for("Listening to the queue")
        return program

    def _gunicorn(self, log: str, app: str, *options: str) -> tuple[Process, int]:
        port = self.ends.enter_context(kept_port())
        return self._start(log, app, processes.gunicorn(port, *options)), port

    def _start(self, log: str, app: str, words: Sequence[str]) -> Process:
        variables = processes.named(app, self.variables)
        program = Process(self.folder / log, words, variables, before=self.command)
        self.ends.callback(program.stop)
        return program

    def execute(self, sql: str) -> list[tuple[object, ...]]:
        """Run a statement where the app finds its database."""
        engine = create_engine(self.url, poolclass=NullPool)
        with engine.begin() as connection:
            result = connection.execute(text(sql))
            return [tuple(row) for row in result] if result.returns_rows else []


@dataclass(kw_only=True)
class Stack(Programs):
    """An app on PostgreSQL, with the proxy between them."""

    postgres: PrivatePostgres
    proxy: FaultProxy


@contextmanager
def stack(app: str, *, patience: float = 5, grace: float = 10) -> Iterator[Stack]:
    """Start PostgreSQL and the proxy, and make the tables; in the end, stop all that runs."""
    with ending() as (folder, ends):
        port = ends.enter_context(kept_port())
        server = PrivatePostgres(folder / "postgres", port, settings=SERVER)
        postgres = ends.enter_context(server)
        proxy = FaultProxy(port_of(make_url(postgres.url())))
        ends.callback(proxy.close)
        make_tables(postgres.url())
        url = proxy.url(postgres.url())
        yield Stack(folder, app, url, ends, patience, grace, postgres=postgres, proxy=proxy)


@contextmanager
def ending() -> Iterator[tuple[Path, ExitStack]]:
    """Give a folder, and what ends all that runs in it."""
    with ExitStack() as ends:
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="drill-")))
        yield folder, ends


def make_tables(url: str) -> None:
    """Migrate the database, and leave no pool behind that would look for it."""
    settings = {"sqlalchemy.url": url}
    upgrade(settings)
    dispose_engine(settings)


def port_of(url: URL) -> int:
    """Give the port of a server's URL."""
    assert url.port is not None
    return url.port


def answers(port: int, path: str) -> bool:
    """Tell whether a GET is answered with 200."""
    with suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        finally:
            connection.close()
    return False
