"""Opens connections for those who wait, and knows when the server is out of reach.

First of returned or new wins: those who wait stand in the line, openings run
beside them, and what comes first is handed to the head of the line.  When an
opening fails because the server is unreachable or full, one prober at a time
tries again; nobody else does, so that a server that comes back meets no herd.

`Openings` decides: it is pure, as `Line` is, so that outages of hours are tests of
milliseconds.  `BackgroundOpener` does what it says, in threads.  `CallersOpen` stands in its
place in a pool without `background`, where each caller opens for himself.  Which of the
two a pool has is decided once, in `core`; the rest asks them.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from itertools import takewhile
from typing import Generic

from ..drivers.connect_failures import ConnectFailure
from .entry import PooledEntry
from .health import Health
from .housekeeper import Task, WeakCall, start_thread
from .line import LEASED, E, Line, Waiter
from .options import by_chance
from .outage import NEVER, Outage, OutageLog
from .refusals import Refusals
from .shared import Shared
from .stats import Stats

# An opening that takes longer than this (seconds), and than so many usual ones, hangs: one is
# opened beside it for whoever waits. No more, for it may be busy with its second host.
HANGS_AFTER = 1.0
HANGS_AFTER_CONNECTS = 4
# A first guess at the duration of a connect, in seconds, until one was seen.
FIRST_CONNECT = 0.05
# How often to look again, as a part of a connect's time and in seconds: early
# enough to cost little when returns stay out, late enough to have seen some.
LOOK_PART = 1 / 8
LOOK_LEAST = 0.001
LOOK_MOST = 0.05
# A look that has not come so many seconds after its time will not come.
LOOK_LATE = 0.2
# A lease older than this many usual holds is not a usual one: it may go on and on.
STUCK = 4

Refuse = Callable[[BaseException, ConnectFailure, float], BaseException]


class Openings(Generic[E]):
    """Decide which connections are to be opened, and when: no thread, no lock, no I/O, no clock.

    Whoever owns it calls it with the pool's lock held and passes the time in.

    :param refuse: makes an error for one caller, of the failure, its kind and for how many
        seconds openings have failed.
    :param set_timer: has `look` called at a time, and not when it was told before; false if no
        thread can be started to call it.
    :param looks_again: whether anything that `set_timer` is told ever happens.
    :param doubt: has each open connection asked, when it is handed out next, whether it works.
    :param min_idle: how many connections to keep open once the pool is used.
    :param grace: for how many seconds an outage is waited out; None: always.
    :param chance: gives a number from 0 to 1 at random, for the pauses between two probes.
    """

    def __init__(
        self,
        line: Line[E],
        stats: Stats,
        *,
        refuse: Refuse,
        set_timer: Callable[[float], bool],
        looks_again: Callable[[], bool] = lambda: True,
        doubt: Callable[[], object] = lambda: None,
        min_idle: int = 0,
        grace: float | None = None,
        pool_name: str | None = None,
        chance: Callable[[], float] = by_chance,
    ) -> None:
        self._line = line
        self._stats = stats
        self._refuse = refuse
        self._set_timer = set_timer
        self._looks_again = looks_again
        self._doubt = doubt
        self._min_idle = min_idle
        self._grace = grace
        self._chance = chance
        self.outage: Outage | None = None
        self.log = OutageLog(pool_name, grace, self._explain)
        # A slot is reserved for each. Each is in a list of its own, which whoever starts it or
        # gives its slot back empties first: nobody does both.
        self.planned: deque[list[Context]] = deque()
        # When those under way began.
        self._began: dict[object, float] = {}
        # Whether `min_idle` is to be kept open: somebody has asked.
        self.in_use = False
        self._opened_at = NEVER
        # What began before says nothing of the server any more.
        self._resumed_at = NEVER
        # What `set_timer` was told last, if that is still to come.
        self._look_at = math.inf
        # How long a line can wait for that, because returns will serve it.
        self._short_line = math.inf

    # Callers

    def admit(self, waiter: Waiter, now: float, *, again: bool = False) -> Outage | bool:
        """Let a caller into the line, and plan what is to be opened for him.

        :param again: whether he has had his turn, and waits at the head.
        :return: true; false if the line is full; or the outage for which he is refused.
        """
        self._forget_refused_login(now)
        outage = self.outage
        if outage is not None and outage.asks(now):
            self._doubt()
        if outage is not None and not self._line.idle and self._refuses(outage, now):
            # Refused or not, somebody asks: were the prober to rest now, those who come
            # next would be refused long after the server is back.
            self._asked()
            self._watch(now)
            self._count_refused("outage", 1)
            return outage
        if again:
            self._line.rejoin(waiter, now)
        elif not self._line.join(waiter):
            return False
        if waiter.granted is None:
            self._asked()
            # Planning is half of what it costs to join, and in a spike everybody waits for that.
            # A full pool has nothing to plan, and a short line that is soon looked at is planned
            # then.
            if self.outage is not None or not (self._line.full or self._looks_soon(now)):
                self.plan(now)
        return True

    def rest(self) -> None:
        """Keep no minimum open until somebody asks again: the pool is being disposed of."""
        self.in_use = False

    def pause(self, now: float) -> None:
        """Look for nothing and nobody until `resume`: the line is paused.

        An outage ends here, untold: nobody will know how long it lasts, and callers wait.
        """
        self._end_outage(now)

    def resume(self, now: float) -> None:
        """Begin anew: what was found out before a pause is out of date; then `plan`."""
        self._resumed_at = now

    def _asked(self) -> None:
        self.in_use = True
        if self.outage is not None:
            self.outage.wanted = True

    def _count_refused(self, reason: str, count: int) -> None:
        self._stats.refused[reason] += count
        if reason == "outage":
            self.log.refused(count)

    # Planning

    def plan(self, now: float) -> None:
        """Reserve slots for the openings that are wanted now, and put those into `planned`."""
        self._forget_refused_login(now)
        wanted = self._wanted(now)
        while wanted and not self._line.full:
            self._plan_one(self._next_context())
            if self.outage is not None:
                self.outage.probing(now)
            wanted -= 1
        self._watch(now)

    def look(self, now: float) -> None:
        """Look at the line again, as `set_timer` was told."""
        self._look_at = math.inf
        self.plan(now)

    def _plan_one(self, context: Context) -> None:
        planned, line, ticket = self.planned, self._line, [context]
        # No call between these two lines: an interrupt there would leave a slot that
        # counts as being opened for ever.
        planned += (ticket,)
        line.opening += 1

    def _next_context(self) -> Context:
        # Connect listeners see the context of someone who waits, each of them once:
        # a context cannot be entered twice at a time.
        for waiter in self._line.waiters:
            context, waiter.context = waiter.context, None
            if context is not None:
                return context
        return Context()

    def _wanted(self, now: float) -> int:
        if self.outage is not None:
            due = self._next_probe(self.outage, now)
            return int(self._probes and now >= due and self._may_probe(now))
        return max(self._wanted_by_line(now), self._missing())

    def _wanted_by_line(self, now: float) -> int:
        opening = self._counted_on(now)
        line, stats, connect_time = self._line, self._stats, self._connect_time
        if not self._looks_again():
            return max(0, line.waiting - opening)
        hold_time = stats.hold_time()
        self._short_line = short_line(line, connect_time, min(hold_time, stats.hold_at_least))
        return openings_wanted(
            line,
            now,
            opening=opening,
            connect_time=connect_time,
            hold_time=hold_time,
            short=self._short_line,
        )

    @property
    def _connect_time(self) -> float:
        known = self._stats.connect_time
        return FIRST_CONNECT if known is None else known

    def _missing(self) -> int:
        """Count what is missing from `min_idle`, once the pool has been used."""
        if self._line.replaced or not self.in_use:
            return 0
        return max(0, self._min_idle - self._line.total)

    @property
    def _probes(self) -> bool:
        """Whether somebody wants to know, in an outage, when it is over."""
        line, outage = self._line, self.outage
        wanted = outage is not None and outage.wanted
        return line.waiting > 0 or (wanted and not line.replaced)

    def _next_probe(self, outage: Outage, now: float) -> float:
        return outage.next_attempt(now, waiting=self._line.waiting > 0)

    def _may_probe(self, now: float) -> bool:
        # Beside one that hangs another one may try, but not a herd of them.
        line = self._line
        return not self._opening(now) and line.opening <= 1 and not line.full

    # Looking again

    def _watch(self, now: float) -> None:
        """See to it that the line is looked at again, if it may want more openings."""
        due = self._next_look(now)
        if due is not None and (due < self._look_at or now - self._look_at > LOOK_LATE):
            # In this order: interrupted in between, it is looked at once more, not never.
            self._look_at = math.inf
            if self._set_timer(due):
                self._look_at = due
            elif self._looks_again():
                self._plan_unwatched(now)

    def _plan_unwatched(self, now: float) -> None:
        """Have opened at once what might be wanted later: nobody will come to look.

        Where no thread can be started for that either, callers open for themselves.
        """
        wanted = self._line.waiting - self._opening(now)
        if self.outage is not None:
            wanted = min(wanted, 1 - self._opening(now))
        while wanted > 0 and not self._line.full:
            self._plan_one(self._next_context())
            wanted -= 1

    def _looks_soon(self, now: float) -> bool:
        soon = now < self._look_at <= now + look_interval(self._connect_time)
        return soon and self._line.waiting <= self._short_line

    def _next_look(self, now: float) -> float | None:
        line, outage = self._line, self.outage
        if outage is not None:
            if not self._probes:
                return None
            # Where no probe may begin, it would find nothing to do, and come again at once.
            if self._may_probe(now):
                return max(self._next_probe(outage, now), now)
        elif line.full or not line.waiting:
            return None
        elif line.waiting > self._counted_on(now):
            return now + look_interval(self._connect_time)
        return self._next_hanging(now)

    def _opening(self, now: float) -> int:
        """Count the openings that may soon be over: those that hang may not."""
        return self._line.opening - len(self._hanging(now))

    def _counted_on(self, now: float) -> int:
        """Count the openings beside which those who wait need no other."""
        line, hanging = self._line, self._hanging(now)
        if not hanging or not line.waiting:
            return line.opening - len(hanging)
        # Those that hang since before he came were no help to those before him.
        came = next(iter(line.waiters)).since
        begun_for_them = sum(began >= came for began in hanging)
        return line.opening - len(hanging) + max(0, begun_for_them - line.waiting)

    def _hanging(self, now: float) -> list[float]:
        # They stand in the order in which they began: to go through all of them for each that
        # begins made 300 cost 167 µs each, and not 34.
        limit = self._hanging_limit
        return list(takewhile(lambda began: now - began >= limit, self._began.values()))

    def _next_hanging(self, now: float) -> float | None:
        """Say when the next opening will have taken too long; None: none is under way."""
        limit = self._hanging_limit
        return next((b + limit for b in self._began.values() if now < b + limit), None)

    @property
    def _hanging_limit(self) -> float:
        return max(HANGS_AFTER, HANGS_AFTER_CONNECTS * self._connect_time)

    # An opening's course

    def begin(self, opening: object, now: float) -> bool:
        """Begin an opening that was planned; false, and its slot is free, if nobody needs it."""
        line = self._line
        unwanted = line.waiting < self._opening(now) and line.total > self._min_idle
        # Paused or resized since it was planned; or nobody needs it any more.
        if (line.curbed and line.is_too_much()) or (unwanted and not self.outage):
            line.open_failed()
            return False
        self._began[opening] = now
        self._watch(now)
        return True

    def opened(self, opening: object, entry: E, now: float) -> bool:
        """Hand out what was opened; false if it is surplus: then it is to be closed."""
        began = self._began.pop(opening)
        self._stats.connected(now - began)
        self._line.opened(entry, now)
        kept = self._line.put(entry, now)
        self.is_back(now)
        return kept

    def is_back(self, now: float) -> None:
        """Note that a connection could be opened, by whomever."""
        self._end_outage(now)
        self._opened_at = now
        self.plan(now)
        self.log.note(None, now)

    def answered(self, now: float) -> None:
        """Note that an open connection has answered."""
        if self.outage is not None:
            self.outage.answered_at = now

    def failed(
        self, opening: object, kind: ConnectFailure | None, error: BaseException, now: float
    ) -> None:
        """Learn from an opening that failed; have those refused who need not wait any more.

        :param kind: what the failure means; None: a fault of the program.
        """
        began = self._began.pop(opening)
        self._stats.open_failed["program" if kind is None else kind.name.lower()] += 1
        self._line.open_failed()
        if self._is_of_a_pause(began):
            pass
        elif kind is None:
            self._refuse_waiters("program", lambda: error, limit=1)
            self.rest()
        elif kind is ConnectFailure.CONFIGURATION and not self._line.members:
            self._end_outage(now)
            self.log.answered(now)
            self._refuse_waiters("configuration", lambda: self._refuse(error, kind, 0.0))
            # What is missing from `min_idle` would be tried again, and again, at once.
            self.rest()
        else:
            self.away(kind, error, began, now)
        self.plan(now)

    def away(self, kind: ConnectFailure, error: BaseException, began: float, now: float) -> None:
        """Note that the server is out of reach or full, or refuses new connections."""
        if began < self._opened_at or self._is_of_a_pause(began):
            # Another one, begun later, has succeeded: what this one tells is out of date.
            return
        if self.outage is None:
            # Away when the attempt began, at least.
            self.outage = Outage(kind, began, error, self._chance)
            self._stats.outages += 1
        outage = self.outage
        outage.failed(kind, error, now, began)
        self.log.note(outage, now)
        if outage.asks(now):
            self._doubt()
        if self._refuses(outage, now):
            lasted = now - outage.since
            self._refuse_waiters("outage", lambda: self._refuse(error, kind, lasted))

    def _is_of_a_pause(self, began: float) -> bool:
        # It may have met the maintenance for which all others wait.
        return self._line.paused is not None or began < self._resumed_at

    def _refuses(self, outage: Outage, now: float) -> bool:
        return outage.refuses(now, self._grace, has_open=bool(self._line.members))

    def is_cut_off(self, now: float) -> bool:
        """Tell whether nothing works: openings fail, and no open connection answers."""
        outage, has_open = self.outage, bool(self._line.members)
        if outage is None:
            return False
        if outage.kind is ConnectFailure.CONFIGURATION:
            return not has_open
        return outage.refuses(now, 0.0, has_open=has_open)

    def _end_outage(self, now: float) -> None:
        if self.outage is not None:
            self._stats.outage_seconds += now - self.outage.since
            self.outage = None

    def _forget_refused_login(self, now: float) -> None:
        # While others are open, callers wait for those. When the last one has gone, each has to
        # be told at once what the database says, and to be served as soon as it has changed.
        outage = self.outage
        refused = outage is not None and outage.kind is ConnectFailure.CONFIGURATION
        if refused and not self._line.members:
            self._end_outage(now)

    def _explain(self, outage: Outage) -> str:
        return str(self._refuse(outage.error, outage.kind, 0.0).args[0])

    def _refuse_waiters(
        self, reason: str, make_error: Callable[[], BaseException], limit: int | None = None
    ) -> None:
        self._count_refused(reason, self._line.refuse(make_error, limit))


def look_interval(connect_time: float) -> float:
    """Say after how many seconds a waiting line is to be looked at (again)."""
    return min(max(connect_time * LOOK_PART, LOOK_LEAST), LOOK_MOST)


def returns_expected(line: Line[E], now: float, *, connect_time: float, hold_time: float) -> float:
    """Estimate how many returns come within a connect's time.

    :param hold_time: the usual hold, in seconds, as a moving average.
    """
    hold = max(hold_time, 1e-6)
    usual = sum(
        each.state is LEASED and now - each.leased_at <= STUCK * hold for each in line.members
    )
    return usual * connect_time / hold


def short_line(line: Line[E], connect_time: float, hold_at_least: float) -> float:
    """Say how many may wait at most for a first look at the line, and not for openings.

    As many as will surely be served by returns within a connect's time. More would all begin an
    eighth of it too late, and all at once.

    :param hold_at_least: holds are not much shorter, in seconds; 0: nothing is known.
    """
    return line.leased * connect_time / hold_at_least if hold_at_least else math.inf


def openings_wanted(
    line: Line[E],
    now: float,
    *,
    opening: int,
    connect_time: float,
    hold_time: float,
    short: float = math.inf,
) -> int:
    """Count the openings to start now for those who wait (free slots permitting).

    One at a time wins a spike of short holds and ruins one of long holds; one for
    each waiter does the opposite.  So: one for each waiter, unless the holds seen
    say that returns will have served the whole line before a connect could.

    :param opening: how many are under way already.
    :param short: how long a line is looked at before that: what comes back meanwhile tells more.
    """
    need = len(line.waiters) - opening
    if need <= 0:
        return 0
    free = line.free
    if free is not None:
        need = min(need, max(0, free))
    if need == 0 or not line.leased:
        return need
    first = next(iter(line.waiters))
    # Whoever has waited for as long as a connect takes was promised a return that
    # did not come: without this bound a wrong estimate keeps the line waiting.
    if now - first.since < connect_time:
        if len(line.waiters) <= short and now - first.since < look_interval(connect_time):
            return 0
        expected = returns_expected(line, now, connect_time=connect_time, hold_time=hold_time)
        if expected >= len(line.waiters):
            return 0
    return need


class BackgroundOpener:
    """Open connections in threads, as `Openings` decides.

    Methods that end in `_locked` need the pool's lock held; the others must be
    called without it, because they start threads.

    :param start: runs an opening in a thread; raises RuntimeError where none can be started.
    """

    # Whether a caller opens for himself in a slot that he is granted.
    callers_open = False

    def __init__(
        self,
        shared: Shared,
        health: Health,
        refusals: Refusals,
        *,
        start: Callable[[str, Callable[[], object]], object] = start_thread,
    ) -> None:
        self._clock, self._timer = shared.clock, shared.timer
        self._door, self._lock, self._line = shared.door, shared.lock, shared.line
        self._source = shared.source
        self._health = health
        self._refusals = refusals
        self._start = start
        self._task: Task | None = None
        self.openings = Openings(
            shared.line,
            shared.stats,
            refuse=refusals.unavailable,
            set_timer=self._look_at,
            looks_again=lambda: shared.timer.runs,
            doubt=health.doubt_all_locked,
            min_idle=shared.options.min_idle,
            grace=shared.options.outage_grace,
            pool_name=shared.options.pool_name,
        )

    @property
    def outage(self) -> Outage | None:
        """What keeps openings from succeeding, as far as is known."""
        return self.openings.outage

    @staticmethod
    def context() -> Context:
        """Copy the caller's context, in which a connection may be opened for him."""
        return copy_context()

    def admit_locked(self, waiter: Waiter, now: float, *, again: bool) -> Outage | bool:
        """Let a caller into the line, as `Openings.admit` has it; then `launch`."""
        return self.openings.admit(waiter, now, again=again)

    def join_full_locked(self, waiter: Waiter) -> bool:
        """Let a caller into the line of a full pool; false if there is more to be thought of."""
        openings = self.openings
        if openings.outage is not None or not self._line.join_full(waiter):
            return False
        openings.in_use = True
        return True

    def timed_out(self, waited: float, *, cut: bool, setting: str | None) -> BaseException:
        """Make the error of a caller whose time is over."""
        with self._door, self._lock:
            outage = self.openings.outage
            self.openings.log.refused()
        return self._refusals.timed_out(waited, outage, cut=cut, setting=setting)

    def is_cut_off(self) -> bool:
        """Tell whether nothing works, as far as is known."""
        with self._door, self._lock:
            return self.openings.is_cut_off(self._clock())

    def answered(self) -> None:
        """Note that an open connection has answered."""
        if self.openings.outage is not None:
            with self._door, self._lock:
                self.openings.answered(self._clock())

    def caller_opened(self) -> None:
        """Learn from a caller who has opened for himself."""
        with self._door, self._lock:
            self.openings.is_back(self._clock())
        self.launch()
        self.openings.log.write()

    def explain(self, error: Exception, began: float) -> BaseException:
        """Learn from a caller who could not open for himself; return what he is told."""
        now, kind = self._clock(), self._source.classify(error)
        if kind is None:
            return error
        with self._door, self._lock:
            refused = kind is ConnectFailure.CONFIGURATION and not self._line.members
            if not refused:
                self.openings.away(kind, error, began, now)
        self.openings.log.write()
        if refused or self.outage is None:
            return self._refusals.unavailable(error, kind)
        return self.timed_out(now - began, cut=False, setting=None)

    def replace(self, entry: PooledEntry, reason: str) -> None:
        """Close a leased connection that must not be handed out, and its slot with it."""
        self._health.close(entry, reason)

    def rest_locked(self) -> None:
        """Keep no minimum open until somebody asks again."""
        self.openings.rest()

    def pause_locked(self) -> None:
        """Open nothing, and ask nothing, until `resume_locked`."""
        self.openings.pause(self._clock())

    def resume_locked(self) -> None:
        """Begin anew after a pause; then `replan`."""
        self.openings.resume(self._clock())

    def replan(self) -> None:
        """Start openings, if a slot that became free is wanted."""
        with self._door, self._lock:
            self.openings.plan(self._clock())
        self.launch()

    def _look_at(self, due: float) -> bool:
        if self._task is not None:
            self._task.cancel()
        self._task = self._timer.call_at(due, WeakCall(self.look))
        return self._task is not None

    def look(self) -> None:
        """Look at the line again; the timer calls this."""
        with self._door, self._lock:
            self.openings.look(self._clock())
        self.launch()

    def launch(self) -> None:
        """Start what was planned, each opening in a thread of its own.

        What others left behind too: they may have been interrupted after they had planned.
        """
        planned = self.openings.planned
        while planned:
            ticket: list[Context] = []
            try:
                # Interrupted as it returns, popleft() would lose the ticket.
                ticket = planned[0]
                del planned[0]
                self._start("dbpool-opener", functools.partial(self._run, ticket))
            except BaseException as error:
                self._give_back(ticket)
                # No thread can be started, or another thread took the last ticket.
                if not isinstance(error, RuntimeError | IndexError):
                    raise

    def _give_back(self, ticket: list[Context]) -> None:
        """Let the first waiter open in the slot himself, if there is one."""
        try:
            ticket.pop()
        except IndexError:  # its thread runs
            return
        with self._door, self._lock:
            if not self._line.grant_slot():
                self._line.open_failed()

    def _run(self, ticket: list[Context]) -> None:
        try:
            context = ticket.pop()
        except IndexError:  # whoever started this thread was interrupted, and gave it back
            return
        context.run(self._open)

    def _open(self) -> None:
        opening = object()
        with self._door, self._lock:
            if not self.openings.begin(opening, self._clock()):
                return
        # What it may have planned has to be under way before this one waits for the server.
        self.launch()
        surplus = None
        try:
            entry = self._health.open()
        except BaseException as error:
            kind = self._kind(error)
            with self._door, self._lock:
                self.openings.failed(opening, kind, error, self._clock())
        else:
            with self._door, self._lock:
                self._health.opened_locked(entry)
                if not self.openings.opened(opening, entry, self._clock()):
                    surplus = entry
        self.launch()
        self.openings.log.write()
        if surplus is not None:
            self._health.close(surplus, "surplus")
        else:
            # It may be idle by now, and nobody has returned it.
            self._health.settled()

    def _kind(self, error: BaseException) -> ConnectFailure | None:
        try:
            return self._source.classify(error)
        except Exception:  # as of an error that cannot be printed: the slot must not be lost
            return None


