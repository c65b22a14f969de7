"""After how long a caller who was refused may come again."""

import math

from .stats import PoolSnapshot

__all__ = ["LONGEST", "SHORTEST", "bounded", "seconds_to_wait"]

# In seconds: nobody knows more than a minute ahead.
SHORTEST, LONGEST = 1, 60


def seconds_to_wait(seen: PoolSnapshot) -> int:
    """Estimate after how many seconds another caller may be served.

    In an outage, while the server admits no more, and while the pool is paused: as long again as
    that has lasted. For a pool that is full: what its line needs at the pace of the holds so far.
    """
    lasted = seen.outage_seconds if seen.paused_seconds is None else seen.paused_seconds
    return bounded(line_seconds(seen) if lasted is None else lasted)


def bounded(seconds: float) -> int:
    """Make whole seconds of an estimate, neither too few nor too many."""
    return min(max(math.ceil(seconds), SHORTEST), LONGEST)


def line_seconds(seen: PoolSnapshot) -> float:
    """Say how long the line of a pool lasts, and a newcomer at its end with it."""
    usual = seen.hold.sum_seconds / seen.hold.count if seen.hold.count else 0.0
    if seen.holders:
        # Those that are out now may be nothing like those that came back before.
        held = sum(each.held_seconds for each in seen.holders) / len(seen.holders)
        usual = max(usual, held)
    return usual * (seen.waiting + 1) / (seen.capacity or max(1, seen.leased))
