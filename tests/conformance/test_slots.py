"""Every connection and every slot that becomes free serves someone; none is lost."""

import contextlib
import gc
import random
import signal
import threading

import pytest

from .adapters.base import Feature, Lease, PoolUnderTest
from .lab import Lab, assert_whole, release_all, serve, until
from .stub import Failure


def test_failed_connect_wakes_the_next_in_line(lab: Lab) -> None:
    """When a connect fails once, the caller behind is served at once."""
    lab.needs(Feature.LINE)
    pool = lab.pool(size=1)
    lab.server.fail_next(Failure.UNREACHABLE)
    with lab.server.gate() as gate:
        first = lab.run(lambda: serve(pool))
        gate.wait_for_arrivals(1)
        second = lab.waiter(pool) if pool.waiting() == 0 else lab.run(pool.checkout)
        until(lambda: pool.waiting() >= 1, "a caller stands in line")
        gate.open()
        second.result().release()
    first.wait()


def test_failed_connects_take_no_slot(lab: Lab) -> None:
    """After ten failed connects the pool still has all its connections to give."""
    pool = lab.pool(size=2, overflow=1, timeout=1.0)
    lab.server.down = Failure.CONFIGURATION
    for _ in range(10):
        assert lab.run(lambda: serve(pool)).wait().error is not None
    lab.server.down = None
    until(lambda: lab.run(lambda: serve(pool)).wait().error is None, "callers are served")
    assert_whole(lab, pool, 3)


def test_invalidation_wakes_a_waiter(lab: Lab) -> None:
    """The slot of a broken connection serves a caller who waits."""
    pool = lab.pool(size=2)
    one, two = pool.checkout(), pool.checkout()
    task = lab.waiter(pool)
    one.invalidate()
    fresh = task.result()
    assert fresh.connection is not one.connection
    release_all([fresh, two])
    assert_whole(lab, pool, 2)


def test_detach_wakes_a_waiter(lab: Lab) -> None:
    """A detached connection leaves its slot to a caller who waits."""
    lab.needs(Feature.DETACH)
    pool = lab.pool(size=1)
    lease = pool.checkout()
    task = lab.waiter(pool)
    lease.detach()
    task.result().release()


def test_failed_reset_wakes_a_waiter(lab: Lab) -> None:
    """A connection whose rollback fails at return makes room for a caller."""
    pool = lab.pool(size=1)
    lease = pool.checkout()
    task = lab.waiter(pool)
    lease.query()
    lease.connection.fail_rollback = True
    lease.release()
    fresh = task.result()
    assert fresh.connection is not lease.connection
    fresh.release()


def test_collected_connection_wakes_a_waiter(lab: Lab) -> None:
    """A connection that was dropped without being closed comes back by itself."""
    lab.needs(Feature.COLLECTED)
    pool = lab.pool(size=1)
    forgotten: list[Lease] = [pool.checkout()]
    task = lab.waiter(pool)
    forgotten[0].connection.held.release()
    forgotten.clear()
    gc.collect()
    task.result().release()


@pytest.mark.slow
def test_timed_out_waiter_takes_nothing(lab: Lab) -> None:
    """Callers who gave up are not served, and the pool is whole afterwards."""
    lab.needs(Feature.LINE)
    pool = lab.pool(size=1, timeout=0.1)
    lease = pool.checkout()
    tasks = [lab.run(pool.checkout) for _ in range(3)]
    assert all(task.wait().error is not None for task in tasks)
    lease.release()
    assert_whole(lab, pool, 1)


class Interrupted(BaseException):
    """What the signal handler raises, as Ctrl-C raises KeyboardInterrupt."""


def interrupt(signum: int, frame: object) -> None:
    """Raise in the main thread, wherever it is."""
    raise Interrupted


def interrupted_checkout(lab: Lab, pool: PoolUnderTest) -> None:
    """Wait for a connection in the main thread until a signal arrives."""
    main = threading.main_thread().ident
    assert main is not None
    before = pool.waiting()

    def send() -> None:
        until(lambda: pool.waiting() > before, "the caller stands in line")
        signal.pthread_kill(main, signal.SIGUSR1)

    signal.signal(signal.SIGUSR1, interrupt)
    task = lab.run(send)
    with pytest.raises(Interrupted):
        pool.checkout()
    task.result()


def test_interrupted_waiter_takes_nothing(lab: Lab) -> None:
    """After Ctrl-C in a caller who waited, the next in line is served."""
    lab.needs(Feature.LINE)
    pool = lab.pool(size=1)
    lease = pool.checkout()
    interrupted_checkout(lab, pool)
    task = lab.waiter(pool)
    lease.release()
    task.result().release()
    assert_whole(lab, pool, 1)


@pytest.mark.slow
def test_interrupts_at_any_moment_lose_nothing(lab: Lab) -> None:
    """Signals that hit a waiting caller just as it is served leave the pool whole."""
    lab.needs(Feature.LINE)
    pool = lab.pool(size=1)
    main = threading.main_thread().ident
    assert main is not None
    signal.signal(signal.SIGUSR1, interrupt)
    for _ in range(200):
        race_with_signal(lab, pool, main)
    gc.collect()
    assert_whole(lab, pool, 1)


def race_with_signal(lab: Lab, pool: PoolUnderTest, main: int) -> None:
    """Give the awaited connection back and send the signal at the same moment."""
    lease = pool.checkout()
    signalled = threading.Event()

    def both() -> None:
        until(lambda: pool.waiting() == 1, "the caller stands in line")
        lease.release()
        signal.pthread_kill(main, signal.SIGUSR1)
        signalled.set()

    task = lab.run(both)
    mine = None
    with contextlib.suppress(Interrupted):  # it may strike before, in or after the checkout
        try:
            mine = pool.checkout()
        finally:
            signalled.wait(5.0)
    if mine is not None:
        mine.release()
    task.result()


@pytest.mark.slow
def test_random_use_keeps_the_limit_and_the_books(lab: Lab) -> None:
    """Under random failures nothing exceeds the limit and all is given back."""
    lab.needs(Feature.LINE)
    pool = lab.pool(size=3, overflow=2, timeout=10.0)
    tasks = lab.crowd(12, lambda: random_use(lab, pool))
    for task in tasks:
        task.result(20.0)
    lab.server.forgive()
    assert lab.server.peak <= 5
    until(lambda: pool.counts().in_use == 0, "all is given back")
    assert_whole(lab, pool, 5)


def random_use(lab: Lab, pool: PoolUnderTest) -> None:
    """Use the pool in random ways, sometimes badly."""
    choice = random.Random(threading.get_ident())
    for _ in range(40):
        if choice.random() < 0.05:
            lab.server.fail_next(Failure.UNREACHABLE)
        try:
            lease = pool.checkout()
        except AssertionError:
            raise
        except Exception:
            continue
        if choice.random() < 0.1:
            lease.invalidate()
        else:
            lease.release()
