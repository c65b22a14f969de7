"""A program at a terminal of the test's own: what it writes, the keys, the size, the end."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from typing import Any

from tests.support.makers import wait_for

__all__ = ["Terminal"]

# Makes the terminal the one that Ctrl-C comes from.
_OWN = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    " os.execv(sys.argv[1], sys.argv[1:])"
)
_CONTROL = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|[=>]|\(B)")


class Terminal:
    """Runs a program of Python's at a terminal; used as a context manager."""

    def __init__(
        self, *args: str, columns: int = 80, lines: int = 24, env: Mapping[str, str] = {}
    ) -> None:
        self._near, self._far = pty.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self._far)
        self.written = ""
        environ = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
        environ |= {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        environ |= {"TERM": "xterm-256color", **env}
        self.program = subprocess.Popen(
            [sys.executable, "-c", _OWN, sys.executable, *args],
            stdin=self._far,
            stdout=self._far,
            stderr=self._far,
            env=environ,
            start_new_session=True,
        )

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.program.kill()
        self.program.wait()
        os.close(self._near)
        os.close(self._far)

    def resize(self, columns: int, lines: int) -> None:
        """Give the terminal another size."""
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self._near, termios.TIOCSWINSZ, size)

    def press(self, keys: str) -> None:
        """Press some keys."""
        os.write(self._near, keys.encode())

    def shows(self, text: str) -> str:
        """Wait until a text is written after what was seen so far; return all up to then."""

        def has_come() -> bool:
            self._read()
            # Wherever a line ends.
            return text in " ".join(_CONTROL.sub("", self.written).split())

        wait_for(has_come)
        seen, self.written = self.written, ""
        return seen

    def ends(self) -> int:
        """Wait until the program has ended; return its exit code."""

        def has_ended() -> bool:
            self._read()
            return self.program.poll() is not None

        wait_for(has_ended)
        self._read()
        return int(self.program.returncode)

    def settings(self) -> list[Any]:
        """Return how the terminal is set now."""
        return termios.tcgetattr(self._far)

    def _read(self) -> None:
        while select.select([self._near], [], [], 0)[0]:
            self.written += os.read(self._near, 65536).decode()
