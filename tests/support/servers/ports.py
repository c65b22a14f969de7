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
    # Not before: two keepers could have the same port.
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
    # Else Python closes it, and somebody else may take it.
    atexit.register(keeper.close)
    return int(keeper.getsockname()[1])
