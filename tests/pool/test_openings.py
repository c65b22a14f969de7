"""Openings that were planned: each one is launched, or its slot is given back."""

import threading
from collections.abc import Callable
from contextvars import Context

import pytest

from pyramid_dbpool.pool.entries import Entry, Slot, Waiter
from pyramid_dbpool.pool.line import Line
from pyramid_dbpool.pool.openings import Openings


def planned(start: Callable[[Callable[[], object]], object]) -> tuple[Openings, Line[Entry]]:
    """Make openings, one of them planned; each that runs is over at once."""
    line = Line[Entry](1, 2, slots_to_waiters=False)
    openings = Openings(line, threading.RLock(), line.open_failed, start)
    openings.plan_locked(Context())
    return openings, line


def test_what_an_interrupted_caller_planned_is_launched_by_the_next() -> None:
    """Left behind, it would count as under way for ever."""
    openings, line = planned(lambda run: run())
    assert openings.planned
    openings.launch()
    assert line.opening == 0
    assert not openings.planned


def test_interrupt_at_the_start_of_a_thread_gives_the_slot_back() -> None:
    """And is the caller's to see."""

    def interrupted(run: object) -> None:
        raise KeyboardInterrupt

    openings, line = planned(interrupted)
    with pytest.raises(KeyboardInterrupt):
        openings.launch()
    assert line.opening == 0


def test_slot_of_a_thread_that_runs_after_all_is_given_back_once() -> None:
    """The interrupt may strike when the thread has started already."""
    late: list[Callable[[], object]] = []

    def started_and_interrupted(run: Callable[[], object]) -> None:
        late.append(run)
        raise KeyboardInterrupt

    openings, line = planned(started_and_interrupted)
    with pytest.raises(KeyboardInterrupt):
        openings.launch()
    late[0]()
    assert line.opening == 0


def test_waiter_opens_for_himself_where_no_thread_can_be_started() -> None:
    """As at interpreter shutdown."""

    def refused(run: object) -> None:
        raise RuntimeError("can't start new thread")

    openings, line = planned(refused)
    waiter = Waiter(lambda: None, 0.0)
    line.join(waiter)
    openings.launch()
    assert isinstance(waiter.granted, Slot)
    assert line.opening == 1


def test_opening_that_hangs_is_told_from_one_that_is_slow() -> None:
    """More than a second, and more than four usual connects."""
    openings, _ = planned(lambda run: None)
    openings.begin_locked("one", 10.0)
    assert openings.next_hanging_locked(10.0, 0.1) == 11.0
    assert openings.hanging_locked(10.9, 0.1) == 0
    assert openings.hanging_locked(11.0, 0.1) == 1
    assert openings.hanging_locked(11.0, 0.5) == 0
    openings.end_locked("one")
    assert openings.hanging_locked(99.0, 0.1) == 0
