"""Opens connections off the caller's path, and knows when the server is out of reach.

First of returned or new wins: those who wait stand in the line, openings run
beside them, and what comes first is handed to the head of the line.  When an
opening fails because the server is unreachable or full, one prober at a time
tries again; nobody else does, so that a server that comes back meets no herd.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import Context
from typing import Any, Protocol

from .demand import FIRST_CONNECT, look_interval, openings_wanted
from .drivers import ConnectFailure
from .housekeeper import Task, WeakCall, housekeeper
from .line import Line
from .outages import OutageLog
from .stats import Stats
from .trouble import NEVER, Trouble

# Once nobody has asked for this long (seconds), the prober only keeps `min_idle`
# in view, at the slow pace, or rests.
ASKED_LATELY = 60.0


class Connections(Protocol):
    """How an opener opens and closes."""

    def open_entry(self) -> Any:
        """Open one connection (I/O, without the lock)."""

    def close_entry(self, entry: Any, reason: str) -> None:
        """Close one connection (I/O, without the lock) and report it lost."""


class Refusals(Protocol):
    """How an opener tells why there is no connection."""

    def classify(self, error: BaseException) -> ConnectFailure | None:
        """Say what a failed opening means; None: an error of the program, not of the server."""

    def refusal(self, error: BaseException, kind: ConnectFailure) -> BaseException:
        """Make a new exception for one waiter."""


class Opener:
    """Open connections for a line.

    Methods that end in `_locked` need the pool's lock held; the others must be
    called without it, because they start threads.
    """

    def __init__(
        self,
        connections: Connections,
        refusals: Refusals,
        line: Line[Any],
        lock: threading.RLock,  # type: ignore[valid-type, unused-ignore]
        stats: Stats,
        *,
        clock: Callable[[], float],
        min_idle: int = 0,
        grace: float | None = None,
        outages: OutageLog | None = None,
    ) -> None:
        self._connections = connections
        self._refusals = refusals
        self._line = line
        self._lock: Any = lock
        self._stats = stats
        self._clock = clock
        self._min_idle = min_idle
        self._grace = grace
        self.trouble: Trouble | None = None
        self.outages = outages or OutageLog(None, grace)
        self.retired = False
        self._asked_at = NEVER
        self._task: Task | None = None
        self._look_at = float("inf")

    # Deciding

    def asked_locked(self, now: float) -> list[Context]:
        """Plan openings for a caller who has just joined the line; `launch` the result."""
        self._ask_locked(now)
        # A pool that is full has nothing to plan, which is most of its work when contended.
        if self._line.full and self.trouble is None:
            return []
        return self.plan_locked(now)

    def refused_locked(self, now: float) -> Trouble | None:
        """Note that a caller has asked; return the outage for which it has to be refused."""
        trouble = self.trouble
        if trouble is None or not trouble.refuses(now, self._grace):
            return None
        # Refused or not, somebody asks: were the prober to rest now, those who come
        # next would be refused long after the server is back.
        self._ask_locked(now)
        self._watch_locked(now)
        return trouble

    def rest_locked(self) -> None:
        """Keep no minimum open until somebody asks again: the pool is being disposed of."""
        self._asked_at = NEVER

    def _ask_locked(self, now: float) -> None:
        self._asked_at = now
        if self.trouble is not None:
            self.trouble.asked(now)

    def plan_locked(self, now: float) -> list[Context]:
        """Reserve slots for the openings that are wanted now; `launch` the result."""
        wanted = max(self._wanted_by_line(now), self._missing())
        if self.trouble is not None and wanted:
            wanted = self._probes_allowed(now)
        contexts: list[Context] = []
        while len(contexts) < wanted and self._line.reserve_for_line():
            contexts.append(self._next_context())
        if contexts and self.trouble is not None:
            self.trouble.probing(now)
        self._watch_locked(now)
        return contexts

    def _wanted_by_line(self, now: float) -> int:
        if self.trouble is not None:
            return int(self._line.waiting > self._line.opening)
        return openings_wanted(
            self._line, now, connect_time=self._connect_time, hold_time=self._stats.hold_time()
        )

    @property
    def _connect_time(self) -> float:
        known = self._stats.connect_time
        return FIRST_CONNECT if known is None else known

    def _missing(self) -> int:
        """Count what is missing from `min_idle`, once the pool has been used."""
        if self.retired or self._asked_at == NEVER:
            return 0
        return max(0, self._min_idle - self._line.total)

    def _probes_allowed(self, now: float) -> int:
        trouble = self.trouble
        return int(trouble is not None and now >= trouble.retry_at and not self._line.opening)

    def _next_context(self) -> Context:
        # Connect listeners see the context of someone who waits, each copy once:
        # a context cannot be entered twice at a time.
        for waiter in self._line.waiters:
            if not waiter.asked and waiter.context is not None:
                waiter.asked = True
                return waiter.context.copy()
        return Context()

    def _watch_locked(self, now: float) -> None:
        """See to it that the line is looked at again, if it may want more openings."""
        line, trouble = self._line, self.trouble
        if trouble is not None:
            if line.opening or not (line.waiting or self._probes_on(now)):
                return
            due = max(trouble.retry_at, now)
        elif line.waiting > line.opening and line.free != 0:
            due = now + look_interval(self._connect_time)
        else:
            return
        if due < self._look_at:
            if self._task is not None:
                self._task.cancel()
            self._look_at = due
            self._task = housekeeper().call_at(due, WeakCall(self.look))

    def _probes_on(self, now: float) -> bool:
        """Tell whether to probe though nobody waits: somebody may be about to ask again."""
        return not self.retired and (now - self._asked_at < ASKED_LATELY or bool(self._missing()))

    def look(self) -> None:
        """Look at the line again; the housekeeper calls this."""
        now = self._clock()
        with self._lock:
            self._look_at = float("inf")
            if self.trouble is not None and not self._line.waiting and self._probes_on(now):
                contexts = []
                if self._probes_allowed(now) and self._line.reserve_for_line():
                    self.trouble.probing(now)
                    contexts = [Context()]
                self._watch_locked(now)
            else:
                contexts = self.plan_locked(now)
        self.launch(contexts)

    # Opening

    def launch(self, contexts: list[Context]) -> None:
        """Start one opening for each context, each in a thread of its own."""
        for context in contexts:
            try:
                thread = threading.Thread(
                    target=context.run, args=(self._open,), name="dbpool-opener", daemon=True
                )
                thread.start()
            except RuntimeError:
                # No thread can be started, as at interpreter shutdown: the first
                # waiter opens in the slot itself.
                with self._lock:
                    if not self._line.grant_slot():
                        self._line.open_failed()

    def _open(self) -> None:
        began = self._clock()
        with self._lock:
            if not self._needed_locked():
                self._line.open_failed()
                return
        try:
            entry = self._connections.open_entry()
        except BaseException as error:
            self._failed(error)
        else:
            self._opened(entry, began)

    def _needed_locked(self) -> bool:
        line = self._line
        return (
            line.waiting >= line.opening
            or line.total <= self._min_idle
            or self.trouble is not None
        )

    def _opened(self, entry: Any, began: float) -> None:
        now = self._clock()
        with self._lock:
            self.trouble = None
            self._stats.connected(now - began)
            self._line.opened(entry, now)
            kept = self._line.put(entry, now)
            contexts = self.plan_locked(now)
            self.outages.note_locked(None, now)
        self.launch(contexts)
        self.outages.write()
        if not kept:
            self._connections.close_entry(entry, "surplus")

    def _failed(self, error: BaseException) -> None:
        now = self._clock()
        kind = self._refusals.classify(error)
        with self._lock:
            self._stats.open_failed["program" if kind is None else kind.name.lower()] += 1
            self._line.open_failed()
            if kind is None:
                self._line.refuse(lambda: error, limit=1)
            elif kind is ConnectFailure.CONFIGURATION:
                self.trouble = None
                self._line.refuse(lambda: self._refusals.refusal(error, kind))
            else:
                self._in_trouble_locked(kind, error, now)
            contexts = self.plan_locked(now)
            self.outages.note_locked(self.trouble, now)
        self.launch(contexts)
        self.outages.write()

    def _in_trouble_locked(self, kind: ConnectFailure, error: BaseException, now: float) -> None:
        trouble = self.trouble
        if trouble is None or trouble.kind is not kind:
            trouble = self.trouble = Trouble(kind, now, error)
        asked = self._line.waiting > 0 or now - self._asked_at < ASKED_LATELY
        trouble.failed(error, now, asked=asked)
        if trouble.refuses(now, self._grace):
            count = self._line.refuse(lambda: self._refusals.refusal(error, kind))
            self._stats.refused["outage"] += count
            self.outages.refused_locked(count)
