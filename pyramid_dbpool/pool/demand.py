"""How many connections to open for those who wait.

One at a time wins a spike of short holds and ruins one of long holds; one for
each waiter does the opposite.  So: one for each waiter, unless the holds seen
say that returns will have served the whole line before a connect could.

Pure functions over a `Line`: they change nothing.
"""

from __future__ import annotations

from .entries import LEASED, E
from .line import Line

# A first guess at the duration of a connect, in seconds, until one was seen.
FIRST_CONNECT = 0.05
# How often to look again, as a part of a connect's time and in seconds: early
# enough to cost little when returns stay out, late enough to have seen some.
LOOK_PART = 1 / 8
LOOK_LEAST = 0.001
LOOK_MOST = 0.05
# A lease older than this many usual holds is not a usual one: it may go on and on.
STUCK = 4


def look_interval(connect_time: float) -> float:
    """Say after how many seconds a waiting line is to be looked at (again)."""
    return min(max(connect_time * LOOK_PART, LOOK_LEAST), LOOK_MOST)


def returns_expected(line: Line[E], now: float, *, connect_time: float, hold_time: float) -> float:
    """Estimate how many returns come within a connect's time.

    :param hold_time: the usual hold, in seconds, as a moving average.
    """
    hold = max(hold_time, 1e-6)
    # A copy: the collector may return a connection in the middle of this.
    usual = sum(
        each.state is LEASED and now - each.leased_at <= STUCK * hold
        for each in list(line.members)
    )
    return usual * connect_time / hold


def openings_wanted(
    line: Line[E], now: float, *, opening: int, connect_time: float, hold_time: float
) -> int:
    """Count the openings to start now for those who wait (free slots permitting).

    :param opening: how many are under way already.
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
        if now - first.since < look_interval(connect_time):
            return 0
        expected = returns_expected(line, now, connect_time=connect_time, hold_time=hold_time)
        if expected >= len(line.waiters):
            return 0
    return need
