"""A call on a connection that cannot hang."""

import socket
import time

from pyramid_dbpool.pool.health import limited
from pyramid_dbpool.pool.housekeeper import housekeeper


def test_call_on_the_network_is_bounded() -> None:
    """A ping that gets no answer ends with its limit."""
    near, far = socket.socketpair()
    with limited(near.fileno(), 0.05, housekeeper(), time.monotonic) as was_cut:
        assert near.recv(1) == b""
    assert was_cut()
    near.close()
    far.close()
