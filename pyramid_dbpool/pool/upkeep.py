"""What a pool does while nobody asks: close what is surplus or old, keep the rest alive."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Protocol

from .entries import IDLE, LEASED
from .health import PooledEntry
from .housekeeper import Task, WeakCall, housekeeper
from .line import Line
from .options import PoolOptions
from .surplus import next_surplus, surplus_idle

# A lease that nobody ever received (its caller was killed in between) is taken
# back after so many seconds.
STRAY_AFTER = 30.0


class Connections(Protocol):
    """How upkeep closes and checks."""

    def close_held(self, doomed: Iterable[tuple[PooledEntry, str]]) -> None:
        """Close connections that are held (I/O, without the lock) and report them lost."""

    def examine(self, entry: PooledEntry) -> None:
        """Ping one connection that is held (I/O, without the lock); put it back or close it."""


class Upkeep:
    """Look after idle connections when something is due."""

    def __init__(
        self,
        connections: Connections,
        line: Line[PooledEntry],
        lock: AbstractContextManager[object],
        options: PoolOptions,
        clock: Callable[[], float],
    ) -> None:
        self._connections = connections
        self._line = line
        self._lock = lock
        self._options = options
        self._clock = clock
        # Whether the housekeeper has been told to come; whoever returns a connection reads it.
        self.is_due = not options.has_upkeep
        self._task: Task | None = None

    def schedule(self) -> None:
        """Have the housekeeper come when the next thing is due, if anything ever will be."""
        if not self._options.has_upkeep:
            return
        with self._lock:
            due = self._next_due_locked()
            self.is_due = due is not None
        if due is not None:
            try:
                task = housekeeper().call_at(due, WeakCall(self.run))
            except BaseException:
                self.is_due = False
                raise
            with self._lock:
                former, self._task = self._task, task
            if former is not None:
                # Two that return at once both come here: each visit has a next one, for ever.
                former.cancel()

    def cancel(self) -> None:
        """Call the housekeeper off, so that it may rest: the pool was disposed of."""
        task, self._task = self._task, None
        if task is not None:
            self.is_due = False
            housekeeper().call_off(task)

    def _next_due_locked(self) -> float | None:
        options, line = self._options, self._line
        idle = list(line.idle)
        dues = [each.expires_at for each in idle if options.max_lifetime is not None]
        if options.keepalive is not None:
            dues += [each.quiet_since + options.keepalive for each in idle]
        surplus = next_surplus(
            line,
            linger=options.overflow_linger,
            idle_timeout=options.idle_timeout,
            min_idle=options.min_idle,
        )
        if surplus is not None:
            dues.append(surplus)
        return min(dues) if dues else None

    def run(self) -> None:
        """Do what is due, and schedule what comes next."""
        now = self._clock()
        with self._lock:
            doomed, stale = self._pick_locked(now)
        if doomed or stale:
            # Closing and pinging wait on the network; the housekeeper has others to serve.
            self._in_thread(functools.partial(self._work, doomed, stale))
        else:
            self.schedule()

    def _work(self, doomed: list[tuple[PooledEntry, str]], stale: list[PooledEntry]) -> None:
        try:
            self._connections.close_held(doomed)
            for entry in stale:
                self._examine(entry)
        finally:
            self.schedule()

    def _pick_locked(self, now: float) -> tuple[list[tuple[PooledEntry, str]], list[PooledEntry]]:
        options, line = self._options, self._line
        doomed: list[tuple[PooledEntry, str]] = []
        for entry in list(line.idle):
            if now >= entry.expires_at and line.hold(entry):
                doomed.append((entry, "lifetime"))
        surplus = surplus_idle(
            line,
            now,
            linger=options.overflow_linger,
            idle_timeout=options.idle_timeout,
            min_idle=options.min_idle,
        )
        doomed += [(entry, "idle") for entry in surplus if line.hold(entry)]
        stale: list[PooledEntry] = []
        if options.keepalive is not None:
            silence = options.keepalive
            stale = [each for each in list(line.idle) if now >= each.quiet_since + silence]
        return doomed, stale

    def examine_suspects(self) -> None:
        """Ping every suspect that is idle, each in a thread of its own."""
        with self._lock:
            suspects = [each for each in list(self._line.idle) if each.suspect]
        for entry in suspects:
            self._in_thread(functools.partial(self._examine, entry))

    def _examine(self, entry: PooledEntry) -> None:
        # Held only now, by whoever gives it back: callers need the others meanwhile, and
        # what an interrupt leaves held is lost.
        with self._lock:
            mine = self._line.hold(entry)
        if mine:
            self._connections.examine(entry)

    def reclaim_strays_locked(self, now: float) -> int:
        """Forget leases that nobody received: their slots are free again.

        Only the slot is given away, never the connection: should its caller turn up
        after all, he has it for himself, and it is closed when he returns it.
        """
        idle = set(self._line.idle)
        for each in list(self._line.members):
            if each.state is IDLE and each not in idle:
                # Interrupted between two steps of a checkout or a return: from now on
                # a lease, and a stray when nobody turns up for it.
                each.leased_at = now
                each.state = LEASED
        strays = [
            each
            for each in list(self._line.members)
            if each.state is LEASED
            and each.record.fairy_ref is None
            and now - each.leased_at >= STRAY_AFTER
        ]
        for each in strays:
            self._line.lost(each)
        return len(strays)

    @staticmethod
    def _in_thread(run: Callable[[], None]) -> None:
        try:
            threading.Thread(target=run, name="dbpool-upkeep", daemon=True).start()
        except RuntimeError:
            run()  # at interpreter shutdown no thread can be started
