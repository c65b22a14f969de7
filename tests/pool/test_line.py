"""The line by example."""

import math
from typing import Any

import pytest

from pyramid_dbpool.pool.line import GONE, SLOT, Entry, Line, Refusal, Waiter
from pyramid_dbpool.pool.opener import openings_wanted, short_line
from pyramid_dbpool.pool.upkeep import next_surplus, surplus_idle


def waiter(now: float = 0.0) -> Waiter:
    """Make a waiter that nobody needs to wake."""
    return Waiter(lambda: None, now)


def filled(line: Line[Entry], count: int, now: float = 0.0) -> list[Entry]:
    """Open so many connections and return their leases."""
    leases = []
    for _ in range(count):
        assert line.reserve()
        entry = Entry()
        line.opened(entry, now)
        leases.append(entry)
    return leases


def test_first_come_first_served() -> None:
    """Two returns go to the first two waiters, in order."""
    line = Line[Entry](2, 2)
    one, two = filled(line, 2)
    waiters = [waiter() for _ in range(3)]
    for each in waiters:
        assert line.join(each)
    line.put(one, 1.0)
    line.put(two, 1.0)
    assert [each.granted for each in waiters] == [one, two, None]


def test_newcomer_cannot_reserve_past_the_line() -> None:
    """A slot is not given to a newcomer while somebody waits for one."""
    line = Line[Entry](1, 1, slots_to_waiters=False)
    (lease,) = filled(line, 1)
    line.join(waiter())
    line.lost(lease)
    assert line.free == 1
    assert not line.reserve()


def test_lost_connection_is_a_slot_for_the_first_waiter() -> None:
    """Without a background, a freed slot is granted at once."""
    line = Line[Entry](1, 1)
    (lease,) = filled(line, 1)
    first, second = waiter(), waiter()
    line.join(first)
    line.join(second)
    line.lost(lease)
    assert (first.granted, second.granted, lease.state) == (SLOT, None, GONE)
    line.open_failed()
    assert second.granted is SLOT, "a failed opening wakes the next one"


def test_handed_connection_has_no_holder() -> None:
    """Its last holder, killed in another checkout just now, must not take it back."""
    line = Line[Entry](1, 1)
    (lease,) = filled(line, 1)
    lease.holder = 42
    line.join(waiter())
    line.put(lease, 1.0)
    assert lease.holder == 0


def test_full_line_counts_only_those_who_wait() -> None:
    """Whoever has given up makes room for another."""
    line = Line[Entry](1, 1, max_waiting=1)
    filled(line, 1)
    first = waiter()
    assert line.join(first)
    assert not line.join(waiter())
    line.leave(first)
    assert line.join(waiter())


def test_caller_with_a_dead_connection_keeps_its_turn() -> None:
    """It rejoins at the head, even where the line is full."""
    line = Line[Entry](1, 1, max_waiting=1, slots_to_waiters=False)
    (lease,) = filled(line, 1)
    behind, again = waiter(), waiter()
    line.join(behind)
    line.rejoin(again, 1.0)
    line.put(lease, 1.0)
    assert (again.granted, behind.granted) == (lease, None)


def test_refused_waiters_get_errors_of_their_own() -> None:
    """An exception shared by threads would mix their tracebacks up."""
    line = Line[Entry](1, 1)
    filled(line, 1)
    waiters = [waiter(), waiter()]
    for each in waiters:
        line.join(each)
    assert line.refuse(lambda: ValueError("no")) == 2
    errors = [each.granted.error for each in waiters if isinstance(each.granted, Refusal)]
    assert len({id(error) for error in errors}) == 2


def test_forgotten_lease_that_turns_up_is_not_taken_back() -> None:
    """Its slot is another's by now."""
    line = Line[Entry](1, 1)
    (lease,) = filled(line, 1)
    line.lost(lease)
    assert not line.put(lease, 1.0)
    assert not line.idle
    assert line.leased == 0


