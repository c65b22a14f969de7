"""What the windows say alike: counts, durations, and where somebody is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["counted", "duration", "where_text"]

# Up to so many seconds, in which unit, and how many of those a second has.
_UNITS = ((0.9995, "ms", 1000.0), (119.5, "s", 1.0), (5970.0, "min", 1 / 60))


def counted(count: int, one: str, many: str | None = None) -> str:
    """Say how many of something there are.

    :param many: what more than one are called; None: as `one`, with an s.

    >>> counted(1, "process", "processes"), counted(2, "pool")
    ('1 process', '2 pools')
    """
    return f"{count} {one if count == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """Say how long something took, short.

    >>> [duration(each) for each in (0, 0.00042, 0.0042, 0.12, 3.21, 45, 720, 12000)]
    ['0 ms', '0.42 ms', '4.2 ms', '120 ms', '3.2 s', '45 s', '12 min', '3.3 h']
    """
    for limit, unit, factor in _UNITS:
        if seconds < limit:
            value = seconds * factor
            return f"{value:.{_digits(value, unit)}f} {unit}"
    return f"{seconds / 3600:.1f} h"


def _digits(value: float, unit: str) -> int:
    if not value or unit == "min" or value >= 9.95:
        return 0
    return 2 if value < 0.995 else 1


def where_text(person: Mapping[str, Any]) -> str:
    """Say where in the code somebody is who holds or waits, in a report's words; empty: unknown.

    :param person: one of a pool's `holders` or `waiters`.
    """
    if person.get("over"):
        taken = person.get("taken")
        place = f"; it was taken in {taken[0]}" if taken else ""
        return f"has ended without giving it back{place}"
    stack = person.get("stack")
    return f"now in {stack[0]}" if stack else ""
