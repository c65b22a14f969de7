"""Many threads on few connections: who is served, how late, and how much gets done."""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tests.conformance.stub import StubServer

from .model import Figure, Run, at_least, at_most, measuring, median, percentile, quotient
from .peers import PLUGIN, PSYCOPG, QUEUE, Peer, Shape, make

__all__ = ["contention", "no_hold"]

THREADS = 64
SETTLED = 0.5
"""Seconds until 64 threads that have just started no longer overtake each other by chance."""


@contextmanager
def on_one_core() -> Iterator[None]:
    """Keep threads that are started in the block on one processor.

    On two they switch in one of several ways, as the kernel happens to place them: with each pool
    one run takes five times as long as another.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


SHAPE = Shape(size=10, overflow=0, timeout=120.0)


@dataclass(frozen=True)
class Outcome:
    """One run of all threads on one pool."""

    served: list[int]
    """Units of each thread."""
    waits: list[float]
    """Seconds that each unit waited."""
    seconds: float

    @property
    def fairness(self) -> float:
        """Fewest against most units served."""
        return min(self.served) / max(self.served)

    @property
    def rate(self) -> float:
        """Units a second."""
        return sum(self.served) / self.seconds


class Crowd:
    """Threads that do units until together they have done enough.

    :param settle: for how many seconds they do so before the clock starts.
    """

    def __init__(self, peer: Peer, hold: float, units: int, settle: float) -> None:
        self._peer, self._hold = peer, hold
        self._share, self._settle = units, settle
        self._barrier = threading.Barrier(THREADS + 1)
        self._stop = False
        self._waits: list[list[float]] = [[] for _ in range(THREADS)]

    def _work(self, waits: list[float]) -> None:
        take, give, hold, clock = self._peer.take, self._peer.give, self._hold, time.perf_counter
        self._barrier.wait()
        while not self._stop:
            asked = clock()
            lease = take()
            waits.append(clock() - asked)
            if hold:
                time.sleep(hold)
            give(lease)

    def run(self) -> Outcome:
        """Start all threads at once and stop them when the work is done."""
        threads = [
            threading.Thread(target=self._work, args=(waits,), daemon=True)
            for waits in self._waits
        ]
        for thread in threads:
            thread.start()
        self._barrier.wait()
        time.sleep(self._settle)
        started, before = time.perf_counter(), list(map(len, self._waits))
        while sum(map(len, self._waits)) - sum(before) < self._share * THREADS:
            time.sleep(0.02)
        after, seconds = list(map(len, self._waits)), time.perf_counter() - started
        self._stop = True
        for thread in threads:
            thread.join(130.0)
        served = [last - first for first, last in zip(before, after, strict=True)]
        # Also those that end only now: whoever starves waits until the others have stopped.
        waits = [
            wait
            for waits, first in zip(self._waits, before, strict=True)
            for wait in waits[first:]
        ]
        return Outcome(served, waits, seconds)


def one_run(name: str, hold: float, units: int, settle: float = 0.0) -> Outcome:
    """Run the crowd once on a fresh, warm pool of this name."""
    peer = make(name, StubServer(), SHAPE)
    try:
        peer.warm(10)
        with measuring():
            return Crowd(peer, hold, units, settle).run()
    finally:
        peer.close()


def runs(
    names: Sequence[str], rounds: int, hold: float, units: int, settle: float = 0.0
) -> dict[str, list[Outcome]]:
    """Run the crowd in turn on each pool, so many rounds."""
    outcomes: dict[str, list[Outcome]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            outcomes[name].append(one_run(name, hold, units, settle))
    return outcomes


def contention(run: Run) -> list[Figure]:
    """Measure holds of 4 ms; QueuePool, known to be unfair, runs once."""
    units = run.choose(1_000, 60)
    outcomes = runs((PLUGIN, PSYCOPG), run.choose(5, 3), 0.004, units)
    outcomes |= runs((QUEUE,), 1, 0.004, units)
    rated = rate(outcomes, "64 threads on 10, 4 ms holds", 1.0)
    return [fairness(outcomes), *waits(outcomes), rated]


def no_hold(run: Run) -> list[Figure]:
    """Measure units that hold their connection for no time, once the threads have settled."""
    names = (PLUGIN, PSYCOPG, QUEUE)
    with on_one_core():
        outcomes = runs(names, run.choose(9, 3), 0.0, run.choose(500, 300), SETTLED)
    return [rate(outcomes, "64 threads on 10, no hold, one core", 0.95)]


def fairness(outcomes: dict[str, list[Outcome]]) -> Figure:
    """Judge how evenly threads are served."""
    values: dict[str, float | None] = {
        name: median([outcome.fairness for outcome in those]) for name, those in outcomes.items()
    }
    return Figure(
        "64 threads on 10, 4 ms holds: fewest / most served",
        "",
        values,
        "≥ 0.98",
        at_least(values[PLUGIN], 0.98),
    )


def waits(outcomes: dict[str, list[Outcome]]) -> list[Figure]:
    """Judge the waits."""
    figures = []
    for what, share in (("p99 wait", 0.99), ("worst wait", 1.0)):
        values: dict[str, float | None] = {
            name: median([percentile(outcome.waits, share) * 1e3 for outcome in those])
            for name, those in outcomes.items()
        }
        ratio = quotient(values, PLUGIN, PSYCOPG)
        reached = at_most(ratio, 1.1)
        title = f"64 threads on 10, 4 ms holds: {what}"
        figures.append(Figure(title, "ms", values, "≤ 1.1 x psycopg_pool", reached, ratio))
    return figures


def rate(outcomes: dict[str, list[Outcome]], what: str, least: float) -> Figure:
    """Judge how much gets done: at least so many times what psycopg_pool does."""
    values: dict[str, float | None] = {
        name: median([outcome.rate for outcome in those]) for name, those in outcomes.items()
    }
    ratio = quotient(values, PLUGIN, PSYCOPG)
    target = f"≥ {least:g} x psycopg_pool"
    return Figure(f"{what}: units", "/s", values, target, at_least(ratio, least), ratio)
