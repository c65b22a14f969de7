"""A signal's handler uses the pool in the middle of whatever its own thread does there."""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

import pytest

from pyramid_dbpool import ManagedPool, PoolTimeout, deadline
from tests.pool.test_door import OPERATIONS, Scene
from tests.support.makers import PATIENCE, Maker, in_thread, wait_for
from tests.support.striking import striking


def use(pool: ManagedPool) -> None:
    """Take a connection, or be refused at once."""
    inside = pool._core.door.is_inside()
    try:
        # Where it may wait, it does not want to.
        with deadline(PATIENCE if inside else 0.0):
            lease = pool.connect()
    except PoolTimeout as error:
        assert ("nobody may wait here" in str(error)) == inside, error
    else:
        lease.close()


def use_and_report_dead(pool: ManagedPool) -> None:
    """Take a connection and find that it is dead."""
    with suppress(PoolTimeout), deadline(PATIENCE if pool._core.door.is_inside() else 0.0):
        pool.connect().invalidate()


def look(pool: ManagedPool) -> None:
    """Look at the numbers."""
    pool.snapshot()
    pool.status()


def dispose(pool: ManagedPool) -> None:
    """Close what is idle."""
    pool.dispose()


# Each of its steps begins and ends threads.
@pytest.mark.timeout(600)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("act", "background"),
    [(use, False), (use, True), (use_and_report_dead, True), (look, False), (dispose, False)],
)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_handler_may_use_the_pool_anywhere(
    maker: Maker, operation: str, act: Callable[[ManagedPool], None], background: bool
) -> None:
    """At every opcode of an operation: it waits for nothing, and the books are right."""
    sys._getframe().f_trace_opcodes = True
    seen = list[bool]()
    for step in itertools.count():
        scene = Scene(maker, operation, lifo=False, background=background)
        left = [step]

        def handle(pool: ManagedPool = scene.pool) -> None:
            seen.append(pool._core.door.is_inside())
            act(pool)

        trace = striking(handle, left)
        sys.settrace(trace)
        try:
            scene.run()
        finally:
            sys.settrace(None)
        scene.check_the_books()
        maker.forget()
        if left[0] >= 0:
            assert operation == "take" or any(seen), "never inside of the lock"
            return


def inside(pool: ManagedPool, act: Callable[[], object]) -> None:
    """Act as a handler that interrupts its thread while that has the lock."""
    core = pool._core
    with core.door, core.lock:
        act()


def test_a_handler_is_served_with_what_is_idle(maker: Maker) -> None:
    """That takes no lock."""
    pool = ManagedPool(maker, 1, 0)
    pool.connect().close()
    inside(pool, lambda: pool.connect().close())
    assert (len(maker.made), pool.snapshot().idle, pool.snapshot().leased) == (1, 1, 0)
    pool.dispose()


@pytest.mark.parametrize("background", [False, True], ids=["inline", "background"])
def test_a_handler_is_refused_at_once_where_nothing_is_idle(
    maker: Maker, background: bool
) -> None:
    """It would wait for others, who wait for the lock; the error says why, and what to do."""
    pool = ManagedPool(maker, 1, 1, timeout=None, background=background, pool_name="orders")
    lease = pool.connect()
    with pytest.raises(
        PoolTimeout, match="pool 'orders': no connection can be had at once"
    ) as told:
        inside(pool, pool.connect)
    assert "set a flag" in str(told.value)
    assert pool.snapshot().refused == {"inside": 1}
    lease.close()
    with pytest.raises(PoolTimeout, match="nobody may wait here"):
        inside(pool, lambda: [pool.connect() for _ in range(2)])
    pool.dispose()


