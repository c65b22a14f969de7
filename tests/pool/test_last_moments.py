"""Threads of ours that have run their last line of Python, and are not gone: drivers' libraries
clean up after them, under locks that a child would wait for as if they were its own."""

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pyramid_dbpool.pool.fork_gate import opening
from pyramid_dbpool.pool.housekeeper import housekeeper, start_thread
from tests.support.makers import PATIENCE

LIBC = ctypes.CDLL(None)
# In millionths of a second: longer than Python needs from a thread's last line to its end.
LONG = 200_000


@pytest.fixture
def linger() -> Iterator[Callable[[], int]]:
    """What has its thread take a while to go, as OpenSSL's does, and returns its number."""
    key = ctypes.c_uint()
    assert LIBC.pthread_key_create(ctypes.byref(key), LIBC.usleep) == 0

    def set_up() -> int:
        assert LIBC.pthread_setspecific(key, ctypes.c_void_p(LONG)) == 0
        return threading.get_native_id()

    yield set_up
    LIBC.pthread_key_delete(key)


class Noted:
    """What a thread does: it lingers, and says its number."""

    def __init__(self, linger: Callable[[], int]) -> None:
        self._linger, self._done = linger, threading.Event()
        self._number = 0

    def run(self) -> None:
        self._number = self._linger()
        self._done.set()

    def run_and_open(self) -> None:
        """Open a connection, and do nothing for a while: a fork need not wait for the end."""
        with opening():
            self.run()

    def is_there(self) -> bool:
        """Tell whether the thread is there when a fork that comes now is over."""
        assert self._done.wait(PATIENCE)
        child = os.fork()
        there = os.path.exists(f"/proc/self/task/{self._number}")
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        return there


def test_a_fork_waits_until_a_thread_that_ends_is_gone(linger: Callable[[], int]) -> None:
    """As one that has looked at the server."""
    noted = Noted(linger)
    start_thread("dbpool-upkeep", noted.run)
    assert not noted.is_there()


def test_a_fork_waits_until_one_that_has_opened_something_is_gone(
    linger: Callable[[], int],
) -> None:
    """It is about to end, and has not said so."""
    noted = Noted(linger)
    start_thread("dbpool-opener", noted.run_and_open)
    assert not noted.is_there()


def test_a_fork_waits_until_the_housekeeper_is_gone(linger: Callable[[], int]) -> None:
    """Which ends for it."""
    noted = Noted(linger)
    housekeeper().call_at(time.monotonic(), noted.run)
    assert not noted.is_there()
