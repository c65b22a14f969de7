"""Durations and times as people read them, in few letters: a table has no room for words."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from ..telemetry.host import Answer

__all__ = ["clock_text", "cut", "duration", "printable", "shown"]


def duration(seconds: float | None) -> str:
    """Return a duration in at most six letters, such as `0.3ms`, `45ms`, `2.1s`, `63s`, `12m`.

    >>> [duration(each) for each in (None, 0, 0.0003, 0.045, 2.14, 63, 720, 10000)]
    ['-', '0', '0.3ms', '45ms', '2.1s', '63s', '12m', '2.8h']
    """
    if seconds is None:
        return "-"
    if seconds <= 0:
        return "0"
    # In this order, so that 0.00996 is 10ms and 0.9996 is 1.0s: never 1000ms.
    for limit, factor, unit, digits in _STEPS:
        if seconds < limit:
            return f"{seconds * factor:.{digits}f}{unit}"
    return f"{seconds / 86400:.1f}d"


_STEPS = (
    (0.00995, 1000, "ms", 1),
    (0.9995, 1000, "ms", 0),
    (9.95, 1, "s", 1),
    (99.5, 1, "s", 0),
    (5970, 1 / 60, "m", 0),
    (172800, 1 / 3600, "h", 1),
)


def cut(text: str, width: int) -> str:
    """Return a text that is no longer than so many letters."""
    if len(text) <= width:
        return text
    return text[: width - 1] + "…" if width > 0 else ""


def clock_text(at: float, *, date: bool = False) -> str:
    """Return a time of this machine's clock and zone.

    :param at: seconds since the epoch.
    """
    return time.strftime("%Y-%m-%d %H:%M:%S" if date else "%H:%M:%S", time.localtime(at))


def printable(text: str) -> str:
    """Write out what would do something to a terminal, or cannot be encoded.

    >>> printable("a\\x1b[2J\\nb")
    'a\\\\x1b[2J b'
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else " " if each.isspace() else repr(each)[1:-1]
        for each in text
    )


def shown(answer: Answer) -> Answer:
    """Return an answer for people: labels hold whatever an app has put there."""
    silent = None if answer.silent is None else printable(answer.silent)
    return replace(answer, report=_printable(answer.report), silent=silent)


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {key: _printable(each) for key, each in value.items()}
    return [_printable(each) for each in value] if isinstance(value, list) else value
