"""What a request says of itself: its name for logs, errors and labels, the session that a test has
put into it, and whether its method may be done twice.

Imports no Pyramid, since `streaming` asks here, which workers and scripts import.
"""

from __future__ import annotations

import weakref
from typing import Any

from sqlalchemy.orm import Session

from ..engines.stored import Outcome
from ..pool.labels import ENDED, Label

__all__ = [
    "IDEMPOTENT",
    "RequestLabel",
    "keep_route",
    "may_be_stored_twice",
    "request_name",
    "supplied_session",
]

# The methods of requests that may be run again whatever they have stored (RFC 9110, 9.2.2).
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})

# The environ's key of the route of an attempt before this one.
_ROUTE = "pyramid_dbpool.route"


def request_name(request: Any) -> str:
    """Name a request for logs and errors: its method, and its route or path."""
    environ = request.environ
    route = getattr(request, "matched_route", None) or environ.get(_ROUTE)
    # From the environ: request.path raises where the path is not UTF-8.
    return _name(request.method, route, environ.get("PATH_INFO", ""))


def keep_route(request: Any) -> None:
    """Have the attempts that follow named as this one is, also where they find no route."""
    request.environ[_ROUTE] = getattr(request, "matched_route", None)


def _name(method: str, route: Any, path: str) -> str:
    return f"{method} route {route.name!r}" if route is not None else f"{method} {path!r}"


class RequestLabel(Label):
    """A label that names a request for as long as it lives, and from its end on for good.

    Each request has one, and hardly any is looked at: so the name is not written before.
    """

    __slots__ = ("_named_by", "_request")

    def __init__(self, request: Any) -> None:
        # Weakly: the last label of a connection stays with it while it is idle.
        self._request = weakref.ref(request)
        self.over = False

    def __str__(self) -> str:
        return f"{self.name}{ENDED}" if self.over else self.name

    @property
    def name(self) -> str:
        """The request's name; empty where it was forgotten before its end."""
        if self.over:
            return _name(*self._named_by)
        request = self._request()
        return "" if request is None else request_name(request)

    def end_of(self, request: Any) -> None:
        """Note that the request is over; it need not be alive any more."""
        route = request.__dict__.get("matched_route")
        self._named_by = request.method, route, request.environ.get("PATH_INFO", "")
        self.over = True


def may_be_stored_twice(request: Any, outcome: Outcome) -> bool:
    """Tell whether who repeats a request that has failed may do a part of it twice."""
    return not outcome.nothing_stored and request.method not in IDEMPOTENT


def supplied_session(request: Any, pool_name: str) -> Session | None:
    """Return the session that a test supplies for a pool, in ``environ["app.dbsession"]``."""
    key = "app.dbsession" if pool_name == "default" else f"app.dbsession.{pool_name}"
    found: Session | None = request.environ.get(key)
    return found
