"""503 with Retry-After for a request that gets no connection, and what the log says of it."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping
from typing import Any

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPServiceUnavailable
from pyramid.interfaces import (
    IExceptionViewClassifier,
    IMultiView,
    IRequest,
    ISecuredView,
    IView,
)
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy import exc as sa_exc
from zope.interface import implementedBy

from .drivers import ConnectFailure, classify_connect_failure
from .engines import ProcessEngine
from .errors import DatabaseUnavailable
from .labels import request_name
from .messages import holders_text
from .pool import ManagedPool
from .stats import PoolSnapshot

__all__ = ["OverloadView", "add_overload_views", "estimate"]

log = logging.getLogger(__name__)

# What Retry-After may say, in seconds: nobody knows more than a minute ahead.
SHORTEST, LONGEST = 1, 60
# Seconds between two log lines about the same pool and kind of error.
LOG_EVERY = 10.0


def add_overload_views(config: Configurator, engines: Mapping[str, ProcessEngine]) -> None:
    """Answer what a pool refuses, unless the app has an exception view for it.

    Call it when everything else is registered: an app's own view for the error, or for one of
    SQLAlchemy's errors that it refines, stays in charge. One for `Exception` does not.

    :param engines: by pool name; filled by the time that a request comes.
    """
    # Of its own, so that it neither overrides nor conflicts with what an app has said.
    configurator = Configurator(registry=config.registry, autocommit=True)
    view = OverloadView(engines)
    for error_class in (sa_exc.TimeoutError, DatabaseUnavailable):
        if not _has_exception_view(config.registry, error_class):
            configurator.add_exception_view(view, context=error_class)


def _has_exception_view(registry: Registry, error_class: type[Exception]) -> bool:
    bases = [each for each in error_class.__mro__ if issubclass(each, sa_exc.SQLAlchemyError)]
    kinds = (IView, ISecuredView, IMultiView)
    return any(
        registry.adapters.registered(
            (IExceptionViewClassifier, IRequest, implementedBy(base)), kind, name=""
        )
        for base in bases
        for kind in kinds
    )


class OverloadView:
    """The exception view: 503, Retry-After, and a line in the log."""

    def __init__(self, engines: Mapping[str, ProcessEngine]) -> None:
        self._engines = engines
        self._log = _FloodLog()

    def __call__(self, error: Exception, request: Request) -> Response:
        made = self._engines.get(getattr(error, "pool_name", None) or "default")
        seconds = estimate(made, error) if made is not None else SHORTEST
        pool = made.engine.pool if made is not None else None
        text = _explain(error, pool.snapshot() if isinstance(pool, ManagedPool) else None)
        after = "no Retry-After" if seconds is None else f"Retry-After {seconds} s"
        self._log.write((getattr(error, "pool_name", None), type(error)), request, after, text)
        return _response(seconds)


def estimate(made: ProcessEngine, error: Exception) -> int | None:
    """Estimate after how many seconds another request may succeed; None: only a person can help.

    In an outage: as long again as it has lasted. For a pool that is full: what its line needs
    at the pace of the holds so far.
    """
    pool = made.engine.pool
    trouble = pool.trouble if isinstance(pool, ManagedPool) else None
    if isinstance(error, DatabaseUnavailable):
        failure = classify_connect_failure(made.engine.dialect, error)
        if failure is ConnectFailure.CONFIGURATION:
            return None
        return _bounded(time.monotonic() - trouble.since if trouble else 0.0)
    if not isinstance(pool, ManagedPool):
        return _bounded(made.settings.engine_options.get("pool_timeout") or 0.0)
    return _bounded(_line_seconds(pool.snapshot()))


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


def _explain(error: Exception, seen: PoolSnapshot | None) -> str:
    # Not str(): SQLAlchemy would add a link, on a line of its own.
    text = " ".join(str(error.args[0] if error.args else error).split())
    if seen is None or isinstance(error, DatabaseUnavailable) or "ongest holders" in text:
        return text
    capacity = "no limit" if seen.capacity is None else str(seen.capacity)
    state = f"{seen.leased} of {capacity} connections checked out, {seen.waiting} callers waiting"
    holders = f"; longest holders: {holders_text(seen.holders)}" if seen.holders else ""
    return f"{text} ({state}{holders})"


def _response(seconds: int | None) -> Response:
    when = "later" if seconds is None else f"in {seconds} s"
    response = HTTPServiceUnavailable(f"The database cannot be used just now. Try again {when}.")
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
        now = time.monotonic()
        with self._lock:
            written, left_out = self._written.get(about, (float("-inf"), 0))
            due = now - written >= LOG_EVERY
            self._written[about] = (now, 0) if due else (written, left_out + 1)
        if due:
            more = f" ({left_out} more since the last such line)" if left_out else ""
            log.warning("503 for %s, %s%s: %s", request_name(request), after, more, text)