class CallersOpen:
    """Stand in for a `BackgroundOpener` where each caller opens for himself, as in QueuePool."""

    callers_open = True
    outage: Outage | None = None

    def __init__(self, shared: Shared, health: Health, refusals: Refusals) -> None:
        self._door, self._lock, self._line = shared.door, shared.lock, shared.line
        self._health = health
        self._refusals = refusals

    def context(self) -> None:
        """Copy nothing: a caller opens in his own context."""

    def admit_locked(self, waiter: Waiter, now: float, *, again: bool) -> Outage | bool:
        """Let a caller into the line; false if it is full."""
        if not again:
            return self._line.join(waiter)
        self._line.rejoin(waiter, now)
        return True

    def join_full_locked(self, waiter: Waiter) -> bool:
        """Let a caller into the line of a full pool; false if there is more to be thought of."""
        return self._line.join_full(waiter)

    def timed_out(self, waited: float, *, cut: bool, setting: str | None) -> BaseException:
        """Make the error of a caller whose time is over."""
        return self._refusals.timed_out(waited, None, cut=cut, setting=setting)

    def is_cut_off(self) -> bool:
        """Know of nothing: each caller finds out for himself."""
        return False

    def answered(self) -> None:
        """Do nothing: nothing is known of an outage."""

    def caller_opened(self) -> None:
        """Do nothing: nothing is known of an outage."""

    def explain(self, error: Exception, began: float) -> BaseException:
        """Return what a caller is told who could not open: the driver's own error."""
        return error

    def replace(self, entry: PooledEntry, reason: str) -> None:
        """Close a leased connection that must not be handed out; the caller has its slot."""
        with self._door, self._lock:
            self._line.reopening(entry)
        self._health.close_in_slot(entry, reason)

    def rest_locked(self) -> None:
        """Do nothing: no minimum is kept."""

    def pause_locked(self) -> None:
        """Do nothing: the line grants no slot."""

    def resume_locked(self) -> None:
        """Do nothing: the line grants slots again."""

    def replan(self) -> None:
        """Do nothing: the line gives a slot that became free to the first waiter."""

    def launch(self) -> None:
        """Do nothing: nothing was planned."""
