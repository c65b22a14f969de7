"""Answers that report a failure: what the transaction behind them stores, and shows to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyramid.request import Request
from pyramid.response import Response

from .request_db import RequestSessions
from .retry import will_be_tried_again

__all__ = ["TWEEN", "failed_answer_tween_factory", "with_clean_sessions"]

TWEEN = f"{__name__}.failed_answer_tween_factory"

# The lowest status that says that something failed.
_FAILED = 400


def failed_answer_tween_factory(
    handler: Callable[[Request], Response], _registry: Any
) -> Callable[[Request], Response]:
    """Return the tween that lets the answer of a view through which has caught an error itself.

    The server has given the transaction up: its COMMIT would be refused, and a traceback take the
    place of the page, although nobody claims that anything is stored. Under pyramid_tm, which
    then aborts.
    """

    def tween(request: Request) -> Response:
        response = handler(request)
        if getattr(response, "status_code", 0) >= _FAILED:
            sessions = RequestSessions.of(request)
            sessions.forgive_rollbacks()
            if not will_be_tried_again(request):
                sessions.doom_failed()
        return response

    return tween


def with_clean_sessions(view: Any, info: Any) -> Any:
    """Derive an exception view whose sessions are out of the transaction that has failed."""
    if not info.exception_only and info.options.get("context") is None:
        return view

    def clean(context: Any, request: Request) -> Any:
        if isinstance(context, Exception):
            RequestSessions.of(request).leave_failed_commit()
        return view(context, request)

    return clean
