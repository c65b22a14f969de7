"""The private server: start, stop, crash, restart; and a free port."""

import atexit
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile

# Test tools replace `socket.socket`, to keep an app from the network.
from _socket import socket as Socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote, urlencode

from ..clock import monotonic, sleep
from .cluster import USER, Cluster, EmbeddedServerError, environment, tail
from .lifeline import lifeline

__all__ = ["PrivatePostgres", "free_port"]

STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}

# The kernel keeps a socket's path in 108 bytes, the closing NUL included.
SOCKET_PATH_LIMIT = 107

PORT_TAKEN = "could not bind IPv4 address"
# The backends of a crashed server need a moment to notice that it has gone.
STILL_ENDING = "pre-existing shared memory block"


class PrivatePostgres:
    """A PostgreSQL cluster in a folder, and the server that serves it.

    `folder` is made when missing; the cluster in it is made once and kept. `port`
    is a free one unless given. The server asks for a password (SCRAM), for everybody
    on the machine can reach it: `password`, or one drawn at random, which is in a file
    of the folder that only its owner may read. `ssl` serves TLS with a certificate that
    it signs itself. `settings` are lines of postgresql.conf, such as
    `{"max_connections": 20}`. `programs` is the folder of initdb and postgres.
    `timeout` bounds, in seconds, each start and each stop.

    Start it in a thread that lives as long as the server should: on Linux the
    server stops when that thread ends, however it ends.

    :raises EmbeddedServerError: anything about the server fails.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        port: int | None = None,
        *,
        password: str | None = None,
        ssl: bool = False,
        settings: Mapping[str, object] | None = None,
        programs: str | os.PathLike[str] | None = None,
        timeout: float = 30.0,
    ) -> None:
        self.folder = Path(folder).absolute()
        self.port = port
        self.password = password
        self.ssl = ssl
        self.settings = dict(settings or {})
        self.timeout = timeout
        self.log = self.folder / "postgres.log"
        self.socket_folder: Path | None = None
        self._cluster = Cluster(self.folder, Path(programs) if programs else None)
        # Clients know it: given by the caller, or by a start that succeeded.
        self._port_is_known = port is not None
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()

    def __repr__(self) -> str:
        state = f"running at {self.port}" if self.running else "stopped"
        return f"<PrivatePostgres {str(self.folder)!r} {state}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Tell whether the server runs and was started by this process."""
        return self._running() is not None

    @property
    def pid(self) -> int | None:
        """Give the process id of the running server, or None."""
        process = self._running()
        return process.pid if process else None

    @property
    def version(self) -> str:
        """Give the version of the server's programs, such as "18.6"."""
        return self._cluster.version

    @property
    def programs(self) -> Path:
        """Give the folder of the server's programs."""
        return self._cluster.programs

    def url(self, driver: str = "psycopg", database: str = "postgres") -> str:
        """Give the SQLAlchemy URL of a database; `driver` is psycopg or psycopg2.

        Unless the caller has chosen the password, it names the file that has it, so that the URL
        may be shown, and stand on a command line.

        :raises EmbeddedServerError: before the first start, if no port was given.
        """
        if self.port is None:
            raise EmbeddedServerError(f"{self!r} has no port before its first start")
        secret = f":{quote(self.password, safe='')}" if self.password else ""
        place = f"{USER}{secret}@127.0.0.1:{self.port}/{quote(database, safe='')}"
        query = {} if secret else {"passfile": str(self._cluster.password_file)}
        query |= {"sslmode": "require"} if self.ssl else {}
        return f"postgresql+{driver}://{place}" + (
            f"?{urlencode(query, safe='/')}" if query else ""
        )

    def start(self) -> None:
        """Make the cluster if there is none, start the server and wait until it answers."""
        if self.running:
            return
        self._owner = os.getpid()
        self._cluster.make(self.password)
        self._cluster.clear_stale_lock()
        if self.password is None:
            self._cluster.secure()
        if self.ssl:
            self._cluster.make_certificate()
        self.socket_folder = _socket_folder(self.folder)
        # Also where the kernel knows no death signal, nothing is left behind.
        atexit.register(self.stop)
        deadline = monotonic() + self.timeout
        while not self._start_once(deadline):
            sleep(0.05)
        self._port_is_known = True

    def stop(self, mode: str = "fast") -> None:
        """Stop the server: "smart" waits for clients, "fast" ends them, "immediate" crashes.

        A server that does not stop in time is stopped the next harder way. Does
        nothing in a forked child, and nothing when the server does not run.
        """
        if mode not in STOP_SIGNALS:
            raise ValueError(f"mode {mode!r} is none of {', '.join(STOP_SIGNALS)}")
        modes = list(STOP_SIGNALS)
        for harder in modes[modes.index(mode) :]:
            process = self._running()
            if process is not None:
                process.send_signal(STOP_SIGNALS[harder])
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(self.timeout)
        self.kill()

    def kill(self) -> None:
        """End the server and its backends at once with SIGKILL, as a machine's crash would."""
        process = self._running()
        if process is not None:
            # Backends that outlive the server would keep its shared memory.
            for pid in [process.pid, *_children(process.pid)]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
        if os.getpid() == self._owner:
            self._process = None
            self._forget_sockets()
            atexit.unregister(self.stop)

    def restart(self, mode: str = "fast") -> None:
        """Stop the server and start it again at the same port."""
        self.stop(mode)
        self.start()

    def _running(self) -> "subprocess.Popen[bytes] | None":
        # A forked child must neither stop nor wait for its parent's server.
        mine = self._process is not None and os.getpid() == self._owner
        return self._process if mine and self._process and self._process.poll() is None else None

    def _start_once(self, deadline: float) -> bool:
        if not self._port_is_known:
            self.port = free_port()
        # Statements that failed are in it.
        self.log.touch(mode=0o600)
        position = self.log.stat().st_size
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                lifeline(self._command(), leave_root=True),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
                # A Ctrl-C in the terminal is for the program that runs the server.
                start_new_session=True,
            )
        if self._wait_until_ready(deadline):
            return True
        written = self.log.read_bytes()[position:].decode(errors="replace")
        passing = STILL_ENDING in written or (PORT_TAKEN in written and not self._port_is_known)
        if self.running or not passing or monotonic() > deadline:
            self.kill()
            raise EmbeddedServerError(
                f"PostgreSQL did not start in {self.folder}:\n{tail(written)}"
            )
        return False

    def _wait_until_ready(self, deadline: float) -> bool:
        while self.running and monotonic() < deadline:
            if self._is_ready():
                return True
            sleep(0.02)
        return False

    def _is_ready(self) -> bool:
        try:
            lines = (self._cluster.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].startswith("ready")

    def _command(self) -> Iterator[str | Path]:
        yield from (self.programs / "postgres", "-D", self._cluster.data)
        ours = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.socket_folder or "",
            "ssl": "on" if self.ssl else "off",
        }
        for key, value in {**self.settings, **ours}.items():
            yield from ("-c", f"{key}={value}")

    def _forget_sockets(self) -> None:
        if self.socket_folder:
            shutil.rmtree(self.socket_folder, ignore_errors=True)
        self.socket_folder = None


def free_port() -> int:
    """Choose a TCP port that nobody listens on at 127.0.0.1.

    It lies below the range from which systems take the ports of outgoing
    connections, so that no client takes it while a server restarts. Somebody may
    still take it first: whoever listens on it tries again with another one.

    :raises OSError: there is none.
    """
    for _ in range(200):
        port = random.SystemRandom().randrange(15_000, 32_000)
        with contextlib.closing(Socket()) as probe:
            # Without it, connections that a stopped server has closed block its port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free TCP port between 15000 and 32000 at 127.0.0.1")


def _socket_folder(folder: Path) -> Path | None:
    """Make a private folder for Unix sockets, or give None where every path is too long."""
    run = folder / "run"
    if _fits(run):
        run.mkdir(mode=0o700, exist_ok=True)
        return run
    short = Path(tempfile.mkdtemp(prefix="pg-"))
    if _fits(short):
        return short
    short.rmdir()
    return None


def _fits(folder: Path) -> bool:
    return len(os.fsencode(folder / ".s.PGSQL.65535.lock")) <= SOCKET_PATH_LIMIT


def _children(pid: int) -> list[int]:
    try:
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [int(word) for word in words]
