"""Counts and durations as people read them, in all windows that have room for words."""

from __future__ import annotations

__all__ = ["counted", "duration"]

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
