"""The keys that are pressed at a terminal, and the terminal as it was before."""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

__all__ = ["Keys", "StopKey", "ends_cleanly", "keys"]

# What terminals send for keys that are no letters.
_SEQUENCES = {
    b"\x1b[A": "up",
    b"\x1bOA": "up",
    b"\x1b[B": "down",
    b"\x1bOB": "down",
    b"\x1b[5~": "page up",
    b"\x1b[6~": "page down",
}
_KEY = re.compile(rb"\x1b(?:\[[0-9;?]*[@-~]|O.|[^\x1b])?|[^\x1b]", re.DOTALL)
# Bytes that are read at once: more than anybody types.
_AT_ONCE = 64


class Keys:
    """Hands out the keys that were pressed, one by one and unseen, from `take` to `give_back`.

    :param descriptor: of the terminal; None if there is none, and no key ever comes.
    """

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._before = None if descriptor is None else termios.tcgetattr(descriptor)

    def take(self) -> None:
        """Let keys come without Enter; Ctrl-C and Ctrl-Z do what they do."""
        if self._descriptor is not None:
            # What was typed while this began is meant, too.
            tty.setcbreak(self._descriptor, termios.TCSADRAIN)

    def give_back(self) -> None:
        """Leave the terminal as it was."""
        if self._descriptor is not None and self._before is not None:
            # It may be closed, and then nobody misses it.
            with suppress(termios.error):
                termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)

    def wait(self, seconds: float, pause: Callable[[float], object]) -> list[str]:
        """Return the keys that were pressed, as soon as there are any.

        :param pause: waits for so many seconds where there is no terminal to wait for.
        :raises EOFError: the terminal is gone.
        """
        if self._descriptor is None:
            pause(seconds)
            return []
        if not select.select([self._descriptor], [], [], seconds)[0]:
            return []
        try:
            read = os.read(self._descriptor, _AT_ONCE)
        except OSError:
            read = b""
        if not read:
            # It would be ready for ever.
            raise EOFError
        return _named(read)


def _named(read: bytes) -> list[str]:
    """Take what was read apart: a key that is not known is none, whatever letters it sends."""
    pressed = _KEY.findall(read)
    return [
        _SEQUENCES.get(each, "") if each.startswith(b"\x1b") else chr(each[0]) for each in pressed
    ]


@contextmanager
def keys() -> Iterator[Keys]:
    """Let single keys come without Enter, and unseen, until the end."""
    there = sys.stdin is not None and sys.stdin.isatty()
    found = Keys(sys.stdin.fileno() if there else None)
    try:
        found.take()
        yield found
    finally:
        found.give_back()


@contextmanager
def ends_cleanly() -> Iterator[None]:
    """Have `kill` and a terminal that is closed end what is inside as Ctrl-C does."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before: dict[int, Any] = {}
    try:
        for number in (int(signal.SIGTERM), int(signal.SIGHUP)):
            before[number] = signal.signal(number, end)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopKey:
    """Ctrl-Z, which would leave a terminal as we have made it: the stop waits for `stop`.

    Used as a context manager.
    """

    def __init__(self) -> None:
        self.pressed = False
        self._before: Any = None

    def __enter__(self) -> StopKey:
        self._before = signal.signal(signal.SIGTSTP, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTSTP, self._before)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.pressed = True

    def stop(self) -> None:
        """Stop this process, and return when it goes on."""
        self.pressed = False
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        try:
            os.kill(os.getpid(), signal.SIGTSTP)
        finally:
            signal.signal(signal.SIGTSTP, self._note)
