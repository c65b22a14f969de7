"""Bursts: the first of returned or new wins, and connections are not thrown away."""

import threading
import time

import pytest

from .adapters.base import Feature, PoolUnderTest
from .lab import Lab, serve

# The time of a slow connect, in seconds: long enough for a busy machine's own delays not to count.
CONNECT = 2.0


def test_returned_connection_beats_a_slow_opening(lab: Lab) -> None:
    """A caller for whom a connection is being opened takes one that comes back first."""
    lab.needs(Feature.LINE)
    pool = lab.pool(size=2)
    lease = pool.checkout()
    with lab.server.gate() as gate:
        task = lab.run(pool.checkout)
        gate.wait_for_arrivals(1)
        lease.release()
        served = task.result()
        assert served.connection is lease.connection
    served.release()


def test_slow_opening_does_not_hold_up_the_others(lab: Lab) -> None:
    """While one connect hangs, callers go on being served by what there is."""
    lab.needs(Feature.LINE)
    pool = lab.pool(size=2)
    lease = pool.checkout()
    with lab.server.gate() as gate:
        lab.run(lambda: serve(pool))
        gate.wait_for_arrivals(1)
        lease.release()
        lab.run(lambda: serve(pool)).result()


@pytest.mark.slow
def test_waves_do_not_make_and_throw_away_connections(lab: Lab) -> None:
    """Thirty waves of 12 units on 5 + 10 open no more connections than one wave needs."""
    linger = 30.0 if Feature.OVERFLOW_LINGER in lab.adapter.offers else None
    pool = lab.pool(size=5, overflow=10, overflow_linger=linger)
    for _ in range(30):
        for task in lab.crowd(12, lambda: lab.unit(pool, hold=0.01)):
            task.result()
    assert lab.server.connects <= 12


@pytest.mark.slow
def test_spike_of_short_units_opens_next_to_nothing(lab: Lab) -> None:
    """Fifty units of 2 ms on 5 warm connections do not wait for connects of two seconds."""
    pool = lab.pool(size=5, overflow=45)
    lab.server.connect_delay = 2.0
    for _ in range(4):
        for warm in lab.crowd(5, lambda: lab.unit(pool, hold=0.002)):
            warm.result()
    before = lab.server.attempts
    tasks = lab.crowd(50, lambda: lab.unit(pool, hold=0.002))
    slowest = max(task.wait().seconds for task in tasks)
    assert lab.server.attempts - before <= 2
    assert slowest < 1.5


@pytest.mark.slow
def test_spike_of_long_units_opens_in_parallel(lab: Lab) -> None:
    """Fifty units of 7 s on 5 warm connections wait for no more than two connects."""
    lab.needs(Feature.LINE)
    pool = lab.pool(size=5, overflow=45)
    lab.server.connect_delay = CONNECT
    lab.warm(pool, 5)
    assert worst_wait(lab, pool, 50, hold=7.0) < 2.3 * CONNECT


@pytest.mark.slow
def test_cold_start_opens_in_parallel(lab: Lab) -> None:
    """Fifteen callers on an empty 5 + 10 wait for no more than two connects."""
    pool = lab.pool(size=5, overflow=10)
    lab.server.connect_delay = CONNECT
    assert worst_wait(lab, pool, 15, hold=7.0) < 2.3 * CONNECT


def worst_wait(lab: Lab, pool: PoolUnderTest, count: int, hold: float) -> float:
    """Return the longest of `count` waits in seconds, all callers coming at once."""
    stop = threading.Event()

    def caller() -> float:
        started = time.monotonic()
        lease = pool.checkout()
        waited = time.monotonic() - started
        stop.wait(hold)
        lease.release()
        return waited

    return max(task.result(10.0) for task in lab.crowd(count, caller))
