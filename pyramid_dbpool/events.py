"""What happened to the pools of this process: a line in the log, and kept for whoever looks.

The same words in both; the numbers also as fields of the log's record (`extra`), so that a JSON
formatter or Sentry shows them as such: `dbpool_event` (the kind), `dbpool_pool`, and
`dbpool_NAME` for each of the event's own.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import count

__all__ = ["Event", "Field", "Kind", "recent", "tell"]

# How many events are kept, the youngest ones.
KEPT = 200

Field = str | int | float | bool | None


class Kind(StrEnum):
    """What kind of thing happened."""

    OUTAGE = "outage"
    BACK = "back"
    FULL = "full"
    READ_ONLY = "read_only"
    WRITABLE = "writable"
    REFUSED = "refused"
    HELD = "held"
    RETURNED = "returned"
    SECOND_CONNECTION = "second_connection"
    LEAK = "leak"
    SECOND_ENGINE = "second_engine"
    NOT_READY = "not_ready"
    READY = "ready"
    WAITING = "waiting"
    REFRESH = "refresh"
    RESIZE = "resize"
    PAUSE = "pause"
    RESUME = "resume"


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    - `number`: counts up in this process; the first is 1.
    - `at`: when, in seconds since the epoch.
    - `pool`: the pool's name.
    - `level`: the level of the log's line, such as `WARNING`.
    - `text`: the log's line.
    - `fields`: the numbers of it; durations in seconds.
    """

    number: int
    at: float
    kind: Kind
    pool: str
    level: str
    text: str
    fields: Mapping[str, Field]


class _Ring:
    """Owns the events of this process; a forked child begins with none."""

    def __init__(self) -> None:
        # By process: Python may know nothing of a fork, as of uWSGI's.
        self._of: dict[int, deque[Event]] = {}
        self._numbers = count(1)

    @property
    def _events(self) -> deque[Event]:
        # All of its steps are atomic: nobody waits for anybody, also in a signal's handler.
        return self._of.setdefault(os.getpid(), deque(maxlen=KEPT))

    def add(
        self, kind: Kind, pool: str, level: int, text: str, fields: Mapping[str, Field]
    ) -> None:
        name = logging.getLevelName(level)
        self._events.append(
            Event(next(self._numbers), time.time(), kind, pool, name, text, fields)
        )

    def forget_parents(self) -> None:
        # What the parent has told is not said twice; the numbers go on.
        self._of.clear()

    def after(self, number: int) -> list[Event]:
        return [each for each in list(self._events) if each.number > number]


_ring = _Ring()
os.register_at_fork(after_in_child=_ring.forget_parents)


def tell(
    log: logging.Logger,
    kind: Kind,
    text: str,
    pool: str | None,
    level: int = logging.WARNING,
    /,
    **fields: Field,
) -> None:
    """Write one line to the log, and keep it as an event.

    :param log: the logger of the module that tells.
    :param text: the line; no secret, no content.
    :param pool: the pool's name; None: the default one's.
    :param fields: numbers and names that belong to it; durations in seconds.
    """
    name = pool or "default"
    _ring.add(kind, name, level, text, fields)
    extra = {f"dbpool_{key}": value for key, value in fields.items()}
    log.log(
        level,
        "%s",
        text,
        extra=extra | {"dbpool_event": str(kind), "dbpool_pool": name},
        stacklevel=2,
    )


def recent(after: int = 0) -> list[Event]:
    """List the youngest events of this process, the oldest of them first.

    :param after: only those with a higher number.
    """
    return _ring.after(after)
