"""What the log says of requests that got no connection, or whose write is in doubt.

It is said whoever has answered them: an exception view of the app's own, one of its tweens, or a
view that has caught the error.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from pyramid.registry import Registry
from pyramid.request import Request
from sqlalchemy import exc as sa_exc

from ..clock import monotonic
from ..errors import CommitUnknown, DatabaseUnavailable
from ..events import Field, Kind, tell
from .requests import request_name

__all__ = ["IncidentLog", "Incidents", "is_refusal"]

log = logging.getLogger(__name__)

# Seconds between two log lines about the same pool and kind of refusal.
LOG_EVERY = 10.0

# The registry's key of the app's `IncidentLog`, and the environ's of a request's `Incidents`.
_LOG = "pyramid_dbpool.incident_log"
_NOTED = "pyramid_dbpool.incidents"

# From this status on an answer says that something failed.
_FAILED = 400


def is_refusal(error: BaseException | None) -> bool:
    """Tell whether an error says that somebody got no connection."""
    return isinstance(error, sa_exc.TimeoutError | DatabaseUnavailable)


class _About(NamedTuple):
    pool_name: str | None
    kind: type[BaseException]


class _Refused(NamedTuple):
    text: str
    fields: Mapping[str, Field]


class Incidents:
    """What befell one request, over all of its attempts.

    :ivar any: whether there is something to be told of.
    :ivar refused: what was said to it in the place of a connection.
    :ivar in_doubt: what was said of a COMMIT of this attempt that was lost.
    """

    __slots__ = ("_environ", "_in_doubt_before", "any", "in_doubt", "refused")

    def __init__(self, environ: dict[str, Any]) -> None:
        self._environ = environ
        self.any = False
        self.refused: dict[_About, _Refused] | None = None
        self.in_doubt: str | None = None
        self._in_doubt_before: str | None = None

    @staticmethod
    def before(environ: dict[str, Any]) -> Incidents | None:
        """Return what befell the attempts before the one that begins; None: nothing did."""
        # All attempts share the environ.
        noted: Incidents | None = environ.get(_NOTED)
        if noted is not None:
            noted._in_doubt_before = noted.in_doubt or noted._in_doubt_before
            noted.in_doubt = None
        return noted

    def note(self, error: BaseException) -> None:
        """Note an error, if it is one to be told of."""
        if not (isinstance(error, CommitUnknown) or is_refusal(error)):
            return
        # The argument: in str() SQLAlchemy adds a link, on a line of its own.
        said = str(error.args[0]) if error.args else type(error).__name__
        text = " ".join(said.split())
        self.any, self._environ[_NOTED] = True, self
        if isinstance(error, CommitUnknown):
            self.in_doubt = text
        else:
            self.refused = self.refused or {}
            about = _About(getattr(error, "pool_name", None), type(error))
            self.refused[about] = _Refused(text, getattr(error, "fields", {}))

    def doubt(self, status: int) -> str | None:
        """Say which write is in doubt after an answer with this status."""
        # A method that may be repeated was: if that has succeeded, there is no doubt any more.
        return self.in_doubt or (self._in_doubt_before if status >= _FAILED else None)


class IncidentLog:
    """Writes what requests have met: each write in doubt; of refusals one at a time."""

    def __init__(self) -> None:
        # Guards `_written`; held for a moment.
        self._lock = threading.Lock()
        # What it is about: when a line was written, and how many were left out since.
        self._written: dict[_About, tuple[float, int]] = {}

    @classmethod
    def of(cls, registry: Registry) -> IncidentLog:
        """Return the one of an app."""
        found: IncidentLog = registry.setdefault(_LOG, cls())
        return found

    def write(self, incidents: Incidents, request: Request, response: Any, why: str = "") -> None:
        """Say what a request has met, and what it was answered.

        :param response: None: the error goes on to the server.
        :param why: why it is not told when to come again.
        """
        status = getattr(response, "status_code", 500)
        answered = f"{status} for {request_name(request)}"
        doubt = incidents.doubt(status)
        if doubt is not None:
            log.error("%s: %s", answered, doubt)
        for about, refused in (incidents.refused or {}).items():
            left_out = self._left_out(about)
            if left_out is not None:
                more = f" ({left_out} more since the last such line)" if left_out else ""
                tell(
                    log,
                    Kind.REFUSED,
                    f"{answered}, {_retry_after(response, why)}{more}: {refused.text}",
                    about.pool_name,
                    label=request_name(request),
                    status=status,
                    reason=about.kind.__name__,
                    left_out=left_out,
                    **refused.fields,
                )

    def _left_out(self, about: _About) -> int | None:
        """Count the lines left out since the last one; None: this one is left out too."""
        now = monotonic()
        with self._lock:
            written, left_out = self._written.get(about, (float("-inf"), 0))
            due = now - written >= LOG_EVERY
            self._written[about] = (now, 0) if due else (written, left_out + 1)
        return left_out if due else None


def _retry_after(response: Any, why: str) -> str:
    said = getattr(response, "headers", {}).get("Retry-After")
    if said is None:
        return f"no Retry-After{why}"
    return f"Retry-After {said} s" if said.isdigit() else f"Retry-After {said}"
