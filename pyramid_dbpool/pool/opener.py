"""Opens connections off the caller's path, and knows when the server is out of reach.

First of returned or new wins: those who wait stand in the line, openings run
beside them, and what comes first is handed to the head of the line.  When an
opening fails because the server is unreachable or full, one prober at a time
tries again; nobody else does, so that a server that comes back meets no herd.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import Context
from typing import Any, Protocol

from ..drivers.connect_failures import ConnectFailure
from .demand import FIRST_CONNECT, look_interval, openings_wanted
from .housekeeper import Task, WeakCall, housekeeper
from .inheritance import is_uwsgi_master
from .line import Line
from .openings import Openings, start_thread
from .outage import NEVER, Trouble
from .outages import OutageLog
from .stats import Stats

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
        lock: AbstractContextManager[object],
        stats: Stats,
        *,
        clock: Callable[[], float],
        min_idle: int = 0,
        grace: float | None = None,
        pool_name: str | None = None,
        start: Callable[[Callable[[], object]], object] = start_thread,
    ) -> None:
        self._connections = connections
        self._refusals = refusals
        self._line = line
        self._lock = lock
        self._stats = stats
        self._clock = clock
        self._min_idle = min_idle
        self._grace = grace
        self.openings = Openings(line, lock, self._open, start)
        self.trouble: Trouble | None = None
        self.outages = OutageLog(pool_name, grace)
        self._asked_at = NEVER
        self._opened_at = NEVER
        self._task: Task | None = None
        self._look_at = float("inf")

    # Deciding

    def asked_locked(self, now: float) -> None:
        """Plan openings for a caller who has just joined the line; `openings.launch` them."""
        self._ask_locked(now)
        # Neither a full pool nor a line that is soon looked at has anything to plan, and
        # planning is half of what it costs to join: in a spike everybody waits for that.
        if self.trouble is not None or not (self._line.full or self._looks_soon_locked(now)):
            self.plan_locked(now)

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

    def plan_locked(self, now: float) -> None:
        """Reserve slots for the openings that are wanted now; `openings.launch` them."""
        wanted = max(self._wanted_by_line_locked(now), self._missing_locked())
        if self.trouble is not None and wanted:
            wanted = self._probes_allowed_locked(now)
        while wanted and not self._line.full:
            self.openings.plan_locked(self._next_context_locked())
            if self.trouble is not None:
                self.trouble.probing(now)
            wanted -= 1
        self._watch_locked(now)

    def _opening_locked(self, now: float) -> int:
        """Count the openings that may soon be over."""
        return self._line.opening - self.openings.hanging_locked(now, self._connect_time)

    def _wanted_by_line_locked(self, now: float) -> int:
        opening = self._opening_locked(now)
        if self.trouble is not None:
            return int(self._line.waiting > opening)
        if is_uwsgi_master():
            # No housekeeper comes here to look at the line again.
            return max(0, self._line.waiting - opening)
        return openings_wanted(
            self._line,
            now,
            opening=opening,
            connect_time=self._connect_time,
            hold_time=self._stats.hold_time(),
        )

    @property
    def _connect_time(self) -> float:
        known = self._stats.connect_time
        return FIRST_CONNECT if known is None else known

    def _missing_locked(self) -> int:
        """Count what is missing from `min_idle`, once the pool has been used."""
        if self._line.retired or self._asked_at == NEVER:
            return 0
        return max(0, self._min_idle - self._line.total)

    def _probes_allowed_locked(self, now: float) -> int:
        trouble = self.trouble
        if trouble is None or now < trouble.retry_at or self._opening_locked(now):
            return 0
        # Beside one that hangs another one may try, but not a herd of them.
        return int(self._line.opening <= 1)

    def _next_context_locked(self) -> Context:
        # Connect listeners see the context of someone who waits, each of them once:
        # a context cannot be entered twice at a time.
        for waiter in self._line.waiters:
            context, waiter.context = waiter.context, None
            if context is not None:
                return context
        return Context()

    def _watch_locked(self, now: float) -> None:
        """See to it that the line is looked at again, if it may want more openings."""
        due = self._next_look_locked(now)
        if due is not None and due < self._look_at:
            if self._task is not None:
                self._task.cancel()
            # In this order: interrupted in between, it is looked at once more, not never.
            self._look_at = float("inf")
            self._task = housekeeper().call_at(due, WeakCall(self.look))
            self._look_at = due

    def _looks_soon_locked(self, now: float) -> bool:
        return now < self._look_at <= now + look_interval(self._connect_time)

    def _next_look_locked(self, now: float) -> float | None:
        line, trouble, opening = self._line, self.trouble, self._opening_locked(now)
        if trouble is not None:
            if not (line.waiting or self._probes_on_locked(now)):
                return None
            if not opening:
                return max(trouble.retry_at, now)
        elif line.full or not line.waiting:
            return None
        elif line.waiting > opening:
            return now + look_interval(self._connect_time)
        return self.openings.next_hanging_locked(now, self._connect_time)

    def _probes_on_locked(self, now: float) -> bool:
        """Tell whether to probe though nobody waits: somebody may be about to ask again."""
        lately = now - self._asked_at < ASKED_LATELY
        return not self._line.retired and (lately or self._missing_locked() > 0)

    def look(self) -> None:
        """Look at the line again; the housekeeper calls this."""
        now = self._clock()
        with self._lock:
            self._look_at = float("inf")
            if self.trouble is not None and not self._line.waiting and self._probes_on_locked(now):
                if self._probes_allowed_locked(now) and not self._line.full:
                    self.trouble.probing(now)
                    self.openings.plan_locked(Context())
                self._watch_locked(now)
            else:
                self.plan_locked(now)
        self.openings.launch()

    # Opening

    def _open(self) -> None:
        began, opening = self._clock(), object()
        with self._lock:
            if not self._needed_locked(began):
                self._line.open_failed()
                return
            self.openings.begin_locked(opening, began)
            self._watch_locked(began)
        try:
            entry = self._connections.open_entry()
        except BaseException as error:
            self._failed(error, opening, began)
        else:
            self._opened(entry, opening, began)

    def _needed_locked(self, now: float) -> bool:
        line = self._line
        return (
            line.waiting >= self._opening_locked(now)
            or line.total <= self._min_idle
            or self.trouble is not None
        )

    def _opened(self, entry: Any, opening: object, began: float) -> None:
        now = self._clock()
        with self._lock:
            self.openings.end_locked(opening)
            self.trouble, self._opened_at = None, now
            self._stats.connected(now - began)
            self._line.opened(entry, now)
            kept = self._line.put(entry, now)
            self.plan_locked(now)
            self.outages.note_locked(None, now)
        self.openings.launch()
        self.outages.write()
        if not kept:
            self._connections.close_entry(entry, "surplus")

    def _failed(self, error: BaseException, opening: object, began: float) -> None:
        now = self._clock()
        try:
            kind = self._refusals.classify(error)
        except Exception:  # as of an error that cannot be printed: the slot must not be lost
            kind = None
        with self._lock:
            self.openings.end_locked(opening)
            self._stats.open_failed["program" if kind is None else kind.name.lower()] += 1
            self._line.open_failed()
            if kind is None:
                self._refuse_locked("program", lambda: error, limit=1)
                self.rest_locked()
            elif kind is ConnectFailure.CONFIGURATION:
                self.trouble = None
                self.outages.note_locked(None, now)
                self._refuse_locked("configuration", lambda: self._refusals.refusal(error, kind))
                # Else what is missing from `min_idle` is tried again, and again, at once.
                self.rest_locked()
            elif began >= self._opened_at:  # else what it tells is out of date
                self.in_trouble_locked(kind, error, began)
            self.plan_locked(now)
        self.openings.launch()
        self.outages.write()

    def in_trouble_locked(self, kind: ConnectFailure, error: BaseException, began: float) -> None:
        """Note a failed opening; have those refused who need not wait any more."""
        now = self._clock()
        if self.trouble is None:
            self.trouble = Trouble(kind, began, error)  # away when the attempt began, at least
        asked = self._line.waiting > 0 or now - self._asked_at < ASKED_LATELY
        self.trouble.failed(kind, error, now, asked=asked)
        self.outages.note_locked(self.trouble, now)
        if self.trouble.refuses(now, self._grace):
            refused = self._refuse_locked("outage", lambda: self._refusals.refusal(error, kind))
            self.outages.refused_locked(refused)

    def _refuse_locked(
        self, reason: str, make_error: Callable[[], BaseException], limit: int | None = None
    ) -> int:
        count = self._line.refuse(make_error, limit)
        self._stats.refused[reason] += count
        return count
