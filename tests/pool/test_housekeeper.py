"""The background thread: it comes when due, ends when done, and survives its tasks."""

import gc
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pyramid_dbpool.pool import housekeeper as module
from pyramid_dbpool.pool.housekeeper import Housekeeper, WeakCall, housekeeper
from pyramid_dbpool.pool.managed import ManagedPool
from tests.support.makers import PATIENCE, Maker, wait_for

SECONDS = float(os.environ.get("DBPOOL_STRESS_SECONDS", "2"))


@contextmanager
def held_up(keeper: Housekeeper) -> Iterator[float]:
    """Keep the thread busy, so that whatever is due inside the block waits for its end."""
    busy, over = threading.Event(), threading.Event()
    keeper.call_at(time.monotonic(), lambda: busy.set() or over.wait(PATIENCE))
    assert busy.wait(PATIENCE)
    yield time.monotonic()
    over.set()


def test_calls_come_in_order_of_their_time() -> None:
    """In whichever order they were asked for."""
    keeper, calls = Housekeeper(), list[str]()
    with held_up(keeper) as now:
        keeper.call_at(now + 0.002, lambda: calls.append("second"))
        keeper.call_at(now + 0.001, lambda: calls.append("first"))
    wait_for(lambda: len(calls) == 2)
    assert calls == ["first", "second"]


def test_a_call_with_an_earlier_time_wakes_the_thread() -> None:
    """It would sleep until the one that it knows."""
    keeper, done = Housekeeper(), threading.Event()
    far = keeper.call_at(time.monotonic() + 3600, lambda: None)
    assert far is not None
    wait_for(lambda: keeper._until > time.monotonic() + 3000)
    keeper.call_at(time.monotonic(), done.set)
    assert done.wait(PATIENCE)
    keeper.call_off(far)


def test_no_thread_without_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing runs before the first task, and nothing after the last one."""
    monkeypatch.setattr(module, "LINGER", 0.01)
    keeper = Housekeeper()
    assert keeper._thread is None
    done = threading.Event()
    keeper.call_at(time.monotonic(), done.set)
    assert done.wait(PATIENCE)
    wait_for(lambda: keeper._thread is None)
    done.clear()
    keeper.call_at(time.monotonic(), done.set)
    assert done.wait(PATIENCE), "it starts again"


def test_cancelled_task_does_not_run() -> None:
    """It does not keep the thread alive either."""
    keeper, calls = Housekeeper(), list[str]()
    with held_up(keeper) as now:
        task = keeper.call_at(now + 0.001, lambda: calls.append("cancelled"))
        keeper.call_at(now + 0.002, lambda: calls.append("kept"))
        assert task is not None
        task.cancel()
    wait_for(lambda: calls)
    assert calls == ["kept"]


def test_failing_task_leaves_the_others_alone(caplog: pytest.LogCaptureFixture) -> None:
    """One pool's failure is logged, and does not end the upkeep of the others."""
    keeper, done = Housekeeper(), threading.Event()
    keeper.call_at(time.monotonic(), lambda: 1 / 0)
    keeper.call_at(time.monotonic() + 0.01, done.set)
    assert done.wait(PATIENCE)
    assert "A background task failed" in caplog.text


def test_task_that_ends_its_thread_leaves_the_others_alone() -> None:
    """SystemExit and GreenletExit are no Exceptions."""
    keeper, done = Housekeeper(), threading.Event()
    keeper.call_at(time.monotonic(), sys.exit)
    keeper.call_at(time.monotonic() + 0.01, done.set)
    assert done.wait(PATIENCE)


def test_task_keeps_nothing_alive() -> None:
    """An object that only a task knows can be collected; its task is a no-op."""

    class Owner:
        calls = 0

        def work(self) -> None:
            Owner.calls += 1

    owner = Owner()
    call = WeakCall(owner.work)
    call()
    del owner
    gc.collect()
    call()
    assert Owner.calls == 1


def test_pause_stops_the_thread_and_keeps_the_tasks() -> None:
    """A fork must not meet a thread of ours; afterwards the work goes on."""
    keeper, done = Housekeeper(), threading.Event()
    keeper.call_at(time.monotonic() + 0.1, done.set)
    thread = keeper._thread
    assert thread is not None
    keeper.pause()
    assert not thread.is_alive()
    keeper.resume()
    keeper.start_again()
    assert done.wait(PATIENCE)


