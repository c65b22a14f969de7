"""The garbage collector returns a connection in the middle of whatever the line is doing."""

import itertools
import sys
from types import FrameType
from typing import Any

import pytest

from pyramid_dbpool.pool.entries import IDLE, LEASED, Entry
from pyramid_dbpool.pool.line import Line
from tests.pool.test_line import filled, waiter

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
