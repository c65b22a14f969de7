"""Checkout and return on a real PostgreSQL, over the loopback interface."""

import tempfile
from contextlib import ExitStack
from typing import Any

from psycopg_pool import ConnectionPool
from sqlalchemy import create_engine, make_url
from sqlalchemy.pool import QueuePool

from pyramid_dbpool.embedded import PrivatePostgres

from .checkout import interleaved
from .model import Figure, Run, at_most, quotient
from .peers import PLUGIN, QUEUE, Peer, Shape, managed_arguments, psycopg_peer, sqlalchemy_peer

__all__ = ["loopback"]

PRE_PING = "QueuePool, pre-ping"


def peer_on(url: str, name: str, **arguments: Any) -> Peer:
    """Make an engine's pool, past SQLAlchemy's first look at the server."""
    engine = create_engine(url, **arguments)
    with engine.connect():
        pass
    return sqlalchemy_peer(name, engine)


def psycopg_on(url: str) -> Peer:
    """Make psycopg_pool's pool on the same server."""
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg_peer(ConnectionPool(plain, min_size=Shape().size, open=True))


def loopback(run: Run) -> list[Figure]:
    """Measure one thread against the peers, and against pre-ping, the usual safeguard."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        url = stack.enter_context(PrivatePostgres(folder)).url()
        peers = [
            peer_on(url, PRE_PING, poolclass=QueuePool, pool_pre_ping=True),
            peer_on(url, QUEUE, poolclass=QueuePool),
            psycopg_on(url),
            peer_on(url, PLUGIN, **managed_arguments(Shape(), PLUGIN)),
        ]
        for peer in peers:
            stack.callback(peer.close)
        values = interleaved(peers, run.choose(9, 3), run.choose(40, 10))
    what = "pool.connect() + close(), PostgreSQL on loopback"
    return [
        judged(what, values, QUEUE, 0.7),
        judged(f"{what}, against pre-ping", values, PRE_PING, 0.1),
    ]


def judged(what: str, values: dict[str, float | None], peer: str, limit: float) -> Figure:
    """Judge the plugin's time against a peer's."""
    ratio = quotient(values, PLUGIN, peer)
    target = f"plugin ≤ {limit:g} x {peer}"
    return Figure(what, "µs", values, target, at_most(ratio, limit), ratio)