def test_a_handler_examines_nothing(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ping may take seconds: what needs one is examined by the next one who takes it."""
    pool = ManagedPool(maker, 1, 0, liveness=True)
    pool.connect().close()
    next(iter(pool._core.line.idle)).doubt()
    pinged = list[object]()
    monkeypatch.setattr(pool._core.source, "ping", lambda record: not pinged.append(record))
    with pytest.raises(PoolTimeout):
        inside(pool, pool.connect)
    assert not pinged
    pool.connect().close()
    assert len(pinged) == len(maker.made) == 1
    pool.dispose()


def test_what_a_handler_disposes_of_is_closed_when_the_lock_is_left(maker: Maker) -> None:
    """Closing waits on the network."""
    pool = ManagedPool(maker, 2, 0)
    held = pool.connect()
    pool.connect().close()

    def replace() -> None:
        pool.dispose()
        pool.recreate()
        assert not any(each.closed for each in maker.made)

    inside(pool, replace)
    assert [each.closed for each in maker.made] == [0, 1]
    held.close()
    assert [each.closed for each in maker.made] == [1, 1] or pool.snapshot().idle == 1
    pool.dispose()


def test_others_are_served_beside_a_handler_that_was_refused(maker: Maker) -> None:
    """They wait for what the thread was doing, and for nothing else."""
    pool = ManagedPool(maker, 1, 0, timeout=PATIENCE, background=True)
    lease = pool.connect()
    waiter = in_thread(lambda: pool.connect().close())
    wait_for(lambda: pool._core.line.waiting)
    with pytest.raises(PoolTimeout):
        inside(pool, pool.connect)
    lease.close()
    waiter.join(PATIENCE)
    assert not waiter.is_alive()
    pool.dispose()


def test_a_handler_that_fails_takes_nothing_from_the_checkout_around_it(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What that has in hand is not received yet; it would be handed out twice."""
    pool = ManagedPool(maker, 2, 0, use_lifo=True, liveness=True)
    for lease in [pool.connect() for _ in range(2)]:
        lease.close()
    (_, first) = pool._core.line.idle
    first.doubt()

    def handler(_record: object) -> bool:
        def fail(_connection: object) -> None:
            raise ValueError("an app's own")

        monkeypatch.setattr(pool, "on_checkout", fail)
        with pytest.raises(ValueError, match="own"):
            pool.connect()
        monkeypatch.setattr(pool, "on_checkout", None)
        return True

    monkeypatch.setattr(pool._core.source, "ping", handler)
    lease = pool.connect()
    assert lease.dbapi_connection is first.connection
    assert first not in pool._core.line.idle
    lease.close()
    assert pool.snapshot().leased == 0
    pool.dispose()


STORM = """
import signal, sys, threading, time
from pyramid_dbpool import PoolTimeout
from pyramid_dbpool.pool.managed import ManagedPool
from tests.support.makers import Connection

pool = ManagedPool(Connection, 1, 1, timeout=30.0, liveness=True, background=sys.argv[2] == "True")
until = time.monotonic() + float(sys.argv[1])
did = {"served": 0, "refused": 0}
busy = False

def use(number, frame):
    # Outside of the lock it may wait, and would wait for what its own thread has.
    global busy
    if busy or not pool._core.door.is_inside():
        return
    busy = True
    try:
        pool.connect().close()
        did["served"] += 1
    except PoolTimeout:
        did["refused"] += 1
    finally:
        busy = False

def call():
    while time.monotonic() < until:
        pool.connect().close()

signal.signal(signal.SIGALRM, use)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
threads = [threading.Thread(target=call) for _ in range(3)]
for each in threads:
    each.start()
call()
while not sum(did.values()) and time.monotonic() < until + 30:
    pool.connect().close()
signal.setitimer(signal.ITIMER_REAL, 0)
for each in threads:
    each.join(10)
    assert not each.is_alive()
numbers = pool.snapshot()
assert (numbers.leased, numbers.waiting, numbers.held) == (0, 0, 0), numbers
leases = [pool.connect() for _ in range(2)]
print("whole", sum(did.values()) > 0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("background", [False, True])
def test_a_storm_of_signals_starves_nobody(background: bool) -> None:
    """Each handler uses the pool in the middle of what its thread does there."""
    seconds = os.environ.get("DBPOOL_STRESS_SECONDS", "2")
    ran = subprocess.run(
        [sys.executable, "-c", STORM, seconds, str(background)],
        capture_output=True,
        text=True,
        timeout=90 + float(seconds),
        check=False,
    )
    assert (ran.stdout, ran.stderr) == ("whole True\n", "")
