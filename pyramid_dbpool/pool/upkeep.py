"""What a pool does while nobody asks: close what is surplus or old, keep the rest alive."""

from __future__ import annotations

import functools
from contextlib import suppress
from itertools import islice
from math import inf

from .entry import PooledEntry
from .health import Health
from .housekeeper import Task, WeakCall, start_thread
from .line import IDLE, LEASED, E, Line
from .shared import Shared

# A lease that nobody ever received (its caller was killed in between) is taken
# back after so many seconds.
UNRECEIVED_AFTER = 30.0
# One visit does what is due within so many seconds: a precision that nobody needs would have
# connections that were opened one after another visited one after another.
PRECISION = 0.01
# When to try again, in seconds, where no thread could be started.
RETRY_AFTER = 1.0
# No opening is the first one: so nothing is planned.
UNPLANNED = -1


class Upkeep:
    """Look after idle connections when something is due.

    Whoever returns a connection brings no visit forward: the next one comes, at the latest, when
    a connection that is returned now would be due.  That changes with the number of open
    connections only, so what is opened has the next return plan again, as `planned_for` says.
    """

    def __init__(self, shared: Shared, health: Health) -> None:
        self._health = health
        self._door, self._lock, self._line = shared.door, shared.lock, shared.line
        self._stats, self._source = shared.stats, shared.source
        self._options = shared.options
        self._clock, self._timer = shared.clock, shared.timer
        # After how many openings the next visit was planned; whoever returns one reads it.
        self.planned_for = UNPLANNED
        self._task: Task | None = None
        self._visit_at = inf

    def schedule(self) -> None:
        """Have the timer call when the next thing is due, if anything ever will be."""
        with self._door, self._lock:
            self._plan_locked(self._next_due_locked())

    def _plan_locked(self, due: float) -> None:
        idle, opened = bool(self._line.idle), self._stats.opened
        if due < self._visit_at:
            task = self._timer.call_at(due, WeakCall(self.run))
            if task is None:
                # The next return tries again.
                self.planned_for = UNPLANNED
                return
            former, self._task, self._visit_at = self._task, task, due
            if former is not None:
                # Two that come for the same would each have a next one, for ever.
                former.cancel()
        self.planned_for = opened if idle else UNPLANNED

    def cancel(self) -> None:
        """Call the timer off, so that it may rest: the pool was disposed of."""
        with self._door, self._lock:
            task = self._forget_visit_locked()
        if task is not None:
            self._timer.call_off(task)

    def _forget_visit_locked(self) -> Task | None:
        task, self._task = self._task, None
        self._visit_at, self.planned_for = inf, UNPLANNED
        if task is not None:
            task.cancel()
        return task

    def _next_due_locked(self) -> float:
        options, line, now = self._options, self._line, self._clock()
        # A copy: a caller may take one in the middle of this, which needs no lock.
        idle = list(line.idle)
        dues = [each.expires_at for each in idle]
        # Those that are out may be idle by then.
        dues += [each.expires_at for each in line.members if each.expires_at > now]
        if options.keepalive is not None:
            silence = options.keepalive
            dues += [each.quiet_since + silence for each in idle if not each.awaited]
        surplus = next_surplus(
            line,
            linger=options.overflow_linger,
            idle_timeout=options.idle_timeout,
            min_idle=options.min_idle,
        )
        if surplus is not None:
            dues.append(surplus)
        if idle:
            dues.append(now + self._patience_locked())
        return min(dues, default=inf)

    def _patience_locked(self) -> float:
        """Say after how many seconds a connection that is returned now is due at the earliest."""
        options, line = self._options, self._line
        count, waits = len(line.members), [inf]
        if options.keepalive is not None:
            waits.append(options.keepalive)
        if count > options.min_idle and options.idle_timeout is not None:
            waits.append(options.idle_timeout)
        if line.keep is not None and count > line.keep and options.overflow_linger > 0:
            waits.append(options.overflow_linger)
        return min(waits)

    def run(self) -> None:
        """Do what is due, and plan what comes next."""
        now = self._clock()
        with self._door, self._lock:
            self._forget_visit_locked()
            doomed = self._doomed_locked(now)
            self._health.examiners.add_locked(self._stale_locked(now))
        # Closing and pinging wait on the network; the timer has others to serve.
        closing = not doomed or self._close_beside(doomed)
        # One after another: keepalive is in no hurry, and who is found dead makes others come.
        pinging = self._health.examiners.start(at_once=1)
        with self._door, self._lock:
            if closing and pinging:
                self._plan_locked(max(self._next_due_locked(), now + PRECISION))
            else:
                self._plan_locked(now + RETRY_AFTER)

    def _close_beside(self, doomed: list[tuple[PooledEntry, str]]) -> bool:
        """Close what is held, in a thread; false, and nothing is held, if there can be none."""
        try:
            start_thread("dbpool-upkeep", functools.partial(self._close, doomed))
        except BaseException as error:
            self._put_back(doomed)
            if not isinstance(error, RuntimeError):
                raise
            return False
        return True

    def _close(self, doomed: list[tuple[PooledEntry, str]]) -> None:
        try:
            # Taken from the list: what this thread has closed nobody puts back.
            with suppress(IndexError):
                while True:
                    self._health.close_held([doomed.pop(0)])
        finally:
            self._put_back(doomed)

    def _put_back(self, doomed: list[tuple[PooledEntry, str]]) -> None:
        surplus = list[PooledEntry]()
        with self._door, self._lock, suppress(IndexError):
            while True:
                entry = doomed.pop()[0]
                if not self._line.unhold(entry, self._clock()):
                    surplus.append(entry)
        # Here, for want of another thread: in the line there is no room for them any more.
        self._health.close_held([(each, self._health.why_surplus) for each in surplus])

    def _doomed_locked(self, now: float) -> list[tuple[PooledEntry, str]]:
        """Hold what is to be closed now."""
        options, line = self._options, self._line
        doomed = [
            (entry, "lifetime")
            for entry in list(line.idle)
            if now >= entry.expires_at and line.hold(entry)
        ]
        surplus = surplus_idle(
            line,
            now,
            linger=options.overflow_linger,
            idle_timeout=options.idle_timeout,
            min_idle=options.min_idle,
        )
        return doomed + [(entry, "idle") for entry in surplus if line.hold(entry)]

    def _stale_locked(self, now: float) -> list[PooledEntry]:
        silence = self._options.keepalive
        if silence is None:
            return []
        return [each for each in list(self._line.idle) if now >= each.quiet_since + silence]

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
    count = sum(now >= due for due in _surplus_times(line, linger, idle_timeout))
    spare = line.total - line.opening - min_idle
    return list(islice(line.idle, max(0, min(count, spare))))


def next_surplus(
    line: Line[E], *, linger: float, idle_timeout: float | None, min_idle: int
) -> float | None:
    """Say when `surplus_idle` will next have something to close; None: never, as things are."""
    if line.total - line.opening <= min_idle:
        return None
    return min(_surplus_times(line, linger, idle_timeout), default=None)


def _surplus_times(line: Line[E], linger: float, idle_timeout: float | None) -> list[float]:
    """Say since when one, two and so on idle connections are too many, in any order."""
    times = line.idle_times()
    beyond = [] if line.keep is None else times[line.keep :]
    if idle_timeout is None:
        return [since + linger for since in beyond]
    # The n-th time is that since when n have been idle, so it is also when the n-th is too many.
    within = times[: len(times) - len(beyond)]
    return [since + idle_timeout for since in within] + [
        since + min(linger, idle_timeout) for since in beyond
    ]
