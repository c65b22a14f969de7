"""Checkout and return on a real PostgreSQL, over the loopback interface."""

import tempfile
from contextlib import ExitStack
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.pool import QueuePool

from pyramid_dbpool.embedded import PrivatePostgres

from .checkout import interleaved
from .model import Figure, Run, at_most, quotient
from .peers import PLUGIN, QUEUE, Peer, Shape, managed_arguments, sqlalchemy_peer

__all__ = ["loopback"]

PRE_PING = "QueuePool, pre-ping"


def peer_on(url: str, name: str, **arguments: Any) -> Peer:
    """Make an engine's pool, past SQLAlchemy's first look at the server."""
    engine = create_engine(url, **arguments)
    with engine.connect():
        pass
    return sqlalchemy_peer(name, engine)


def loopback(run: Run) -> list[Figure]:
    """Measure one thread against QueuePool with pre-ping, the usual safeguard."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        url = stack.enter_context(PrivatePostgres(folder)).url()
        peers = [
            peer_on(url, PRE_PING, poolclass=QueuePool, pool_pre_ping=True),
            peer_on(url, QUEUE, poolclass=QueuePool),
            peer_on(url, PLUGIN, **managed_arguments(Shape(), PLUGIN)),
        ]
        for peer in peers:
            stack.callback(peer.close)
        values = interleaved(peers, run.choose(9, 3), run.choose(40, 10))
    ratio = quotient(values, PLUGIN, PRE_PING)
    return [
        Figure(
            "pool.connect() + close(), PostgreSQL on loopback",
            "µs",
            values,
            "plugin ≤ 0.35 x QueuePool with pre-ping",
            at_most(ratio, 0.35),
            ratio,
        )
    ]
