"""Openings that were planned: each one is started, or its slot is given back."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from pyramid_dbpool.errors import DatabaseUnavailable
from pyramid_dbpool.pool.line import Slot, Waiter
from pyramid_dbpool.pool.managed import ManagedPool
from pyramid_dbpool.pool.opener import BackgroundOpener
from pyramid_dbpool.pool.refusals import Refusals
from tests.support.makers import Maker

Start = Callable[[str, Callable[[], object]], object]


def planned(maker: Maker, start: Start) -> tuple[BackgroundOpener, Waiter]:
    """Make an opener with one opening planned, for one who waits."""
    core = ManagedPool(maker, 1, 1, background=True)._core
    opener = BackgroundOpener(core.shared, core.health, Refusals(core.shared), start=start)
    waiter = Waiter(lambda: None, 0.0, opener.context())
    with core.lock:
        assert opener.admit_locked(waiter, 0.0, again=False) is True
    assert opener.openings.planned
    return opener, waiter


def opening(opener: BackgroundOpener) -> int:
    """Count what is being opened."""
    return opener._line.opening


def test_what_an_interrupted_caller_planned_is_started_by_the_next(maker: Maker) -> None:
    """Left behind, it would count as under way for ever."""
    opener, waiter = planned(maker, lambda name, run: run())
    opener.launch()
    assert opening(opener) == 0
    assert waiter.granted is not None


def test_interrupt_at_the_start_of_a_thread_gives_the_slot_back(maker: Maker) -> None:
    """And is the caller's to see."""

    def interrupted(name: str, run: object) -> None:
        raise KeyboardInterrupt

    opener, waiter = planned(maker, interrupted)
    opener._line.leave(waiter)
    with pytest.raises(KeyboardInterrupt):
        opener.launch()
    assert opening(opener) == 0


def test_slot_of_a_thread_that_runs_after_all_is_given_back_once(maker: Maker) -> None:
    """The interrupt may strike when the thread has started already."""
    late: list[Callable[[], object]] = []

    def started_and_interrupted(name: str, run: Callable[[], object]) -> None:
        late.append(run)
        raise KeyboardInterrupt

    opener, waiter = planned(maker, started_and_interrupted)
    opener._line.leave(waiter)
    with pytest.raises(KeyboardInterrupt):
        opener.launch()
    late[0]()
    assert opening(opener) == 0
    assert not maker.made


def test_who_opened_for_himself_and_fails_late_tells_old_news(maker: Maker) -> None:
    """Another one, who began later, has been served: the server is there."""
    pool = ManagedPool(maker, 2, 0, timeout=0.0, background=True)

    def be_overtaken() -> None:
        maker.before = lambda: None
        pool.connect().close()
        raise ConnectionRefusedError

    maker.before = be_overtaken
    with pytest.raises(DatabaseUnavailable) as caught:
        pool.connect()
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    assert pool.outage is None and not pool.is_cut_off
    assert pool.snapshot().leased == 0
    pool.dispose()


def test_waiter_opens_for_himself_where_no_thread_can_be_started(maker: Maker) -> None:
    """As at interpreter shutdown."""

    def refused(name: str, run: object) -> None:
        raise RuntimeError("can't start new thread")

    opener, waiter = planned(maker, refused)
    opener.launch()
    assert isinstance(waiter.granted, Slot)
    assert opening(opener) == 1


def test_openings_run_in_threads_of_their_own(maker: Maker) -> None:
    """Named so that whoever looks at the process knows them."""
    named: list[Any] = []
    maker.before = lambda: named.append(threading.current_thread().name)
    pool = ManagedPool(maker, 1, 1, background=True)
    pool.connect().close()
    assert named == ["dbpool-opener"]
    pool.dispose()
