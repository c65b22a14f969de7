"""Waves, spikes and cold starts."""

import dataclasses
import threading
import time
from dataclasses import dataclass

from tests.conformance.stub import StubServer

from .model import Figure, Run, Samples, at_most, measuring, median, percentile, quotient
from .peers import PLUGIN, PSYCOPG, QUEUE, Peer, Shape, make

__all__ = ["cold_start", "long_spike", "short_spike", "waves"]

NAMES = (PLUGIN, PSYCOPG, QUEUE)
CONNECT = 0.15
"""Seconds that a connect takes in a spike."""
SPIKE = 50
"""Callers that come together in a spike."""


@dataclass(frozen=True)
class Burst:
    """What one burst of callers saw."""

    waits: list[float]
    """Seconds until each caller had its connection."""
    units: list[float]
    """Seconds from each caller's question to the end of its unit."""
    seconds: float
    connects: int
    open_before: int
    """Connections that were open when the first burst began."""


def burst(peer: Peer, server: StubServer, callers: int, hold: float, waves: int = 1) -> Burst:
    """Let so many callers do one unit each, all starting together, wave after wave."""
    waits: list[float] = []
    units: list[float] = []
    barrier = threading.Barrier(callers + 1)

    def caller() -> None:
        for _ in range(waves):
            barrier.wait()
            asked = time.perf_counter()
            lease = peer.take()
            waits.append(time.perf_counter() - asked)
            time.sleep(hold)
            peer.give(lease)
            units.append(time.perf_counter() - asked)
            barrier.wait()

    threads = [threading.Thread(target=caller, daemon=True) for _ in range(callers)]
    for thread in threads:
        thread.start()
    open_before, before, seconds = server.open, server.attempts, 0.0
    for _ in range(waves):
        barrier.wait()
        started = time.perf_counter()
        barrier.wait()
        seconds += time.perf_counter() - started
    for thread in threads:
        thread.join()
    return Burst(waits, units, seconds, server.attempts - before, open_before)


def one_wave_run(name: str, waves: int) -> Burst:
    """Run waves of 12 units of 10 ms on a cold 5 + 10, each connect taking 10 ms."""
    server = StubServer(connect_delay=0.01)
    peer = make(name, server, Shape(size=5, overflow=10))
    try:
        with measuring():
            found = burst(peer, server, callers=12, hold=0.01, waves=waves)
        # What a pool opens in advance counts too.
        return dataclasses.replace(found, connects=server.attempts)
    finally:
        peer.close()


def waves(run: Run) -> list[Figure]:
    """Measure 30 waves: how many connections are opened, and the slow units."""
    connects, p99 = Samples(), Samples()
    for _ in range(run.choose(5, 3)):
        for name in NAMES:
            found = one_wave_run(name, run.choose(30, 10))
            connects.add(name, found.connects)
            p99.add(name, percentile(found.units, 0.99) * 1e3)
    opened, slow = connects.medians(), p99.medians()
    ratio = quotient(slow, PLUGIN, PSYCOPG)
    what = "30 waves of 12 units of 10 ms on 5 + 10"
    return [
        Figure(f"{what}: connects", "", opened, "≤ 12", at_most(opened[PLUGIN], 12)),
        Figure(f"{what}: p99", "ms", slow, "≤ 1.1 x psycopg_pool", at_most(ratio, 1.1), ratio),
    ]


def one_spike(name: str, hold: float) -> Burst:
    """Run a spike of 50 on 5 + 45 with 5 warm, after some units.

    Those are as long as the spike's, but 0.1 s at the most: whoever estimates from them how long
    units are is told ten times too little of the long spike.
    """
    server = StubServer(connect_delay=CONNECT)
    peer = make(name, server, Shape(size=5, overflow=45))
    try:
        peer.warm(5)
        burst(peer, server, callers=5, hold=min(hold, 0.1), waves=5)
        with measuring():
            return burst(peer, server, callers=SPIKE, hold=hold)
    finally:
        peer.close()


def short_spike(run: Run) -> list[Figure]:
    """Measure a spike of units of 2 ms: the 5 warm connections could do it in 20 ms.

    The ideal is that of the connections which a pool has open when it begins: one that has opened
    more in advance could do it sooner.
    """
    hold = 0.002
    times, connects = Samples(), Samples()
    for _ in range(run.choose(9, 3)):
        for name in NAMES:
            found = one_spike(name, hold)
            times.add(name, found.seconds * found.open_before / (SPIKE * hold))
            connects.add(name, found.connects)
    against, opened = times.medians(), connects.medians()
    what = f"spike of {SPIKE} on 5 + 45, 5 warm, connect 150 ms, hold 2 ms"
    return [
        Figure(
            f"{what}: time / ideal",
            "",
            against,
            "≤ 1.25",
            at_most(against[PLUGIN], 1.25),
            note="ideal for the connections that are open when it begins",
        ),
        Figure(f"{what}: connects", "", opened, "0", at_most(opened[PLUGIN], 0)),
    ]


def long_spike(run: Run) -> list[Figure]:
    """Measure a spike of units of 1 s, for which waiting would be the worse choice."""
    worst = Samples()
    for _ in range(run.choose(5, 3)):
        for name in NAMES:
            worst.add(name, max(one_spike(name, 1.0).waits) / CONNECT)
    values = worst.medians()
    what = "the same spike with holds of 1 s: worst wait"
    return [Figure(what, "connects", values, "≤ 1.25", at_most(values[PLUGIN], 1.25))]


def cold_start(run: Run) -> list[Figure]:
    """Measure 15 callers on a pool that has nothing open yet."""
    worst: dict[str, list[float]] = {name: [] for name in NAMES}
    for _ in range(run.choose(3, 1)):
        for name in NAMES:
            server = StubServer(connect_delay=CONNECT)
            peer = make(name, server, Shape(size=5, overflow=10))
            with measuring():
                found = burst(peer, server, callers=15, hold=1.0)
            worst[name].append(max(found.waits) / CONNECT)
            peer.close()
    values: dict[str, float | None] = {name: median(worst[name]) for name in NAMES}
    what = "cold start of 15 on 5 + 10, connect 150 ms: worst wait"
    return [Figure(what, "connects", values, "≤ 2", at_most(values[PLUGIN], 2))]
