"""Outages and restarts."""

import threading
import time
from dataclasses import dataclass

from tests.conformance.stub import Failure, StubServer

from .model import Figure, Run, Samples, at_most
from .peers import PLUGIN, PSYCOPG, QUEUE, Shape, make

__all__ = ["long_outage", "outage", "restart"]

PHASES = 20
SLACK = 25.0
"""Seconds after the server's return at which a caller counts as never served."""


@dataclass(frozen=True)
class Found:
    """What one pool showed in one outage."""

    served: float
    """Seconds from the first possible connect to the first service."""
    attempts: int
    """Connects that were tried while the server was away."""
    seconds: float
    """For how long there was somebody who wanted a connection while it was away."""


class Phase:
    """One pool in one outage, with one caller who comes at a moment of its own.

    A caller who is refused asks again after 50 ms, as the next request would.
    """

    def __init__(self, name: str, start: float, comes: float, back: float) -> None:
        self._server = StubServer()
        self._server.down = Failure.UNREACHABLE
        self._peer = make(name, self._server, Shape(timeout=30.0))
        self._comes, self._back = start + comes, start + back
        self._served = SLACK
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._call, self._return)
        ]
        for thread in self._threads:
            thread.start()

    def _call(self) -> None:
        sleep_until(self._comes)
        while time.monotonic() < self._back + SLACK:
            try:
                lease = self._peer.take()
            except Exception:
                time.sleep(0.05)
                continue
            self._served = time.monotonic() - self._back
            self._peer.give(lease)
            return

    def _return(self) -> None:
        sleep_until(self._back)
        self._server.down = None

    def end(self) -> Found:
        """Wait for the caller; return what was found."""
        for thread in self._threads:
            thread.join()
        self._peer.close()
        attempts = self._server.counts["failure"]
        return Found(self._served, attempts, self._back - self._comes)


def sleep_until(moment: float) -> None:
    """Sleep until the monotonic clock shows this moment."""
    time.sleep(max(0.0, moment - time.monotonic()))


def phases(name: str, length: float) -> list[Found]:
    """Run 20 pools through an outage; their callers come 0.1 s apart."""
    start = time.monotonic() + 0.2
    running = [Phase(name, start, comes=0.1 * number, back=length) for number in range(PHASES)]
    return [phase.end() for phase in running]


def worst_of_phases(found: list[Found]) -> float:
    """Return the latest of the first services."""
    return max(each.served for each in found)


def attempts_a_second(found: list[Found]) -> float:
    """Return how often one pool has knocked at the server's door, per second."""
    return sum(each.attempts for each in found) / sum(each.seconds for each in found)


def outage(run: Run) -> list[Figure]:
    """Measure an outage of 8 s with 20 phases, all of a pool's at the same time."""
    length = 5.0 if run.quick else 8.0
    found = {name: phases(name, length) for name in (PLUGIN, PSYCOPG, QUEUE)}
    served: dict[str, float | None] = {name: worst_of_phases(each) for name, each in found.items()}
    tried: dict[str, float | None] = {
        name: attempts_a_second(each) for name, each in found.items()
    }
    return [
        Figure(
            f"outage of {length:g} s: from the first possible connect to the first served",
            "s",
            served,
            "≤ 0.4 s",
            at_most(served[PLUGIN], 0.4),
            note="worst of 20 phases; a caller who is refused asks again after 50 ms",
        ),
        Figure(
            f"outage of {length:g} s: attempts to connect, of each pool with one caller",
            "/s",
            tried,
            "≤ 4 /s",
            at_most(tried[PLUGIN], 4.0),
        ),
    ]


def long_outage(run: Run) -> list[Figure]:
    """Measure an outage of 130 s in real time, ours only."""
    length = 12.0 if run.quick else 130.0
    found = phases(PLUGIN, length)
    served, tried = worst_of_phases(found), attempts_a_second(found)
    return [
        Figure(
            f"outage of {length:g} s: from the first possible connect to the first served",
            "s",
            {PLUGIN: served},
            "≤ 2 s",
            at_most(served, 2.0),
        ),
        Figure(
            f"outage of {length:g} s: attempts to connect, of each pool with one caller",
            "/s",
            {PLUGIN: tried},
            "≤ 4 /s",
            at_most(tried, 4.0),
        ),
    ]


def first_checkout(name: str, timeout: float) -> float | None:
    """Return how many connects' time the first checkout after a restart takes."""
    delay = 0.1
    server = StubServer(connect_delay=delay)
    peer = make(name, server, Shape(size=8, overflow=0, timeout=timeout, check=True))
    try:
        peer.warm(8)
        server.kill_all()
        started = time.perf_counter()
        lease = peer.take()
        took = time.perf_counter() - started
        peer.give(lease)
        return took / delay
    except Exception:
        return None
    finally:
        peer.close()


def restart(run: Run) -> list[Figure]:
    """Measure the first checkout when all 8 connections went stale in a restart."""
    samples, lost = Samples(), set()
    for turn in range(run.choose(5, 3)):
        for name in (PLUGIN, QUEUE, PSYCOPG):
            # One of psycopg_pool's time-outs of 30 s says as much as five.
            if name != PSYCOPG or turn == 0:
                value = first_checkout(name, timeout=5.0 if run.quick else 30.0)
                if value is None:
                    lost.add(name)
                else:
                    samples.add(name, value)
    values = samples.medians() | dict.fromkeys(lost, None)
    what = "first checkout after a restart with 8 stale connections"
    note = "".join(f"{name}: time-out; " for name in sorted(lost))
    return [Figure(what, "connects", values, "≤ 3", at_most(values.get(PLUGIN), 3), note=note)]
