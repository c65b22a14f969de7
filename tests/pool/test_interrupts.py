"""A caller who is interrupted, wherever it may be, takes no connection and no slot with him."""

import itertools
import os
import subprocess
import sys
import threading
import traceback
from contextlib import suppress

import pytest
from sqlalchemy.pool import PoolProxiedConnection

from pyramid_dbpool.errors import PoolTimeout
from pyramid_dbpool.pool import upkeep
from pyramid_dbpool.pool.managed import ManagedPool
from tests.support.makers import PATIENCE, Maker, in_thread, wait_for
from tests.support.striking import in_a_thread_of_its_own, striking


def test_lease_that_nobody_received_is_forgotten(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its slot serves the next one whose time is over, at the latest."""
    pool = ManagedPool(maker, 1, 0, timeout=0.0)
    pool._do_get()  # and nobody takes it on
    with pytest.raises(PoolTimeout):
        pool.connect()
    monkeypatch.setattr(upkeep, "UNRECEIVED_AFTER", 0.0)
    pool.connect().close()
    assert pool.snapshot().unreceived == 1


def test_a_lease_that_was_forgotten_is_closed_when_its_caller_is_killed(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He was in the middle of a ping for so long that its slot was given away."""
    pool = ManagedPool(maker, 1, 0, liveness=True)
    pool.connect().close()
    core = pool._core
    (entry,) = core.line.idle
    entry.doubt()

    def ping(_record: object) -> bool:
        monkeypatch.setattr(upkeep, "UNRECEIVED_AFTER", 0.0)
        core.upkeep.reclaim()
        raise KeyboardInterrupt

    monkeypatch.setattr(core.source, "ping", ping)
    with pytest.raises(KeyboardInterrupt):
        pool.connect()
    assert (core.line.total, maker.made[0].closed) == (0, 1)
    pool.dispose()


@pytest.mark.parametrize("background", [False, True], ids=["inline", "background"])
@pytest.mark.parametrize("where", ["ping", "drop"])
def test_who_is_killed_while_he_checks_a_connection_loses_only_that_one(
    maker: Maker, monkeypatch: pytest.MonkeyPatch, background: bool, where: str
) -> None:
    """In the middle of a ping, or of closing a dead one: it is closed, and its slot is free."""
    pool = ManagedPool(maker, 1, 0, timeout=0.2, liveness=True, background=background)
    pool.connect().close()
    core = pool._core
    (entry,) = core.line.idle
    entry.doubt()

    def killed(_record: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(core.source, "ping", lambda _record: False)
    with monkeypatch.context() as patched:
        patched.setattr(core.source, where, killed)
        with pytest.raises(KeyboardInterrupt):
            pool.connect()
    assert (core.line.total, core.line.leased) == (0, 0)
    assert maker.made[0].closed or where == "drop"
    pool.connect().close()
    assert len(maker.made) == 2
    pool.dispose()


def test_what_was_just_opened_is_closed_when_its_caller_is_killed(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it counts as a lease: the slot is free, and nothing stays open beside it."""
    pool = ManagedPool(maker, 1, 0, timeout=0.0)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pool._core.line, "opened", killed)
        with pytest.raises(KeyboardInterrupt):
            pool.connect()
    assert (pool._core.line.total, maker.made[0].closed) == (0, 1)
    pool.connect().close()
    pool.dispose()


def test_what_was_taken_and_not_noted_is_forgotten_in_time(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two steps of a take: it is neither idle nor leased."""
    monkeypatch.setattr(upkeep, "UNRECEIVED_AFTER", 0.0)
    pool = ManagedPool(maker, 1, 0, timeout=0.0)
    pool.connect().close()
    pool._core.line.idle.take()
    pool.connect().close()
    assert (pool._core.line.total, pool.snapshot().unreceived) == (1, 1)
    pool.dispose()


def test_who_is_killed_while_he_waits_does_not_count_as_waiting(
    maker: Maker,
) -> None:
    """He is in no count: of the line, and of those who wait beside what they hold."""
    pool = ManagedPool(maker, 1, 0, timeout=0.0)
    lease = pool.connect()

    def killed() -> None:
        raise KeyboardInterrupt

    # As the wait ends.
    object.__setattr__(pool._core._checkout_parts, "reclaim", killed)
    with pytest.raises(KeyboardInterrupt):
        pool.connect()
    assert (pool.snapshot().waiting, pool._core.stats.waiting_holders) == (0, 0)
    lease.close()
    pool.dispose()


@pytest.mark.slow
@in_a_thread_of_its_own
def test_who_is_killed_in_a_full_line_stands_there_no_more(maker: Maker) -> None:
    """At every opcode of a wait in vain: what comes back later would be handed to nobody."""
    # Python 3.12 tells of instructions only after `settrace` if a frame asked before it.
    sys._getframe().f_trace_opcodes = True

    left = [0]

    def killed() -> None:
        left[0] = -1
        raise KeyboardInterrupt

    for step in itertools.count():
        pool = ManagedPool(maker, 1, 0, timeout=0.001)
        lease = pool.connect()
        (entry,) = pool._core.line.members
        # As if another thread had it: who holds one himself waits in another way.
        entry.holder = 0
        left[0] = step
        sys.settrace(striking(killed, left))
        try:
            with pytest.raises((KeyboardInterrupt, PoolTimeout)):
                pool.connect()
        finally:
            sys.settrace(None)
        assert pool._core.line.waiting == 0
        lease.close()
        if left[0] >= 0:
            assert step > 500, "nothing was interrupted"
            return


def killed() -> None:
    """Interrupt whoever calls this."""
    raise KeyboardInterrupt


# Each of its steps begins and ends threads.
@pytest.mark.timeout(600)
@pytest.mark.slow
@pytest.mark.parametrize("background", [False, True], ids=["inline", "background"])
@pytest.mark.parametrize("served", [False, True], ids=["in vain", "served"])
@in_a_thread_of_its_own
def test_who_is_killed_in_a_full_line_leaves_it(
    maker: Maker, served: bool, background: bool
) -> None:
    """At every opcode, until he waits as any other does: what comes back is for the others."""
    sys._getframe().f_trace_opcodes = True
    for step in itertools.count():
        timeout = PATIENCE if served else 0.0005
        pool = ManagedPool(maker, 1, 0, timeout=PATIENCE, background=background, liveness=True)
        core, over, leases = pool._core, threading.Event(), list[PoolProxiedConnection]()
        # Who holds one himself goes another way.
        in_thread(lambda: leases.append(pool.connect())).join()  # noqa: B023
        (lease,) = leases
        object.__setattr__(core.shared, "timeout", timeout)

        def give_back() -> None:
            wait_for(lambda: core.line.waiting or over.is_set())  # noqa: B023 - joined below
            lease.close()  # noqa: B023

        giver = in_thread(give_back) if served else None
        where = set[str]()
        # Where the lock has just been taken, only a tracer can interrupt: it would stay taken.
        sys.settrace(striking(killed, [step], lambda: not core.door.is_inside()))  # noqa: B023
        try:
            with suppress(PoolTimeout):
                leases.append(pool.connect())
        except KeyboardInterrupt as error:
            where = {each.name for each in traceback.extract_tb(error.__traceback__)}
        finally:
            sys.settrace(None)
        over.set()
        if giver is not None:
            giver.join()
        assert core.line.waiting == 0, where
        for each in leases:
            each.close()
        assert (core.line.leased, core.line.opening, len(core.line.idle)) == (0, 0, 1), where
        maker.forget()
        if not where or "_obtain" in where:
            assert step > 50, "nothing was interrupted"
            return


INTERRUPTED = """
import gc, signal, sys, threading, time
from pyramid_dbpool.pool import upkeep
from pyramid_dbpool.pool.managed import ManagedPool
from tests.support.makers import Connection

sys.unraisablehook = lambda unraisable: None  # some interrupts strike in a destructor
upkeep.UNRECEIVED_AFTER = 0.1  # only this thread checks out: no lease is on its way for so long
pool = ManagedPool(Connection, 2, 1, timeout=0.3, use_lifo=True)
until, done = time.monotonic() + float(sys.argv[1]), threading.Event()
armed, caught = False, 0

def strike(number, frame):
    # Armed inside the pool's calls only, and once for each: what catches the
    # interrupt is not to be struck by the next one.
    global armed
    if armed:
        armed = False
        raise KeyboardInterrupt

def interrupt():
    while not done.wait(0.0007):
        signal.raise_signal(signal.SIGINT)

signal.signal(signal.SIGINT, strike)
thread = threading.Thread(target=interrupt)
thread.start()
while caught < 100 or time.monotonic() < until:
    try:
        while caught < 100 or time.monotonic() < until:
            armed = True
            pool.connect().close()
            armed = False
    except KeyboardInterrupt:
        caught += 1
done.set()
thread.join()
gc.collect()
upkeep.UNRECEIVED_AFTER = 0.0
for _ in range(2):
    pool._core.upkeep.reclaim()
leases = [pool.connect() for _ in range(3)]
assert pool.checkedout() == 3, pool.status()
print("whole after", caught, pool.snapshot().unreceived)
"""


@pytest.mark.slow
def test_interrupts_lose_nothing() -> None:
    """Ctrl-C anywhere in a checkout or a return leaves every slot usable."""
    seconds = os.environ.get("DBPOOL_STRESS_SECONDS", "2")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", INTERRUPTED, seconds],
        capture_output=True,
        text=True,
        timeout=60 + float(seconds),
        check=False,
    )
    assert "whole after" in done.stdout, done.stdout + done.stderr[-4000:]
