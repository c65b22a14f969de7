"""A thread cannot be started, once or for a while: nobody starves, and nothing is forgotten."""

import logging
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pyramid_dbpool.pool.housekeeper import Housekeeper
from pyramid_dbpool.pool.line import Entry, Line, Waiter
from pyramid_dbpool.pool.managed import ManagedPool
from pyramid_dbpool.pool.opener import Openings
from pyramid_dbpool.pool.stats import Stats
from tests.support.makers import PATIENCE, Maker, in_thread, wait_for


class Refusing:
    """Has starts of the pool's threads refused."""

    def __init__(self) -> None:
        self.part = 0.0
        self.refused = 0
        self._chance = random.Random(5)
        self._start = threading.Thread.start

    def start(self, thread: threading.Thread) -> None:
        """Start a thread, or refuse it."""
        if thread.name.startswith("dbpool-") and self._chance.random() < self.part:
            self.refused += 1
            raise RuntimeError("can't start new thread")
        self._start(thread)


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Refusing]:
    """Have threads refused, as far as the test says so, and a housekeeper without a thread."""
    made = Refusing()

    def start(thread: threading.Thread) -> None:
        made.start(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.setattr("pyramid_dbpool.pool.housekeeper._keepers", {})
    yield made
    made.part = 0.0


def test_a_call_is_not_promised_where_no_thread_can_be_started(refusing: Refusing) -> None:
    """Whoever asks again has it called, and once."""
    keeper, calls = Housekeeper(lambda: 0.0), list[int]()
    refusing.part = 1.0
    for _ in range(3):
        assert keeper.call_at(0.0, lambda: calls.append(1)) is None
    assert not keeper._inbox
    refusing.part = 0.0
    assert keeper.call_at(0.0, lambda: calls.append(2)) is not None
    wait_for(lambda: calls)
    assert calls == [2]


def test_idle_connections_are_closed_after_the_next_return(
    maker: Maker, refusing: Refusing
) -> None:
    """Which finds that no visit is planned."""
    pool = ManagedPool(maker, 2, 0, idle_timeout=0.001)
    refusing.part = 1.0
    pool.connect().close()
    assert refusing.refused
    refusing.part = 0.0
    pool.connect().close()
    wait_for(lambda: maker.made[0].closed)
    pool.dispose()


def test_what_cannot_be_closed_yet_is_closed_later(
    maker: Maker, refusing: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The housekeeper is there, but may start nobody: the connection stays idle, not held."""
    monkeypatch.setattr("pyramid_dbpool.pool.upkeep.RETRY_AFTER", 0.01)
    pool = ManagedPool(maker, 2, 0, idle_timeout=3600.0)
    pool.connect().close()
    core = pool._core
    (entry,) = core.line.idle
    refusing.part = 1.0
    entry.expires_at = 0.0
    core.upkeep.run()
    assert (pool.snapshot().idle, pool.snapshot().held) == (1, 0)
    wait_for(lambda: refusing.refused > 1)
    refusing.part = 0.0
    wait_for(lambda: maker.made[0].closed)
    pool.dispose()


def test_a_long_hold_is_warned_of_though_the_first_thread_was_refused(
    maker: Maker, refusing: Refusing, caplog: pytest.LogCaptureFixture
) -> None:
    """The next return has the watch begin again."""
    pool = ManagedPool(maker, 2, 0, hold_warning=0.01)
    refusing.part = 1.0
    leases = [pool.connect() for _ in range(2)]
    refusing.part = 0.0
    leases.pop().close()
    wait_for(lambda: "has held a connection" in caplog.text)
    leases.pop().close()
    pool.dispose()


def test_a_ping_needs_no_thread(maker: Maker, refusing: Refusing) -> None:
    """It is not bounded then, but for the kernel's own limit."""
    pool = ManagedPool(maker, 1, 0, liveness=True)
    pool.connect().close()
    next(iter(pool._core.line.idle)).doubt()
    refusing.part = 1.0
    pool.connect().close()
    assert len(maker.made) == 1
    pool.dispose()


@pytest.mark.parametrize("busy", [False, True], ids=["idle pool", "returns expected"])
def test_callers_open_for_themselves(maker: Maker, refusing: Refusing, busy: bool) -> None:
    """In every free slot, also where a return is awaited that nobody will look for."""
    pool = ManagedPool(maker, 2, 1, timeout=PATIENCE, background=True)
    first = pool.connect()
    if busy:
        for _ in range(5):
            first.close()
            first = pool.connect()
        pool._core.stats.connect_time = 10.0
    pool._core.shared.timer._thread = None  # type: ignore[attr-defined]
    refusing.part = 1.0
    others = [pool.connect(), pool.connect()]
    assert len(maker.made) == 3
    for each in [first, *others]:
        each.close()
    pool.dispose()


def test_who_waits_in_an_outage_sees_for_himself(maker: Maker, refusing: Refusing) -> None:
    """Nobody will probe for him: he waits neither for nothing nor beyond the outage."""
    pool = ManagedPool(maker, 2, 1, timeout=PATIENCE, background=True)
    maker.error = ConnectionError("away")
    waiter = in_thread(lambda: pool.connect().close())
    wait_for(lambda: pool.outage)
    refusing.part = 1.0
    pool._core.shared.timer._thread = None  # type: ignore[attr-defined]
    maker.error = None
    pool.connect().close()
    waiter.join(PATIENCE)
    assert not waiter.is_alive()
    assert pool.outage is None
    pool.dispose()


def test_openings_wait_for_no_look_that_will_not_come() -> None:
    """What is not looked at again is opened at once; an overdue look is asked for again."""
    line, asked, there = Line[Entry](5, 50, slots_to_waiters=False), list[float](), [False]

    def set_timer(due: float) -> bool:
        asked.append(due)
        return there[0]

    lease = Entry()
    line.opening = 1
    line.opened(lease, 10.0)
    stats = Stats()
    openings = Openings(line, stats, refuse=lambda error, *_: error, set_timer=set_timer)
    stats.hold.observe(0.001)
    assert openings.admit(Waiter(lambda: None, 10.0), 10.0)
    assert len(openings.planned) == 1
    openings.planned.clear()
    line.opening = 0
    there[0] = True
    for now in (10.0, 10.001, 10.002):
        openings.plan(now)
    assert (len(asked), line.opening) == (2, 0)
    lease.leased_at = 20.0
    next(iter(line.waiters)).since = 20.0
    openings.plan(20.0)
    assert (len(asked), line.opening) == (3, 0)


# With all that needs a thread, soon.
RESTLESS: dict[str, Any] = {
    "idle_timeout": 0.05,
    "overflow_linger": 0.01,
    "keepalive": 0.02,
    "max_lifetime": 0.1,
    "liveness": True,
    "background": True,
    "hold_warning": 0.05,
}


@pytest.mark.slow
@pytest.mark.parametrize("part", [0.3, 0.9, 1.0])
def test_nobody_starves_while_threads_are_refused_at_random(
    maker: Maker, refusing: Refusing, part: float, caplog: pytest.LogCaptureFixture
) -> None:
    """All are served, and when all is over nothing is held, being opened or idle for ever."""
    caplog.set_level(logging.CRITICAL)
    pool = ManagedPool(maker, 2, 3, timeout=PATIENCE, **RESTLESS)
    failures = list[BaseException]()

    def call(seed: int) -> None:
        chance, pause = random.Random(seed), threading.Event()
        try:
            for _ in range(40):
                lease: Any = pool.connect()
                pause.wait(chance.choice([0.0, 0.0, 0.001, 0.01]))
                if chance.random() < 0.1:
                    lease.invalidate()
                lease.close()
                pause.wait(chance.choice([0.0, 0.0, 0.01]))
        except BaseException as error:
            failures.append(error)

    refusing.part = part
    callers = [in_thread(lambda seed=seed: call(seed)) for seed in range(12)]  # type: ignore[misc]
    for each in callers:
        each.join(4 * PATIENCE)
        assert not each.is_alive()
    assert not failures
    assert refusing.refused
    refusing.part = 0.0
    pool.connect().close()
    wait_for(lambda: pool.snapshot().idle == pool._core.line.total == 0)
    assert all(each.closed for each in maker.made)
    pool.dispose()
