"""What one checkout and return cost."""

import time
from collections.abc import Sequence
from contextlib import ExitStack, closing

from tests.conformance.stub import StubServer

from .model import Figure, Run, Samples, at_most, measuring, median, quotient
from .peers import BARE, PLUGIN, PSYCOPG, QUEUE, Peer, Shape, make, make_managed

__all__ = ["checkout", "interleaved", "liveness"]

SLICES = 50
"""Turns that each pool has in a round."""


def interleaved(peers: Sequence[Peer], rounds: int, count: int) -> dict[str, float | None]:
    """Return each pool's median over `rounds` of the microseconds for one checkout and return.

    In a round every pool does `SLICES` slices of `count` checkouts in turn with the
    others, so that whatever else the machine does falls on all of them; the median
    slice stands for the round.
    """
    samples = Samples()
    for peer in peers:
        peer.warm(1)
        peer.loop(count)
    for turn in range(rounds):
        start = turn % len(peers)
        order = [*peers[start:], *peers[:start]]
        slices: dict[str, list[float]] = {peer.name: [] for peer in peers}
        with measuring():
            for _ in range(SLICES):
                for peer in order:
                    slices[peer.name].append(seconds_for(peer, count) / count * 1e6)
        for name, values in slices.items():
            samples.add(name, median(values))
    return samples.medians()


def seconds_for(peer: Peer, count: int) -> float:
    """Time so many checkouts and returns."""
    started = time.perf_counter()
    peer.loop(count)
    return time.perf_counter() - started


def checkout(run: Run) -> list[Figure]:
    """Measure one thread on the stub, connections warm."""
    server = StubServer()
    with ExitStack() as stack:
        peers = [make(name, server, Shape()) for name in (QUEUE, PSYCOPG, BARE, PLUGIN)]
        for peer in peers:
            stack.callback(peer.close)
        values = interleaved(peers, run.choose(9, 3), run.choose(400, 100))
    ratio = quotient(values, PLUGIN, QUEUE)
    return [
        Figure(
            "pool.connect() + close(), one thread",
            "µs",
            values,
            "plugin ≤ 0.7 x QueuePool",
            at_most(ratio, 0.7),
            ratio,
        )
    ]


def liveness(run: Run) -> list[Figure]:
    """Measure what looking at the socket adds to a checkout."""
    server = StubServer()
    off = make_named("look off", server, liveness=False)
    on = make_named("look on", server, liveness=True)
    with closing(off), closing(on):
        values = interleaved([off, on], run.choose(9, 3), run.choose(400, 100))
    before, after = values["look off"], values["look on"]
    cost = None if before is None or after is None else after - before
    return [
        Figure(
            "is the connection alive, for one checkout",
            "µs",
            {**values, "the look": cost},
            "≤ 3 µs",
            at_most(cost, 3.0),
        )
    ]


def make_named(name: str, server: StubServer, liveness: bool) -> Peer:
    """Make a bare ManagedPool that looks at sockets or does not."""
    return make_managed(server, Shape(), name, liveness=liveness)
