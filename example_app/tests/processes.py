"""Programs of the example, run as their users run them."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from simple_websocket import Client
from webtest import TestApp

from pyramid_dbpool.embedded import lifeline

INIS = Path(__file__).parents[1]


# The ini files that the programs run with: files and threads, RabbitMQ and gevent.
BOTH = pytest.mark.parametrize("environment", ["development", "production"])

StartProgram = Callable[[], "Program"]

# Seconds for what has to happen at some time, also on a machine that has much else to do.
PATIENCE = 60.0


class Program:
    """A running program and the lines that it prints."""

    def __init__(self, *command: str, keys: bool = False) -> None:
        self.process = subprocess.Popen(
            lifeline([sys.executable, *command], death=signal.SIGKILL),
            stdin=subprocess.PIPE if keys else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: deque[str] = deque()
        self._news: SimpleQueue[str | None] = SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self._news.put(line.rstrip())
        self._news.put(None)

    def type(self, line: str) -> None:
        """Type a line, as at its terminal."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    @property
    def output(self) -> str:
        """Everything that was read so far."""
        return "\n".join(self.lines)

    def wait_for(self, words: str, seconds: float = PATIENCE) -> str:
        """Give the next line with these words."""
        end = monotonic() + seconds
        while True:
            try:
                line = self._news.get(timeout=max(0, end - monotonic()))
            except Empty:
                raise AssertionError(f"no {words!r} after {seconds} s in\n{self.output}") from None
            if line is None:
                raise AssertionError(f"it ended without {words!r}:\n{self.output}")
            self.lines.append(line)
            if words in line:
                return line

    def end(self, number: signal.Signals | None = None, seconds: float = PATIENCE) -> int:
        """Send a signal, wait for the end, give the exit code."""
        if number is not None:
            self.process.send_signal(number)
        code = self.process.wait(seconds)
        self._close()
        while (line := self._news.get()) is not None:
            self.lines.append(line)
        return code

    def kill(self) -> None:
        """End it and what it started, whatever state they are in."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._close()

    def _close(self) -> None:
        self._reader.join()
        if self.process.stdin is not None:
            self.process.stdin.close()


def write(app: TestApp, words: str) -> str:
    """Write a note and give its id."""
    note = str(uuid4())
    app.put_json(f"/api/notes/{note}", {"text": words})
    return note


def write_ini(folder: Path, name: str, settings: dict[str, Any]) -> Path:
    """Write one of the app's ini files with other values, where it has these keys."""
    text = (INIS / name).read_text()
    address = settings.get("streamer.address" if "streamer" in name else "streamer.origins", "")
    bind = urlsplit(address).netloc
    own = {"bind": bind, "listen": bind, "dbpool.run_dir": str(folder / "run")}
    for key, value in {**settings, **own}.items():
        # The first line with the key is that of [app:main] or [server:main].
        line = f"{key} = {value.replace('%', '%%')}\n"
        text = re.sub(rf"(?m)^{re.escape(key)} = .*\n", lambda _: line, text, count=1)  # noqa: B023
    path = folder / name
    path.write_text(text)
    return path


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something that another thread or program brings about."""
    end = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < end, "it does not happen"
        sleep(0.01)


def programs_with(words: str) -> dict[int, str]:
    """Give the running programs with these words in their command, by process id."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (
                (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
            dead = b") Z " in (entry / "stat").read_bytes()
        except OSError:
            continue
        if words in command and not dead:
            found[int(entry.name)] = command
    return found


def connect_socket(settings: dict[str, Any]) -> Client:
    """Open a websocket, as the page does."""
    headers = {"Origin": settings["streamer.origins"]}
    return Client.connect(settings["streamer.address"], headers=headers)
