"""One caller's way to a connection, where there is none to take that passes at once.

Whatever the caller has in hand at any moment (a connection, a slot, a place in
the line) is an attribute, so that it is given back wherever he is killed.
"""

from __future__ import annotations

import threading
import time
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, cast

from ..stopping import current_stopped
from .deadlines import cited_setting, current_deadline, is_callers
from .entries import LEASED, NEW, SLOT, Grant, Refusal, Waiter
from .health import PooledEntry

if TYPE_CHECKING:
    from .core import Service

# The longest wait that `Lock.acquire` takes.
_FOREVER = threading.TIMEOUT_MAX
# Seconds between two looks whether a caller who may be stopped has been.
_LOOK = 0.2


class Checkout:
    """Check, wait or open for one caller; `run` once."""

    __slots__ = (
        "_began",
        "_cut",
        "_entry",
        "_gate",
        "_limit",
        "_line",
        "_lock",
        "_record",
        "_served",
        "_service",
        "_slot",
        "_touched",
        "_waiter",
        "waited_seconds",
    )

    def __init__(
        self,
        service: Service,
        entry: PooledEntry | None,
        began: float,
        *,
        slot: bool = False,
        again: bool = False,
    ) -> None:
        self._service = service
        self._line = service.line
        self._lock = service.lock
        self._began = began
        self._entry = entry
        self._slot = slot
        self._record: Any = None
        self._waiter: Waiter | None = None
        self._gate: Any = None
        # Whether this caller has had its turn: then it waits at the head.
        self._served = again
        # Whether the connection in hand may be in the middle of a ping.
        self._touched = False
        # How long the caller has stood in the line; None: not at all.
        self.waited_seconds: float | None = None
        timeout, until = service.timeout, current_deadline()
        limit = None if timeout is None else began + timeout
        self._limit = until if limit is None or (until is not None and until < limit) else limit
        # Whether the caller gave itself less time than the pool would have.
        self._cut = until is not None and until == self._limit and is_callers(until)

    def run(self) -> PooledEntry:
        """Return a connection that may be handed out, or raise."""
        try:
            while True:
                if self._entry is None and not self._slot:
                    self._obtain()
                if self._slot:
                    entry = self._open()
                    entry.holder = threading.get_ident()
                    return entry
                entry = cast("PooledEntry", self._entry)
                entry.holder = threading.get_ident()
                if self.waited_seconds is not None and entry.passes(entry.leased_at):
                    return entry
                self._touched = True
                reason = self._service.connections.reason_against(entry, self._seconds_left())
                if reason is None:
                    return entry
                self._discard(entry, reason)
        except BaseException:
            self._give_back()
            raise

    def _seconds_left(self) -> float:
        return _FOREVER if self._limit is None else self._limit - time.monotonic()

    def _obtain(self) -> None:
        """Take a place in the line, and wait for what comes."""
        if self._service.timeout == 0 and self._reserve():
            return
        began = time.monotonic()
        waiter = self._join(began)
        granted = waiter.granted
        if granted is None:
            granted = self._wait(waiter, began)
        if isinstance(granted, Refusal):
            raise granted.error
        self._slot = granted is SLOT
        self._entry = granted if isinstance(granted, PooledEntry) else None
        self._waiter = None
        self._served = True

    def _reserve(self) -> bool:
        """Take a slot for a caller who will wait for nobody: he opens for himself."""
        with self._lock:
            self._slot = self._service.opener.trouble is None and self._line.reserve()
        return self._slot

    def _join(self, now: float) -> Waiter:
        service, line = self._service, self._line
        background = service.options.background
        self._gate = gate = threading.Lock()
        gate.acquire()
        self._waiter = waiter = Waiter(gate.release, self._began if self._served else now)
        if background:
            waiter.context = copy_context()
        with self._lock:
            if service.opener.trouble is not None and not line.idle:
                service.refusals.check_admission_locked(now)
            joined = True
            if self._served:
                line.rejoin(waiter, now)
            else:
                joined = line.join(waiter)
            if joined and background and waiter.granted is None:
                service.opener.asked_locked(now)
        if not joined:
            raise service.refusals.line_full()
        if service.opener.openings.planned:
            service.opener.openings.launch()
        return waiter

    def _wait(self, waiter: Waiter, began: float) -> Grant:
        seconds = _FOREVER if self._limit is None else min(self._limit - began, _FOREVER)
        if not self._is_handed_over(seconds):
            self._service.before_giving_up()
        granted = waiter.granted
        if granted is None:
            # Too late, unless something has been handed over in this very moment.
            with self._lock:
                granted = self._line.leave(waiter)
        ended = time.monotonic()
        if granted is None:
            raise self._service.refusals.timed_out(
                ended - self._began, self._cut, cited_setting(self._limit)
            )
        self.waited_seconds = ended - self._began
        return granted

    def _is_handed_over(self, seconds: float) -> bool:
        """Wait so long for what is handed over; return whether it came."""
        stopped = current_stopped()
        if stopped is None:
            return seconds > 0 and bool(self._gate.acquire(timeout=seconds))
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._gate.acquire(timeout=min(left, _LOOK)):
                return True
            if stopped():
                break
        return False

    def _discard(self, entry: PooledEntry, reason: str) -> None:
        """Part with a connection that must not be handed out, but keep our turn."""
        self._touched = False
        self._served = True
        if self._service.options.background:
            self._entry = None
            self._service.connections.close_entry(entry, reason)
            return
        with self._lock:
            self._slot = True
            self._line.reopening(entry)
            self._entry = None
        self._record = entry.record
        self._service.connections.close_record(entry.record, reason)

    def _open(self) -> PooledEntry:
        """Open in the slot in hand, here and now."""
        began = time.monotonic()
        # In hand before it counts as a lease: by its state one sees whether it does.
        try:
            self._entry = entry = self._service.connections.open_entry(self._record)
        except Exception as error:
            if not self._service.options.background:
                raise
            raise self._service.explain_failure(error, began) from error
        now = time.monotonic()
        with self._lock:
            self._line.opened(entry, now)
            self._slot = False
            self._service.stats.connected(now - began)
        return entry

    def _give_back(self) -> None:
        """Pass on whatever is in hand: somebody may be waiting for it."""
        opened = self._entry
        granted: Grant | None = opened
        if self._slot and (opened is None or opened.state is not LEASED):
            granted = SLOT
        with self._lock:
            if self._waiter is not None:
                # Handed over, but perhaps not yet noted here.
                granted = self._line.leave(self._waiter)
            passed_on = not self._touched and self._line.give_back(granted, time.monotonic())
            self._entry = self._waiter = None
            self._slot = False
        if isinstance(granted, PooledEntry) and not passed_on:
            self._service.connections.close_entry(granted, "interrupted")
        elif opened is not None and opened.state is NEW:
            opened.record.close()
        self._service.replan()
