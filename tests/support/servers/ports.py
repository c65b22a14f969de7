"""Ports of this machine that nobody else gets: for those who listen later, or for nobody."""

import atexit
import socket
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["deaf_port", "keep_port", "kept_port"]


def keep_port() -> socket.socket:
    """Bind a free port at 127.0.0.1 and return the socket that keeps it until it is closed.

    Servers that set SO_REUSEADDR, as they do, can listen there, as often as they like. Until
    then, and in between, clients are refused, and no other program of this machine, such as
    another run of the tests, gets the port.
    """
    keeper = _bound()
    # After the port was given: two keepers that allow reuse could be given the same one.
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return keeper


def _bound() -> socket.socket:
    keeper = socket.socket()
    keeper.bind(("127.0.0.1", 0))
    return keeper


@contextmanager
def kept_port() -> Iterator[int]:
    """Keep a port during a `with`, and give its number."""
    with keep_port() as keeper:
        yield keeper.getsockname()[1]


def deaf_port() -> int:
    """Give a port at which nobody listens, and nobody will until the program ends."""
    keeper = _bound()
    # Keeps it from being closed: somebody else could take the port then.
    atexit.register(keeper.close)
    return int(keeper.getsockname()[1])
