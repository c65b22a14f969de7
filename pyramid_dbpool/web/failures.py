"""Answers that report a failure: what the transaction behind them stores, and shows to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyramid.request import Request
from pyramid.response import Response
from transaction import ThreadTransactionManager

from .request_db import RequestSessions, note_thread_manager
from .retry import will_be_tried_again

__all__ = ["TWEEN", "failed_answer_tween_factory", "with_clean_sessions"]

TWEEN = f"{__name__}.failed_answer_tween_factory"

# The status line of an answer that says that something failed is not less; its number is made anew
# whenever it is asked for.
_FAILED = "4"


def failed_answer_tween_factory(
    handler: Callable[[Request], Response], _registry: Any
) -> Callable[[Request], Response]:
    """Return the tween that lets the answer of a view through which has caught an error itself.

    The server has given the transaction up: its COMMIT would be refused, and a traceback take the
    place of the page, although nobody claims that anything is stored. Under pyramid_tm, which
    then aborts.
    """

    def tween(request: Request) -> Response:
        if isinstance(request.environ.get("tm.manager"), ThreadTransactionManager):
            note_thread_manager(request)
        response = handler(request)
        if getattr(response, "status", "") >= _FAILED:
            _let_through(request)
        return response

    return tween


def _let_through(request: Request) -> None:
    """Have the transaction of a request aborted rather than its COMMIT refused."""
    sessions = RequestSessions.known(request)
    if sessions is not None:
        sessions.forgive_rollbacks()
        if not will_be_tried_again(request):
            sessions.doom_failed()


def with_clean_sessions(view: Any, info: Any) -> Any:
    """Derive an exception view whose sessions are out of the transaction that has failed."""
    if not info.exception_only and info.options.get("context") is None:
        return view

    def clean(context: Any, request: Request) -> Any:
        sessions = RequestSessions.known(request) if isinstance(context, Exception) else None
        if sessions is not None:
            sessions.leave_failed_commit()
        return view(context, request)

    return clean
