"""What a request says of itself: its name for logs and errors, the session that a test has put
into it, and whether its method may be done twice.

Imports no Pyramid, since `streaming` asks here, which workers and scripts import.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from ..engines.stored import Outcome

__all__ = ["IDEMPOTENT", "may_be_stored_twice", "request_name", "supplied_session"]

# The methods of requests that may be run again whatever they have stored (RFC 9110, 9.2.2).
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})


def request_name(request: Any) -> str:
    """Name a request for logs and errors: its method, and its route or path."""
    route = getattr(request, "matched_route", None)
    # From the environ: request.path raises where the path is not UTF-8.
    path = request.environ.get("PATH_INFO", "")
    where = f"route {route.name!r}" if route is not None else repr(path)
    return f"{request.method} {where}"


def may_be_stored_twice(request: Any, outcome: Outcome) -> bool:
    """Tell whether who repeats a request that has failed may do a part of it twice."""
    return not outcome.nothing_stored and request.method not in IDEMPOTENT


def supplied_session(request: Any, pool_name: str) -> Session | None:
    """Return the session that a test supplies for a pool, in ``environ["app.dbsession"]``."""
    key = "app.dbsession" if pool_name == "default" else f"app.dbsession.{pool_name}"
    found: Session | None = request.environ.get(key)
    return found
