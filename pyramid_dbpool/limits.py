"""What a caller says about its own checkouts: how long it will wait, and who it is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_deadline: ContextVar[float | None] = ContextVar("dbpool_deadline", default=None)
_label: ContextVar[str | None] = ContextVar("dbpool_label", default=None)

# Bound methods: both are read on every checkout.
current_deadline = _deadline.get
current_label = _label.get


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Let no wait for a connection inside the block last beyond `seconds` from now.

    A deadline inside another can only shorten it, and none lengthens the pool's
    own timeout::

        with deadline(2.0):
            session.execute(...)    # PoolTimeout after 2 s at the latest

    :param seconds: the time for everything inside the block, in seconds.
    :raises ValueError: no number, or below 0.
    """
    if not isinstance(seconds, int | float) or seconds < 0:
        raise ValueError(f"deadline takes seconds, 0 or more, not {seconds!r}.")
    until = time.monotonic() + seconds
    outer = _deadline.get()
    token = _deadline.set(until if outer is None else min(outer, until))
    try:
        yield
    finally:
        _deadline.reset(token)


@contextmanager
def holder_label(label: str) -> Iterator[None]:
    """Name those who check connections out inside the block, for errors and statistics.

    :param label: a short text such as `GET /items`; no personal data, no secret.
    """
    token = _label.set(label)
    try:
        yield
    finally:
        _label.reset(token)
