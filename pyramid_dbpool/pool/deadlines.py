"""How long a caller waits for its connections, as far as it says so itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ..clock import monotonic

_deadline: ContextVar[float | None] = ContextVar("dbpool_deadline", default=None)
# The deadline that stands for the pool's own timeout, over more than one attempt.
_pools_own: ContextVar[float | None] = ContextVar("dbpool_pools_own", default=None)
# The deadline that a setting has set, and how an error cites that setting.
_settings: ContextVar[tuple[float, str] | None] = ContextVar("dbpool_settings", default=None)

# Bound methods: they are read on every checkout.
current_deadline = _deadline.get


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Let no wait for a connection inside the block last beyond `seconds` from now.

    A deadline inside another can only shorten it, and none lengthens the pool's
    own timeout::

        with deadline(2.0):
            session.execute(...)    # PoolTimeout after 2 s at the latest

    It bounds waits for connections only: a statement takes as long as it takes.

    :param seconds: the time for all of those waits together, in seconds.
    :raises ValueError: no number, or below 0.
    """
    # Written so that NaN, which compares with nothing, is refused too.
    if not (isinstance(seconds, int | float) and seconds >= 0):
        raise ValueError(f"deadline takes seconds, 0 or more, not {seconds!r}.")
    until = monotonic() + seconds
    outer = _deadline.get()
    token = _deadline.set(until if outer is None else min(outer, until))
    try:
        yield
    finally:
        _deadline.reset(token)


@contextmanager
def pool_limit(seconds: float) -> Iterator[None]:
    """Apply a pool's own timeout to all attempts inside the block together."""
    outer = current_deadline()
    with deadline(seconds):
        until = current_deadline()
        token = _pools_own.set(None if until == outer else until)
        try:
            yield
        finally:
            _pools_own.reset(token)


@contextmanager
def setting_limit(seconds: float, cited: str) -> Iterator[None]:
    """Set the deadline that a setting asks for.

    :param cited: the setting and its value, for errors.
    """
    outer = current_deadline()
    with deadline(seconds):
        until = current_deadline()
        mine = None if until is None or until == outer else (until, cited)
        token = _settings.set(mine or _settings.get())
        try:
            yield
        finally:
            _settings.reset(token)


def cited_setting(until: float | None) -> str | None:
    """Return the setting that has set a deadline, and its value; None if none has."""
    found = _settings.get()
    return found[1] if found is not None and found[0] == until else None


def is_callers(until: float) -> bool:
    """Tell whether a deadline was set by the caller, and is not a pool's own timeout."""
    return until != _pools_own.get()
