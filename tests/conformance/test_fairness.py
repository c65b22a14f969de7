"""Strict first come, first served."""

import threading

import pytest

from .adapters.base import Feature, PoolUnderTest
from .lab import Lab, until


def test_returned_connection_goes_to_the_longest_waiter(lab: Lab) -> None:
    """Eight callers in line are served in the order in which they came."""
    pool = lab.pool(size=1)
    lease = pool.checkout()
    line = [lab.waiter(pool) for _ in range(8)]
    for place, task in enumerate(line):
        lease.release()
        lease = task.result()
        assert not any(later.over for later in line[place + 1 :])
    lease.release()


def test_newcomer_never_overtakes_a_waiter(lab: Lab) -> None:
    """Whoever gives back and asks again at once stands behind those who wait already."""
    lab.needs(Feature.LINE)
    pool = lab.pool(size=1)
    for _ in range(20):
        assert race(lab, pool) == ["waiter", "newcomer"]


def race(lab: Lab, pool: PoolUnderTest) -> list[str]:
    """Give back and ask again while somebody waits; return who was served in turn."""
    served: list[str] = []

    def wait_in_line() -> None:
        lease = pool.checkout()
        served.append("waiter")
        lease.release()

    lease = pool.checkout()
    waiter = lab.run(wait_in_line)
    until(lambda: pool.waiting() == 1, "the caller stands in line")
    lease.release()
    again = pool.checkout()
    served.append("newcomer")
    again.release()
    waiter.result()
    return served


def test_freed_slot_goes_to_the_longest_waiter(lab: Lab) -> None:
    """An invalidated connection's slot serves whoever waits longest."""
    pool = lab.pool(size=1)
    lease = pool.checkout()
    first, second = lab.waiter(pool), lab.waiter(pool)
    lease.invalidate()
    fresh = first.result()
    assert not second.over
    fresh.release()
    second.result().release()


def test_return_serves_the_first_in_line_while_a_slot_is_being_opened(lab: Lab) -> None:
    """With an opening under way, a return still serves the longest waiter first."""
    pool = lab.pool(size=2)
    one, two = pool.checkout(), pool.checkout()
    first, second = lab.waiter(pool), lab.waiter(pool)
    with lab.server.gate() as gate:
        two.invalidate()
        gate.wait_for_arrivals(1)
        one.release()
        served = first.result()
        assert not second.over
        gate.open()
        second.result().release()
    served.release()


@pytest.mark.slow
def test_every_thread_is_served_alike(lab: Lab) -> None:
    """Of 32 threads on 5 connections, the least served gets 0.8 of the most served."""
    lab.needs(Feature.LINE)
    pool = lab.pool(size=5)
    stop = threading.Event()

    def work() -> int:
        done = 0
        while not stop.is_set():
            lab.unit(pool, hold=0.002)
            done += 1
        return done

    tasks = lab.crowd(32, work)
    stop.wait(1.5)
    stop.set()
    served = [task.result(35.0) for task in tasks]
    assert min(served) >= 0.8 * max(served) - 2, f"{min(served)} to {max(served)} units"
