"""503 with Retry-After for a request that gets no connection."""

from __future__ import annotations

from pyramid.exceptions import PredicateMismatch
from pyramid.httpexceptions import HTTPServiceUnavailable
from pyramid.interfaces import IExceptionViewClassifier, IRequest, IView
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy import exc as sa_exc
from zope.interface import implementedBy

from ..engines.stored import current_outcome, judged
from ..pool.estimates import SHORTEST
from .incidents import IncidentLog, Incidents, is_refusal
from .requests import may_be_stored_twice

__all__ = ["add_overload_view", "overload_view"]


def add_overload_view(registry: Registry) -> None:
    """Answer what a pool refuses, unless the app has an exception view for it.

    An app's own view for the error, for `PoolError` or for one of SQLAlchemy's errors that it
    refines comes first, whenever it is registered; one for `Exception` comes after this one.
    """
    # The last base of SQLAlchemy's errors before Exception: Pyramid asks the views of all the
    # others first, and this one also where their predicates (request_method, accept) say no.
    # By hand: add_exception_view takes nothing but exceptions for a context.
    where = (IExceptionViewClassifier, IRequest, implementedBy(sa_exc.HasDescriptionCode))
    registry.registerAdapter(overload_view, where, IView)


def overload_view(error: Exception, request: Request) -> Response:
    """Answer 503, with Retry-After where it may help to come again."""
    if not is_refusal(error):
        raise PredicateMismatch  # other views, or none, are for SQLAlchemy's other errors
    # Pools of SQLAlchemy's own have none.
    seconds: int | None = getattr(error, "retry_after", SHORTEST)
    remedy = "Try again later." if seconds is None else f"Try again in {seconds} s."
    outcome = current_outcome()
    if outcome is not None:
        # In a subrequest the tween over all others sees no more than this answer.
        judged(error)
        if may_be_stored_twice(request, outcome):
            # Whoever did as Retry-After says would store it twice.
            remedy = "A part of this request may be stored: look before you repeat it."
            seconds = None
    response = HTTPServiceUnavailable(f"The database cannot be used just now. {remedy}")
    if seconds is not None:
        response.retry_after = seconds
    if outcome is None:
        # `pyramid.tweens` does not list the tween that writes it for all of a request.
        incidents = Incidents({})
        incidents.note(error)
        IncidentLog.of(request.registry).write(incidents, request, response)
    return response
