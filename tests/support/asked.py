"""Processes that answer in a folder, for tests of what asks them."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyramid_dbpool.telemetry.host import Answer, ask

__all__ = ["Asked", "asked", "said_to"]

# Makes the engine, does what it is told, and lives until its input ends.
PROGRAM = """
import os, sys
from pyramid_dbpool import get_engine
settings = {"sqlalchemy.url": f"sqlite:///{sys.argv[1]}.db", "dbpool.run_dir": sys.argv[1]}
engine = get_engine(settings)
if len(sys.argv) > 2:
    exec(sys.argv[2])
print("ready", flush=True)
sys.stdin.read()
"""


class Asked:
    """A process that answers in a folder."""

    def __init__(self, run_dir: Path, does: str = "", *options: str) -> None:
        self.run_dir = run_dir
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", *options, "-c", PROGRAM, str(run_dir), does],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self.process.pid
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", self.ended()

    @property
    def socket(self) -> Path:
        """Where it answers."""
        return self.run_dir / f"{self.pid}.sock"

    def answer(self) -> Answer | None:
        """Ask all that are there, and return what this one says."""
        return next((each for each in ask(str(self.run_dir)) if each.pid == self.pid), None)

    def ended(self) -> str:
        """Let it end, and return what it has written as an error."""
        _out, said = self.process.communicate(timeout=60)
        return said


@contextmanager
def asked(run_dir: Path, does: str = "", *options: str) -> Iterator[Asked]:
    """Run a process that answers; end it."""
    made = Asked(run_dir, does, *options)
    try:
        yield made
    finally:
        # With its children, which have its pipes.
        with suppress(ProcessLookupError):
            os.killpg(made.pid, signal.SIGKILL)
        made.process.communicate()


def said_to(place: Path, sent: bytes, *, patience: float = 30.0) -> bytes:
    """Send bytes to a socket, and return all that is answered."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(patience)
        asking.connect(str(place))
        asking.sendall(sent)
        found = b""
        while True:
            try:
                said = asking.recv(65536)
            except ConnectionResetError:
                # What it has sent was not read to its end.
                return found
            if not said:
                return found
            found += said
