"""The openings that were planned and those under way, each with a slot reserved for it."""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import Context
from typing import Any

from . import inheritance
from .line import Line

# An opening that takes longer than this (seconds), and than so many usual ones, hangs:
# others are opened beside it as if it were not there.
HANGS_AFTER = 1.0
HANGS_AFTER_CONNECTS = 4


def start_thread(run: Callable[[], object]) -> None:
    """Run an opening in a thread of its own; here and now where there must be none.

    :raises RuntimeError: no thread can be started, as at interpreter shutdown.
    """
    if inheritance.is_uwsgi_master():
        run()
        return
    threading.Thread(target=run, name="dbpool-opener", daemon=True).start()


class Openings:
    """Hand planned openings to threads, and give the slot back where that fails.

    `plan_locked` needs the pool's lock held; `launch` must be called without it, by
    whoever has planned. It launches what others left behind too: they may have been
    interrupted in between.
    """

    def __init__(
        self,
        line: Line[Any],
        lock: AbstractContextManager[object],
        open_one: Callable[[], object],
        start: Callable[[Callable[[], object]], object] = start_thread,
    ) -> None:
        self._line = line
        self._lock = lock
        self._open_one = open_one
        self._start = start
        # Each in a list of its own, which whoever launches it or gives its slot back
        # empties first: nobody does both.
        self._planned: deque[list[Context]] = deque()
        # When those under way began, on the pool's clock.
        self._began: dict[object, float] = {}

    def plan_locked(self, context: Context) -> None:
        """Reserve a slot, and note that a connection is to be opened in it."""
        planned, line, ticket = self._planned, self._line, [context]
        # No call between these two lines: an interrupt there would leave a slot that
        # counts as being opened for ever.
        planned += (ticket,)
        line.opening += 1

    @property
    def planned(self) -> bool:
        """Whether there is something to launch."""
        return bool(self._planned)

    def launch(self) -> None:
        """Start what was planned, each opening in a thread of its own."""
        while self._planned:
            ticket: list[Context] = []
            try:
                # Not popleft(): interrupted as it returns, the ticket would be lost.
                ticket = self._planned[0]
                del self._planned[0]
                self._start(functools.partial(self._run, ticket))
            except BaseException as error:
                self._give_back(ticket)
                # No thread can be started, or another thread took the last ticket.
                if not isinstance(error, RuntimeError | IndexError):
                    raise

    def _run(self, ticket: list[Context]) -> None:
        try:
            context = ticket.pop()
        except IndexError:  # whoever started this thread was interrupted, and gave it back
            return
        context.run(self._open_one)

    def _give_back(self, ticket: list[Context]) -> None:
        """Let the first waiter open in the slot himself, if there is one."""
        try:
            ticket.pop()
        except IndexError:  # its thread runs
            return
        with self._lock:
            if not self._line.grant_slot():
                self._line.open_failed()

    def begin_locked(self, opening: object, now: float) -> None:
        """Note that an opening is under way."""
        self._began[opening] = now

    def end_locked(self, opening: object) -> None:
        """Note that it is over."""
        self._began.pop(opening, None)

    def hanging_locked(self, now: float, connect_time: float) -> int:
        """Count the openings that have taken so long that nobody should build on them."""
        limit = _limit(connect_time)
        return sum(now - began >= limit for began in self._began.values())

    def next_hanging_locked(self, now: float, connect_time: float) -> float | None:
        """Say when the next one will have taken too long; None: none is under way."""
        limit = _limit(connect_time)
        return min((b + limit for b in self._began.values() if now < b + limit), default=None)


def _limit(connect_time: float) -> float:
    return max(HANGS_AFTER, HANGS_AFTER_CONNECTS * connect_time)
