"""503 with Retry-After for a request that gets no connection, and what the log says of it."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Mapping
from typing import Any

from pyramid.exceptions import PredicateMismatch
from pyramid.httpexceptions import HTTPServiceUnavailable
from pyramid.interfaces import IExceptionViewClassifier, IRequest, IView
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy import exc as sa_exc
from zope.interface import implementedBy

from ..clock import monotonic
from ..drivers.connect_failures import ConnectFailure, classify_connect_failure
from ..engines.registry import ProcessEngine
from ..engines.stored import current_outcome
from ..errors import DatabaseUnavailable
from ..pool.managed import ManagedPool
from ..pool.stats import PoolSnapshot
from .requests import IDEMPOTENT, request_name

__all__ = ["OverloadView", "add_overload_view", "estimate"]

log = logging.getLogger(__name__)

# What Retry-After may say, in seconds: nobody knows more than a minute ahead.
SHORTEST, LONGEST = 1, 60
# Seconds between two log lines about the same pool and kind of error.
LOG_EVERY = 10.0


def add_overload_view(registry: Registry, engines: Mapping[str, ProcessEngine]) -> None:
    """Answer what a pool refuses, unless the app has an exception view for it.

    An app's own view for the error, for `PoolError` or for one of SQLAlchemy's errors that it
    refines comes first, whenever it is registered; one for `Exception` comes after this one.

    :param engines: by pool name; filled by the time that a request comes.
    """
    # The last base of SQLAlchemy's errors before Exception: Pyramid asks the views of all the
    # others first, and this one also where their predicates (request_method, accept) say no.
    # By hand: add_exception_view takes nothing but exceptions for a context.
    where = (IExceptionViewClassifier, IRequest, implementedBy(sa_exc.HasDescriptionCode))
    registry.registerAdapter(OverloadView(engines), where, IView)


class OverloadView:
    """The exception view: 503, Retry-After, and a line in the log."""

    def __init__(self, engines: Mapping[str, ProcessEngine]) -> None:
        self._engines = engines
        self._log = _FloodLog()

    def __call__(self, error: Exception, request: Request) -> Response:
        if not isinstance(error, sa_exc.TimeoutError | DatabaseUnavailable):
            raise PredicateMismatch  # other views, or none, are for SQLAlchemy's other errors
        seconds, after, remedy = _advice(request, self._seconds(error))
        # The argument: in str() SQLAlchemy adds a link, on a line of its own.
        said = str(error.args[0]) if error.args else type(error).__name__
        text = " ".join(said.split())
        self._log.write((getattr(error, "pool_name", None), type(error)), request, after, text)
        return _response(remedy, seconds)

    def _seconds(self, error: Exception) -> int | None:
        made = self._engines.get(getattr(error, "pool_name", None) or "default")
        return estimate(made, error) if made is not None else SHORTEST


def _advice(request: Request, seconds: int | None) -> tuple[int | None, str, str]:
    """Return what Retry-After, the log and the body say."""
    outcome = current_outcome()
    if outcome is not None and not outcome.nothing_stored and request.method not in IDEMPOTENT:
        # Whoever did as Retry-After says would store it twice.
        remedy = "A part of this request may be stored: look before you repeat it."
        return None, "no Retry-After because a part of it may be stored", remedy
    if seconds is None:
        return None, "no Retry-After", "Try again later."
    return seconds, f"Retry-After {seconds} s", f"Try again in {seconds} s."


def estimate(made: ProcessEngine, error: Exception) -> int | None:
    """Estimate after how many seconds another request may succeed; None: only a person can help.

    In an outage, and while the server admits no more: as long again as that has lasted. For a
    pool that is full: what its line needs at the pace of the holds so far.
    """
    pool, away = made.engine.pool, isinstance(error, DatabaseUnavailable)
    if away and (lasted := made.writes.lasted) is not None:
        return _bounded(lasted)
    if away:
        failure = classify_connect_failure(made.engine.dialect, error)
        if failure is ConnectFailure.CONFIGURATION:
            return None
    if isinstance(pool, ManagedPool):
        outage = pool.outage
        lasted = None if outage is None else monotonic() - outage.since
        return _bounded(_line_seconds(pool.snapshot()) if lasted is None else lasted)
    timeout = made.settings.pool_timeout
    return SHORTEST if away or timeout is None else _bounded(timeout)


def _line_seconds(seen: PoolSnapshot) -> float:
    """Say how long the line of a pool lasts, and a newcomer at its end with it."""
    usual = seen.hold.sum_seconds / seen.hold.count if seen.hold.count else 0.0
    if seen.holders:
        # Those that are out now may be nothing like those that came back before.
        held = sum(each.held_seconds for each in seen.holders) / len(seen.holders)
        usual = max(usual, held)
    return usual * (seen.waiting + 1) / (seen.capacity or max(1, seen.leased))


def _bounded(seconds: float) -> int:
    return min(max(math.ceil(seconds), SHORTEST), LONGEST)


def _response(remedy: str, seconds: int | None) -> Response:
    response = HTTPServiceUnavailable(f"The database cannot be used just now. {remedy}")
    if seconds is not None:
        response.retry_after = seconds
    return response


class _FloodLog:
    """One line at a time about the same thing; the next one counts those left out."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # What it is about: when a line was written, and how many were left out since.
        self._written: dict[Any, tuple[float, int]] = {}

    def write(self, about: Any, request: Request, after: str, text: str) -> None:
        now = monotonic()
        with self._lock:
            written, left_out = self._written.get(about, (float("-inf"), 0))
            due = now - written >= LOG_EVERY
            self._written[about] = (now, 0) if due else (written, left_out + 1)
        if due:
            more = f" ({left_out} more since the last such line)" if left_out else ""
            log.warning("503 for %s, %s%s: %s", request_name(request), after, more, text)
