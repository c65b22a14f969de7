"""The line by example, and what an interruption or a nested return may do to it."""

import itertools
import sys
from types import FrameType
from typing import Any

import pytest

from pyramid_dbpool.demand import openings_wanted
from pyramid_dbpool.entries import GONE, IDLE, LEASED, SLOT, Entry, Refusal, Waiter
from pyramid_dbpool.line import Line
from pyramid_dbpool.surplus import next_surplus, surplus_idle


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


def test_stray_that_turns_up_is_not_taken_back() -> None:
    """Its slot is another's by now."""
    line = Line[Entry](1, 1)
    (lease,) = filled(line, 1)
    line.lost(lease)
    assert not line.put(lease, 1.0)
    assert not line.idle
    assert line.leased == 0


def test_connection_that_was_held_goes_to_whoever_waits() -> None:
    """Not back to its place among the idle ones."""
    line = Line[Entry](1, 1)
    (lease,) = filled(line, 1)
    line.put(lease, 0.0)
    assert line.hold(lease)
    first = waiter()
    line.join(first)
    line.unhold(lease, 1.0)
    assert first.granted is lease


def test_slot_that_becomes_free_inside_a_return_is_told_to_the_owner() -> None:
    """Whoever reports it lost there cannot plan for it: it is not free yet."""
    told: list[int | None] = []
    line = Line[Entry](2, 2, slots_to_waiters=False, freed_late=lambda: told.append(line.free))
    dead, lease = filled(line, 2)
    line.join(Waiter(lambda: line.lost(dead), 0.0))
    assert line.put(lease, 1.0)
    assert told == [1]


def test_idle_connection_has_no_holder() -> None:
    """Else its last holder, killed elsewhere, would take it back from the next one."""
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


def test_broken_estimate_costs_at_most_one_connect() -> None:
    """Who has waited for a connect's time gets one, whatever the estimate says."""
    line = Line[Entry](5, 50, slots_to_waiters=False)
    filled(line, 5, now=10.0)
    line.join(waiter(10.0))
    assert openings_wanted(line, 10.1, opening=0, connect_time=0.15, hold_time=0.05) == 0
    assert openings_wanted(line, 10.15, opening=0, connect_time=0.15, hold_time=0.05) == 1


CROWDED = ("hand", "join", "rejoin", "leave", "lost", "open_failed")
OPERATIONS = ("put", "take", "hold", "unhold", *CROWDED)


def scene(lifo: bool, operation: str) -> tuple[Line[Entry], Entry, object]:
    """Set a line up so that `operation` has all its branches; return the call to make."""
    line = Line[Entry](3, 5, lifo=lifo)
    spare, lease, idle, _ = filled(line, 4)
    line.put(idle, 1.0)
    if operation == "unhold":
        line.hold(idle)
    if operation in CROWDED:
        line.take(1.0)
        assert line.reserve()
        for _ in range(0 if operation == "join" else 2):
            line.join(waiter())
    calls = {
        "put": lambda: line.put(lease, 2.0),
        "hand": lambda: line.put(lease, 2.0),
        "take": lambda: line.take(2.0),
        "lost": lambda: line.lost(lease),
        "leave": lambda: line.leave(next(iter(line.waiters))),
        "open_failed": line.open_failed,
        "hold": lambda: line.hold(idle),
        "unhold": lambda: line.unhold(idle, 2.0),
        "join": lambda: line.join(waiter()),
        "rejoin": lambda: line.rejoin(waiter(), 2.0),
    }
    return line, spare, calls[operation]


def check(line: Line[Entry]) -> None:
    """Check what must hold whatever has happened."""
    idle = list(line.idle)
    assert len(set(idle)) == len(idle)
    assert set(idle) <= line.members
    assert all(each.state is IDLE for each in idle)
    assert 0 <= line.held <= len(line.members)
    assert line.opening >= 0
    assert line.total <= 5
    assert not (line.idle and line.waiters), "somebody waits beside an idle connection"
    assert line.leased == sum(each.state is LEASED for each in line.members)
    assert len(line.idle_times()) == len(idle)


def interrupting(line: Line[Entry], spare: Entry, left: list[int]) -> Any:
    """Make a trace function that returns `spare` after so many instructions of the line."""

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.endswith(("/line.py", "/idle.py")):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            if left[0] == 0:
                sys.settrace(None)
                line.put(spare, 3.0)
            left[0] -= 1
        return trace

    return trace


@pytest.mark.parametrize("lifo", [True, False])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_collector_may_return_a_connection_inside_any_operation(
    lifo: bool, operation: str
) -> None:
    """A return from the garbage collector at any instruction leaves the line whole.

    It may well be put off until the interrupted operation is done.
    """
    # Python 3.12 tells of instructions only after `settrace` if a frame asked before it.
    sys._getframe().f_trace_opcodes = True
    for step in itertools.count():
        line, spare, call = scene(lifo, operation)
        left = [step]

        trace = interrupting(line, spare, left)
        sys.settrace(trace)
        try:
            call()  # type: ignore[operator]
        finally:
            sys.settrace(None)
        check(line)
        if left[0] >= 0:
            assert step > 5, "nothing was interrupted"
            return
        assert spare.state is IDLE or spare.state is LEASED
        assert (spare in line.idle) == (spare.state is IDLE)
