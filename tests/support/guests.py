"""What other people's tests put in the place of the clock and of sockets."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

import httpretty
import pytest_socket
import time_machine
from freezegun import freeze_time

Guest = Callable[[], AbstractContextManager[Any]]

CLOCKS: Mapping[str, Guest] = {
    "long-ago": lambda: freeze_time("2012-01-14"),
    "far-ahead": lambda: freeze_time("2112-01-14"),
    "ticking": lambda: freeze_time("2012-01-14", tick=True),
    "time-machine": lambda: time_machine.travel("2012-01-14", tick=False),
    "monotonic": lambda: mock.patch("time.monotonic", return_value=0.0),
    "sleep": lambda: mock.patch("time.sleep", side_effect=AssertionError),
}


@contextmanager
def no_sockets() -> Iterator[None]:
    """Refuse every socket of Python's, as pytest-socket does for a test."""
    pytest_socket.disable_socket()
    try:
        yield
    finally:
        pytest_socket.enable_socket()


SOCKETS: Mapping[str, Guest] = {
    "httpretty": lambda: httpretty.enabled(allow_net_connect=True),
    "httpretty-alone": lambda: httpretty.enabled(allow_net_connect=False),
    "pytest-socket": no_sockets,
    "mock": lambda: mock.patch("socket.socket"),
}
