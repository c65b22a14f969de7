"""A unit of work that is interrupted as it begins or ends."""

import contextlib
import itertools
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from sqlalchemy.orm import Session

from pyramid_dbpool import get_engine, unit_of_work
from pyramid_dbpool.engines import stored
from pyramid_dbpool.pool import labels
from pyramid_dbpool.sessions import maker, uncommitted
from pyramid_dbpool.sessions import unit_of_work as unit

CODE = {module.__file__ for module in (labels, maker, stored, uncommitted, unit)}
# What stands around the `try` of these nobody can undo, and CPython delivers no signal there.
BARE = {"UnitOfWork.__enter__", "UnitOfWork.__exit__", "UnitOfWork.__init__", "unit_of_work"}


class Own(Session):
    """A session of an app's own class, which a unit has end as ours do."""


def interrupting(left: list[int]) -> Callable[..., Any]:
    """Make a trace function that raises KeyboardInterrupt after so many of our opcodes."""

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename not in CODE or frame.f_code.co_qualname in BARE:
            return trace
        frame.f_trace_opcodes = True
        if event == "opcode":
            left[0] -= 1
            if left[0] < 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    return trace


def test_an_interrupt_leaves_nothing_of_a_unit_behind(settings: dict[str, Any]) -> None:
    """Wherever it comes: no name, no watch, no promise, and the session of its own class."""
    session = Own(get_engine(settings))
    # Python 3.12 tells of instructions only after `settrace` if a frame asked before it.
    sys._getframe().f_trace_opcodes = True
    for step in itertools.count():
        left = [step]
        sys.settrace(interrupting(left))
        with contextlib.suppress(KeyboardInterrupt), unit_of_work(session):
            pass
        sys.settrace(None)
        assert type(session) is Own, step
        assert labels.current_label() is stored.current_outcome() is None, step
        assert uncommitted._PROMISE not in session.info, step
        if left[0] >= 0:
            assert step > 100, "nothing was interrupted"
            return
