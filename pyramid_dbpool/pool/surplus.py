"""Which idle connections are surplus, and when the next one will be.

Pure functions over a `Line`: they change nothing.
"""

from __future__ import annotations

from itertools import islice

from .entries import E
from .line import Line


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