def test_a_fork_may_come_while_the_thread_is_being_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By another thread: it is there, and cannot be waited for."""
    keeper, ran = Housekeeper(), threading.Event()
    start = threading.Thread.start

    def forks_first(thread: threading.Thread) -> None:
        keeper.pause()
        start(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", forks_first)
        keeper.call_at(0.0, ran.set)
    wait_for(lambda: keeper._thread is None)
    assert not ran.is_set()
    keeper.resume()
    keeper.start_again()
    wait_for(ran.is_set)


def test_threads_that_come_at_once_get_the_same_housekeeper(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A second one would go on while the process forks."""
    monkeypatch.setattr(module, "_keepers", {})
    inner = list[Housekeeper]()

    class Slow(Housekeeper):
        """Another thread is quicker."""

        def __init__(self) -> None:
            super().__init__()
            if not inner:
                inner.append(self)
                inner.append(housekeeper())

    monkeypatch.setattr(module, "Housekeeper", Slow)
    assert housekeeper() is inner[1]


def test_child_has_a_housekeeper_of_its_own() -> None:
    """Threads do not survive a fork; the child's first task starts a new one."""
    mine = housekeeper()
    task = mine.call_at(time.monotonic() + 60, lambda: None)
    assert task is not None
    child = os.fork()
    if child == 0:
        done = threading.Event()
        own = housekeeper()
        own.call_at(time.monotonic(), done.set)
        os._exit(0 if own is not mine and done.wait(PATIENCE) else 1)
    assert os.waitpid(child, 0)[1] == 0
    wait_for(lambda: mine._thread is not None)
    mine.call_off(task)


def test_a_childs_pools_have_the_housekeeper_that_its_forks_pause(maker: Maker) -> None:
    """Those that were there before it, which begin anew as it does."""
    pool = ManagedPool(maker, 1, 0, keepalive=60.0)
    pool.connect().close()
    child = os.fork()
    if child == 0:
        os._exit(0 if pool._core.shared.timer is housekeeper() else 1)
    assert os.waitpid(child, 0)[1] == 0
    pool.dispose()


FORKS = """
import os, threading, time, warnings
from pyramid_dbpool.pool.housekeeper import housekeeper
warnings.simplefilter("always")
keeper, done = housekeeper(), threading.Event()
keeper.call_at(time.monotonic() + 3600, lambda: None)
for _ in range(3):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    # As soon as Python's code runs, and without being asked.
    assert keeper._thread is not None and keeper._thread.is_alive()
keeper.call_at(time.monotonic(), done.set)
assert done.wait(30)
print("at work")
"""


def test_a_fork_is_not_warned_of_because_of_us() -> None:
    """From Python 3.12 on one beside threads is; the thread is not there, and comes back."""
    ran = subprocess.run(
        [sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.stdout, ran.stderr) == ("at work\n", "")


def test_what_a_signal_raises_while_the_thread_comes_back_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C just after a fork."""

    keeper, start_again = housekeeper(), Housekeeper.start_again

    def interrupted(_keeper: Housekeeper) -> None:
        monkeypatch.setattr(Housekeeper, "start_again", start_again)
        raise KeyboardInterrupt

    monkeypatch.setattr(Housekeeper, "start_again", interrupted)
    with pytest.raises(KeyboardInterrupt):
        module._wake_main_thread()
        wait_for(lambda: False)
    assert not keeper._inbox


@pytest.mark.slow
def test_no_task_is_lost_or_run_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that add and cancel at random, while the housekeeper ends and starts."""
    monkeypatch.setattr(module, "LINGER", 0.0005)
    keeper = Housekeeper()
    wanted, ran = [0] * 8, [0] * 8
    until = time.monotonic() + SECONDS

    def add(me: int) -> None:
        rng = random.Random(me)
        pause = threading.Event()

        def count() -> None:
            ran[me] += 1

        while time.monotonic() < until:
            task = keeper.call_at(time.monotonic() + rng.random() * 0.002, count)
            assert task is not None
            if rng.random() < 0.2:
                before, run = ran[me], task.run
                task.cancel()
                wanted[me] += run is None or ran[me] != before
            else:
                wanted[me] += 1
            if rng.random() < 0.2:
                pause.wait(rng.random() * 0.003)

    threads = [threading.Thread(target=add, args=(me,)) for me in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    wait_for(lambda: not keeper._heap and not keeper._inbox)
    wait_for(lambda: all(abs(a - b) <= a * 0.05 for a, b in zip(wanted, ran, strict=True)))
    # A cancellation in the very moment of the call may count either way; nothing else may.
    assert sum(ran) > 0


def test_a_fork_while_the_thread_is_being_started_says_nothing() -> None:
    """There is nothing to wait for yet."""
    keeper = Housekeeper()
    keeper._thread = threading.Thread(target=lambda: None)
    keeper.pause()
    keeper.resume()