def test_connection_that_was_held_goes_to_whoever_waits() -> None:
    """It does not go back to its place among the idle ones while anybody waits."""
    line = Line[Entry](1, 1)
    (lease,) = filled(line, 1)
    line.put(lease, 0.0)
    assert line.hold(lease)
    first = waiter()
    line.join(first)
    line.unhold(lease, 1.0)
    assert first.granted is lease


def test_idle_connection_has_no_holder() -> None:
    """Its last holder, killed elsewhere, must not take it back from the next one."""
    line = Line[Entry](1, 1)
    (lease,) = filled(line, 1)
    lease.holder = 7
    line.put(lease, 0.0)
    taken = line.take(1.0)
    assert taken is lease
    assert taken.holder == 0


def test_who_waits_for_an_opening_only_does_not_fill_the_line() -> None:
    """`max_waiting` counts those who wait for others; free slots will serve the rest."""
    line = Line[Entry](2, 3, slots_to_waiters=False, max_waiting=1)
    filled(line, 1)
    joined = [line.join(waiter()) for _ in range(4)]
    assert joined == [True, True, True, False]


def test_fifo_surplus_is_the_low_water_mark() -> None:
    """One request in turn on four connections leaves three surplus, though each is used."""
    line = Line[Entry](4, 4)
    for lease in filled(line, 4):
        line.put(lease, 0.0)
    for moment in range(1, 100):
        entry = line.take(float(moment))
        assert entry is not None
        line.put(entry, moment + 0.5)
    doomed = surplus_idle(line, 100.0, linger=0.0, idle_timeout=90.0, min_idle=0)
    assert len(doomed) == 3


def test_beyond_the_size_the_linger_counts() -> None:
    """Overflow goes after `linger`, the rest after `idle_timeout`, never below `min_idle`."""
    line = Line[Entry](2, 4, lifo=True, linger=True)
    for lease in filled(line, 4):
        line.put(lease, 0.0)
    limits: dict[str, Any] = {"linger": 30.0, "idle_timeout": 180.0, "min_idle": 1}
    assert next_surplus(line, **limits) == 30.0
    assert len(surplus_idle(line, 30.0, **limits)) == 2
    assert len(surplus_idle(line, 180.0, **limits)) == 3


def test_short_holds_open_nothing() -> None:
    """Returns that come within a connect's time serve the whole line."""
    line = Line[Entry](5, 50, slots_to_waiters=False)
    filled(line, 5, now=10.0)
    for _ in range(45):
        line.join(waiter(10.0))
    assert openings_wanted(line, 10.019, opening=0, connect_time=0.15, hold_time=0.01) == 0


def test_long_holds_open_one_for_each_waiter() -> None:
    """Where no return is in sight, everybody gets a connection."""
    line = Line[Entry](5, 50, slots_to_waiters=False)
    filled(line, 5, now=10.0)
    for _ in range(45):
        line.join(waiter(10.0))
    assert openings_wanted(line, 10.019, opening=0, connect_time=0.15, hold_time=1.0) == 45


def test_a_line_that_is_not_short_is_not_looked_at_first() -> None:
    """Where returns will surely not serve it, its openings begin at once."""
    line = Line[Entry](5, 50, slots_to_waiters=False)
    filled(line, 5, now=10.0)
    short = short_line(line, 0.15, hold_at_least=0.1)
    assert short == pytest.approx(7.5)
    assert short_line(line, 0.15, hold_at_least=0.0) == math.inf
    wanted = []
    for _ in range(45):
        line.join(waiter(10.0))
        estimates = {"connect_time": 0.15, "hold_time": 0.1, "short": short}
        wanted.append(openings_wanted(line, 10.0, opening=0, **estimates))
    assert wanted == [0] * 7 + list(range(8, 46))


def test_broken_estimate_costs_at_most_one_connect() -> None:
    """Whoever has waited for a connect's time gets one, whatever the estimate says."""
    line = Line[Entry](5, 50, slots_to_waiters=False)
    filled(line, 5, now=10.0)
    line.join(waiter(10.0))
    assert openings_wanted(line, 10.1, opening=0, connect_time=0.15, hold_time=0.05) == 0
    assert openings_wanted(line, 10.15, opening=0, connect_time=0.15, hold_time=0.05) == 1
