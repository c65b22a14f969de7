"""A server's process: start on a free port, wait until it answers, stop."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pyramid_dbpool.embedded import lifeline
from tests.support.servers.ports import keep_port


class ServerMissing(Exception):
    """A server cannot be had on this machine; says why."""


class ServerProcess:
    """A private server in a folder; a subclass says how to set it up and what it runs."""

    name: ClassVar[str]
    stop_signal = signal.SIGTERM
    leave_root = False
    start_timeout = 100.0

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "server.log"
        self.port = self.new_port()
        self.process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        state = f"at {self.port}" if self.running else "stopped"
        return f"<{self.name} {state}>"

    def new_port(self) -> int:
        """Give a port that is this server's, also while it is stopped."""
        keeper = keep_port()
        weakref.finalize(self, keeper.close)
        return int(keeper.getsockname()[1])

    def prepare(self) -> None:
        """Set the server's folder up, once."""

    def command(self) -> Sequence[str | Path]:
        """Give the command that runs the server in the foreground."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """Give what the server's environment has beside this process's."""
        return {}

    def answers(self) -> bool:
        """Tell whether the server answers its clients."""
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            return True
        return False

    @property
    def running(self) -> bool:
        """Tell whether the server's process runs."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        if self.running:
            return
        if not self.folder.exists():
            self.folder.mkdir(parents=True)
            self.prepare()
        if not self._starts():
            raise RuntimeError(f"{self.name} did not start:\n{self.log.read_text()[-2000:]}")

    def stop(self) -> None:
        """Stop the server in order; after 20 seconds, kill it."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """Kill the server, as a crash of its machine would."""
        self._end(signal.SIGKILL)

    def _starts(self) -> bool:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                lifeline(self.command(), leave_root=self.leave_root, death=signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment()},
                start_new_session=True,
            )
        deadline = time.monotonic() + self.start_timeout
        while self.running and time.monotonic() < deadline:
            if self.answers():
                return True
            time.sleep(0.02)
        self.kill()
        return False

    def _end(self, number: signal.Signals) -> None:
        if self.process is None:
            return
        for each in (number, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, each)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
                break
        # What the server started itself must not outlive it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process = None


def find_program(*names: str) -> Path:
    """Find a program on PATH or where Debian keeps servers.

    Raises ServerMissing when there is none.
    """
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/lib/rabbitmq/bin"])
    for name in names:
        found = shutil.which(name, path=path)
        if found:
            return Path(found)
    raise ServerMissing(f"no program {' or '.join(names)} on this machine")


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder with all that is in it; Python's own way takes three times as long."""
    run("cp", "-a", source, target)


def run(*command: str | Path) -> str:
    """Run a program to its end and give what it printed."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout[-2000:]}")
    return done.stdout
