"""Act in the middle of the pool's own code, at a chosen one of its opcodes."""

import functools
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import pyramid_dbpool.pool

CODE = str(Path(pyramid_dbpool.pool.__file__).parent)


def striking(
    act: Callable[[], object], left: list[int], where: Callable[[], bool] = lambda: True
) -> Callable[..., Any]:
    """Make a trace function that acts after so many of our opcodes, of those that are `where`."""

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(CODE):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and where():
            if left[0] == 0:
                sys.settrace(None)
                act()
            left[0] -= 1
        return trace

    return trace


def in_a_thread_of_its_own(test: Callable[..., None]) -> Callable[..., None]:
    """Let a test that raises at any opcode end with its thread.

    Raised in an `except` clause's last steps, an exception leaves the thread with the clause's own
    as the one being handled, and it would be the context of whatever later tests raise there.
    """

    @functools.wraps(test)
    def run(*arguments: object, **named: object) -> None:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(test, *arguments, **named).result()

    return run
