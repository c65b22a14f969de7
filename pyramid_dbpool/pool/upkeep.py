"""What a pool does while nobody asks: close what is surplus or old, keep the rest alive."""

from __future__ import annotations

import functools
from itertools import islice

from .entry import PooledEntry
from .health import Health
from .housekeeper import Task, WeakCall, run_beside
from .line import IDLE, LEASED, E, Line
from .shared import Shared

# A lease that nobody ever received (its caller was killed in between) is taken
# back after so many seconds.
UNRECEIVED_AFTER = 30.0


class Upkeep:
    """Look after idle connections when something is due."""

    def __init__(self, shared: Shared, health: Health) -> None:
        self._health = health
        self._door, self._lock, self._line = shared.door, shared.lock, shared.line
        self._stats, self._source = shared.stats, shared.source
        self._options = shared.options
        self._clock, self._timer = shared.clock, shared.timer
        # Whether the timer has been told to call; whoever returns a connection reads it.
        self.is_due = not shared.options.has_upkeep
        self._task: Task | None = None

    def schedule(self) -> None:
        """Have the timer call when the next thing is due, if anything ever will be."""
        if not self._options.has_upkeep:
            return
        with self._door, self._lock:
            due = self._next_due_locked()
            self.is_due = due is not None
        if due is not None:
            try:
                task = self._timer.call_at(due, WeakCall(self.run))
            except BaseException:
                self.is_due = False
                raise
            with self._door, self._lock:
                former, self._task = self._task, task
            if former is not None:
                # Two that return at once both come here: each visit has a next one, for ever.
                former.cancel()

    def cancel(self) -> None:
        """Call the timer off, so that it may rest: the pool was disposed of."""
        task, self._task = self._task, None
        if task is not None:
            self.is_due = False
            self._timer.call_off(task)

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
        with self._door, self._lock:
            doomed, stale = self._pick_locked(now)
        if doomed or stale:
            # Closing and pinging wait on the network; the timer has others to serve.
            run_beside("dbpool-upkeep", functools.partial(self._work, doomed, stale))
        else:
            self.schedule()

    def _work(self, doomed: list[tuple[PooledEntry, str]], stale: list[PooledEntry]) -> None:
        try:
            self._health.close_held(doomed)
            for entry in stale:
                self._health.examine(entry)
        finally:
            self.schedule()

    def _pick_locked(self, now: float) -> tuple[list[tuple[PooledEntry, str]], list[PooledEntry]]:
        options, line = self._options, self._line
        doomed: list[tuple[PooledEntry, str]] = []
        # Copies: a caller may take one in the middle of this, which needs no lock.
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

    def reclaim(self) -> None:
        """Forget leases that nobody received: their slots are free again.

        Only the slot is given away, never the connection: should its caller turn up
        after all, he has it for himself, and it is closed when he returns it.
        """
        now = self._clock()
        with self._door, self._lock:
            idle = set(self._line.idle)
            for each in self._line.members:
                if each.state is IDLE and each not in idle:
                    # Interrupted between two steps of a checkout or a return: from now on
                    # a lease, and given up when nobody turns up for it.
                    each.leased_at = now
                    each.state = LEASED
            unreceived = [
                each
                for each in self._line.members
                if each.state is LEASED
                and now - each.leased_at >= UNRECEIVED_AFTER
                and not self._source.is_received(each.record)
            ]
            for each in unreceived:
                self._line.lost(each)
            self._stats.unreceived += len(unreceived)


def surplus_idle(
    line: Line[E], now: float, *, linger: float, idle_timeout: float | None, min_idle: int
) -> list[E]:
    """List the idle connections to close now, the longest unused first.

    :param linger: seconds for which idle connections beyond `line.keep` stay.
    :param idle_timeout: seconds for which the others stay; None: for good.
    :param min_idle: never leave fewer than this many open, the leased ones counted.
    """
    times = line.idle_times()
    if idle_timeout is not None:
        linger = min(linger, idle_timeout)
    beyond = 0 if line.keep is None else max(0, len(times) - line.keep)
    count = 0
    spare = line.total - line.opening - min_idle
    for position, since in enumerate(times):
        # The first ones in the list are the coldest: those beyond `keep` are
        # counted off first, under the shorter limit.
        limit = linger if position < beyond else idle_timeout
        if limit is None or count >= spare or now < since + limit:
            break
        count += 1
    return list(islice(line.idle, count))


def next_surplus(
    line: Line[E], *, linger: float, idle_timeout: float | None, min_idle: int
) -> float | None:
    """Say when `surplus_idle` will next have something to close; None: never, as things are."""
    times = line.idle_times()
    if not times or line.total - line.opening <= min_idle:
        return None
    waits = [] if idle_timeout is None else [idle_timeout]
    if line.keep is not None and len(times) > line.keep:
        waits.append(linger)
    return times[0] + min(waits) if waits else None
