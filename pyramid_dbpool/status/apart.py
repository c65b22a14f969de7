"""The tween that keeps the page out of transactions, and there while nobody gets a connection.

The page needs no connection, but the app's security policy may: to look up who asks, for one. So
it is remembered for some minutes who was let in; whoever comes again with the same words, while
the policy gets no connection, sees the page, and none of its commands.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy import exc as sa_exc

from ..clock import monotonic
from ..pool.deadlines import deadline

__all__ = ["APART", "TWEEN", "Apart", "Visitors", "apart_tween_factory"]

TWEEN = f"{__name__}.apart_tween_factory"
# The registry's key of the `Apart`.
APART = "pyramid_dbpool.status.apart"

# How long, in seconds, what is not the page's own waits for a connection: an incident is looked
# at now.
PATIENCE = 1.0
# For so long, in seconds, somebody who was let in is remembered, and so many of them.
REMEMBERED = 300.0
MOST = 100

# What a browser says differently of the page and of its data; all else tells one visitor from
# another, whatever the policy goes by.
_ABOUT_THE_REQUEST = (
    "HTTP_ACCEPT",
    "HTTP_CACHE_CONTROL",
    "HTTP_CONNECTION",
    "HTTP_CONTENT_",
    "HTTP_IF_",
    "HTTP_ORIGIN",
    "HTTP_PRAGMA",
    "HTTP_PRIORITY",
    "HTTP_REFERER",
    "HTTP_SEC_FETCH_",
    "HTTP_UPGRADE_INSECURE_REQUESTS",
)
_ABOUT_THE_VISITOR = ("HTTP_", "REMOTE_ADDR", "REMOTE_USER", "SSL_", "AUTH_TYPE")

Handler = Callable[[Request], Response]


class Visitors:
    """Remembers who was let in, by what they have said of themselves; never what that was."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        # Until when; the youngest last. Each change is one call: threads come and go.
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def let_in(self, environ: Mapping[str, Any]) -> None:
        """Remember somebody whom the policy has let in."""
        who = _who(environ)
        self._until[who] = self._clock() + REMEMBERED
        self._until.move_to_end(who)
        while len(self._until) > MOST:
            self._until.popitem(last=False)

    def turned_away(self, environ: Mapping[str, Any]) -> None:
        """Forget somebody whom the policy lets in no more."""
        self._until.pop(_who(environ), None)

    def was_let_in(self, environ: Mapping[str, Any]) -> bool:
        """Tell whether it was so lately."""
        return self._until.get(_who(environ), 0.0) > self._clock()


def _who(environ: Mapping[str, Any]) -> bytes:
    said = sorted(
        (key, value)
        for key, value in environ.items()
        if isinstance(value, str)
        and key.startswith(_ABOUT_THE_VISITOR)
        and not key.startswith(_ABOUT_THE_REQUEST)
    )
    # A hash: cookies are nothing to keep.
    return hashlib.sha256(repr(said).encode()).digest()


class Apart:
    """The page's paths, who was let in, and the views for when the policy cannot say.

    :param views: by path, what shows the page without a question to the policy.
    """

    def __init__(self, views: Mapping[str, Handler]) -> None:
        self.views = views
        self.visitors = Visitors()


def apart_tween_factory(handler: Handler, registry: Any) -> Handler:
    """Return the tween, which stands over pyramid_tm's."""
    apart: Apart = registry[APART]

    def tween(request: Request) -> Response:
        environ = request.environ
        view = apart.views.get(environ.get("PATH_INFO", ""))
        if view is None:
            return handler(request)
        # So pyramid_tm neither begins a transaction nor asks who the user is.
        environ["repoze.tm.active"] = True
        try:
            with deadline(PATIENCE):
                response = handler(request)
        except sa_exc.SQLAlchemyError:
            if not _may_show(apart, request):
                raise
            return view(request)
        error = getattr(request, "exception", None)
        if isinstance(error, sa_exc.SQLAlchemyError) and _may_show(apart, request):
            # An exception view has answered; nobody above is to judge that any more.
            request.exception = request.exc_info = None
            return view(request)
        return response

    return tween


def _may_show(apart: Apart, request: Request) -> bool:
    return request.method == "GET" and apart.visitors.was_let_in(request.environ)
