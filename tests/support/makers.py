"""Connections for pools that need no database, and who makes them."""

import gc
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

PATIENCE = 30.0


class Connection:
    """The least that a pool needs, with a real socket."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()
        self.closed = 0

    def fileno(self) -> int:
        """Return the descriptor of our end."""
        return self.near.fileno()

    def rollback(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Close both ends."""
        self.closed += 1
        self.near.close()
        self.far.close()


class Maker:
    """Makes connections and remembers them."""

    def __init__(self) -> None:
        self.made: list[Connection] = []
        self.error: Exception | None = None
        self.before: Callable[[], object] = lambda: None
        self._over = False

    def __call__(self) -> Connection:
        self.before()
        if self.error is not None:
            raise self.error
        made = Connection()
        self.made.append(made)
        if self._over:
            # Opened in the background, by a pool that its test has forgotten.
            made.close()
        return made

    def forget(self) -> None:
        """Close what was made, and forget it."""
        for connection in self.made:
            if not connection.closed:
                connection.close()
        self.made.clear()

    def end(self) -> None:
        """Close what was made, and what is made from now on."""
        self._over = True
        self.forget()


@pytest.fixture
def maker() -> Iterator[Maker]:
    """Yield a creator, and close what it made."""
    made = Maker()
    yield made
    made.end()


def in_thread(run: Callable[[], object]) -> threading.Thread:
    """Start a thread."""
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def wait_for(condition: Callable[[], object]) -> None:
    """Return when the condition holds, which a busy machine may take its time for."""
    until, pause = time.monotonic() + PATIENCE, threading.Event()
    while not condition():
        assert time.monotonic() < until, "not in time"
        pause.wait(0.002)


def wait_until_gone(known: weakref.ref[Any]) -> None:
    """Return when nothing keeps an object alive: a thread about to end may do so for a moment."""

    def has_gone() -> bool:
        gc.collect()
        return known() is None

    wait_for(has_gone)
