"""The outermost tween: which requests may be tried again, and how long one may wait.

It also answers what a pool refuses to a tween or a security policy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from pyramid.interfaces import IExecutionPolicy, ITweens
from pyramid.request import Request
from pyramid.response import Response
from pyramid.router import default_execution_policy
from pyramid.threadlocal import manager as threadlocals
from sqlalchemy import exc as sa_exc
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.pool import PoolProxiedConnection
from zope.interface import Interface, alsoProvides, directlyProvidedBy, noLongerProvides

from ..clock import monotonic
from ..drivers.driver_errors import driver_error, driver_text
from ..drivers.transactions import is_known_rollback, is_lost, is_overstay
from ..drivers.writability import WriteRefusal
from ..engines.application_name import take_role
from ..engines.stored import Outcome, current_outcome, database_error, is_aftermath
from ..engines.write_outage import WriteOutage
from ..errors import CommitUnknown, DatabaseUnavailable, PoolError, PoolTimeout
from ..pool.deadlines import current_deadline, setting_limit
from ..pool.labels import current_label
from ..pool.managed import name_lease
from .incidents import IncidentLog, Incidents, is_refusal
from .request_db import SERVED, RequestSessions, end_sessions
from .requests import IDEMPOTENT, keep_route, may_be_stored_twice

try:
    from pyramid_retry import IRetryableError, is_error_retryable, is_last_attempt
except ImportError:

    class IRetryableError(Interface):  # type: ignore[no-redef, misc]  # zope says no types
        """Nobody looks for it."""

    def is_last_attempt(request: Request) -> bool:
        """Nobody tries again."""
        return True

    def is_error_retryable(request: Request, exc: BaseException | None) -> bool:
        """Nobody tries again."""
        return False


__all__ = [
    "REQUEST_TIMEOUT",
    "TWEEN",
    "at_creation",
    "do_at_creation",
    "may_try_again",
    "retry_tween_factory",
    "tries_again",
    "will_be_tried_again",
]

log = logging.getLogger(__name__)

TWEEN = f"{__name__}.retry_tween_factory"
# How the names of our tweens begin.
_OURS = __name__.partition(".")[0] + "."

# The registry's key of what is to be done when the app is created.
_AT_CREATION = "pyramid_dbpool.at_creation"
# The registry's key of the setting, in seconds.
REQUEST_TIMEOUT = "pyramid_dbpool.request_timeout"
# The WSGI environ's key of the deadline: all attempts share the environ.
_UNTIL = "pyramid_dbpool.until"
# Those of the `WriteOutage` by which an attempt has failed, and of how long to wait for its end.
_READ_ONLY = "pyramid_dbpool.read_only"
_READ_ONLY_UNTIL = "pyramid_dbpool.read_only_until"

FAILURE = 500  # from this status on

Handler = Callable[[Request], Response]


def retry_tween_factory(handler: Handler, registry: Any) -> Handler:
    """Return the tween that lets requests be tried again; over all others.

    There it sees what a commit raised: as the error itself, or, if an exception view has
    answered, as `request.exception`, where pyramid_retry looks too.
    """
    timeout: float | None = registry.get(REQUEST_TIMEOUT)
    if tries_again(registry):
        _warn_of_tweens_above(registry.queryUtility(ITweens))

    do_at_creation(registry)
    has_role = False

    def tween(request: Request) -> Response:
        nonlocal has_role
        if current_outcome() is not None:
            # A subrequest is a part of its request, which is tried again as a whole.
            RequestSessions.of(request)
            return handler(request)
        if not has_role:
            take_role("web")
            has_role = True
        # First in line, because Pyramid drops the callbacks that are left when one of them raises,
        # as one may that is the first to ask for a session.
        request.finished_callbacks.appendleft(end_sessions)
        with _Attempt(request) as attempt:
            if timeout is None:
                return attempt.answer(handler)
            with _limit(request, timeout):
                return attempt.answer(handler)

    return tween


def at_creation(registry: Any, do: Callable[[], object]) -> None:
    """Have `do` called when the app is created.

    With the tweens, and not by an event: where there is but one subscriber, Pyramid tells of four
    events in each request (7 µs).
    """
    registry.setdefault(_AT_CREATION, []).append(do)


def do_at_creation(registry: Any) -> None:
    """Do what is to be done when the app is created."""
    # Engines' hooks and listeners may look for the app that is current.
    threadlocals.push({"registry": registry, "request": None})
    try:
        for do in registry.get(_AT_CREATION, ()):
            do()
    finally:
        threadlocals.pop()


class _Attempt(Outcome):
    """A request that is answered, perhaps not for the first time, and what it may have stored.

    A class rather than functions with its parts bound: each request has one.
    """

    _incidents: Incidents | None = None

    def __init__(self, request: Request) -> None:
        # As the parent's does, without the call: each request comes by here.
        self.unseen = []
        self._request = request
        environ = request.environ
        if environ.get("retry.attempt"):
            # What the attempt before has read is at its end; that may not have come by here.
            request.make_body_seekable()
        if SERVED in environ:
            # By an attempt before this one, of which all share the environ.
            self._incidents = Incidents.before(environ)
        else:
            environ[SERVED] = True

    def answer(self, handler: Handler) -> Response:
        """Answer, and write down what the request has met, if no other attempt follows."""
        request = self._request
        try:
            try:
                if _READ_ONLY in request.environ:
                    _await_writes(request)
                response = handler(request)
            except Exception as error:
                response = self._answer_error(error)
            else:
                answered = getattr(request, "exception", None)
                if answered is not None:
                    self._judge_answered(answered, response)
        except BaseException as error:
            self._tell(error=error)
            raise
        if self._incidents is not None:
            self._tell(response=response)
        return response

    def _answer_error(self, error: Exception) -> Response:
        """Judge an error that was raised, and answer what a pool has refused, or raise it."""
        unavailable = self.judge(error)
        if unavailable is not None and self.meaning_of(error) is not None:
            # The app has its driver's errors, and so has not met ours.
            self.judge(unavailable)
            about = (type(unavailable), unavailable, error.__traceback__)
            return self._request.invoke_exception_view(about, reraise=True)
        if not is_refusal(error):
            raise error
        # Raised over Pyramid's own tween that asks the exception views.
        return self._request.invoke_exception_view(reraise=True)

    def _judge_answered(self, error: Exception, response: Response) -> None:
        """Judge an error that an exception view has answered."""
        # An error of the app's own whose answer is no failure was meant to be one.
        if isinstance(error, sa_exc.SQLAlchemyError) or response.status_code >= FAILURE:
            self.judge(error)

    def _tell(
        self, *, response: Response | None = None, error: BaseException | None = None
    ) -> None:
        request, incidents = self._request, self._incidents
        error = error or getattr(request, "exception", None)
        if incidents is not None and incidents.any and not is_error_retryable(request, error):
            twice = may_be_stored_twice(request, self)
            why = " because a part of it may be stored" if twice else ""
            IncidentLog.of(request.registry).write(incidents, request, response, why)

    def name_holder(self, connection: PoolProxiedConnection) -> None:
        """Name who has checked out a connection by himself, and whatever else he does then."""
        RequestSessions.of(self._request).name_thread()
        name_lease(connection, current_label())

    def note_refusal(self, error: PoolTimeout | DatabaseUnavailable) -> None:
        """Note that the request is refused a connection, whatever becomes of the error."""
        self._note(error)
        _withhold_retry_after(self._request, self, error)

    def judge(self, error: Exception) -> Exception | None:
        """Mark an error that another attempt may not meet; return what to raise in its place."""
        if isinstance(error, Response):
            # The app has said what its answer is.
            return None
        request, said = self._request, database_error(error, self)
        self._note(said)
        verdict = may_try_again(request.method, self, said)
        refused = self.write_refusal_of(said) is not None
        if verdict:
            self.transient = True
            if refused and self.writes is not None:
                request.environ[_READ_ONLY] = self.writes
                # Who waits for its end in vain is answered before a route is looked for.
                keep_route(request)
            alsoProvides(error, IRetryableError)
            return _unavailable(request, self, said) if is_last_attempt(request) else None
        if verdict is False and said is error and IRetryableError in directlyProvidedBy(error):
            # zope.sqlalchemy knows the error, but not what else the request has stored.
            noLongerProvides(error, IRetryableError)
        return _unavailable(request, self, said) if refused else None

    def _note(self, error: Exception) -> None:
        if self._incidents is None:
            self._incidents = Incidents(self._request.environ)
        self._incidents.note(error)


def tries_again(registry: Any) -> bool:
    """Tell whether an execution policy is there that may run a request more than once."""
    default = default_execution_policy
    return registry.queryUtility(IExecutionPolicy, default=default) is not default


def _warn_of_tweens_above(tweens: Any) -> None:
    # An explicit order is what somebody wanted.
    if tweens is None or tweens.explicit:
        return
    names = [name for name, _factory in tweens.implicit()]
    above = [name for name in names[: names.index(TWEEN)] if not name.startswith(_OURS)]
    if above:
        log.warning(
            "%s: added after a config.commit(), and so over the tween that lets requests be tried"
            " again. It does not see what they commit, which a second attempt would do twice."
            " Include pyramid_dbpool after that commit().",
            ", ".join(above),
        )


def may_try_again(method: str, outcome: Outcome, error: Exception) -> bool | None:
    """Tell whether a request that ended in `error` may run again; None: others may say."""
    if not isinstance(error, sa_exc.SQLAlchemyError):
        return None
    if isinstance(error, CommitUnknown):
        return method in IDEMPOTENT and not outcome.prepared
    aftermath = is_aftermath(error)
    # A line that is too long gets longer by retries; an outage was waited for already.
    refused = isinstance(error, PoolError | sa_exc.TimeoutError) and not aftermath
    if refused or not _may_repeat(method, outcome):
        return False
    refusal = outcome.write_refusal_of(error)
    if refusal is not None:
        # Of a server that is full another attempt would meet the same.
        return refusal is WriteRefusal.READ_ONLY
    if aftermath:
        return outcome.transient
    return True if _is_transient(error) else None


def _may_repeat(method: str, outcome: Outcome) -> bool:
    # What took too long would do so again, with all that the view does beside the database.
    if outcome.prepared or outcome.overstayed or outcome.waited_long:
        return False
    return method in IDEMPOTENT or outcome.nothing_stored


def will_be_tried_again(request: Request) -> bool:
    """Tell whether a COMMIT that is refused leads to another attempt.

    So it does after a lost connection or a lost race whose error was swallowed.
    """
    outcome = current_outcome()
    if outcome is None or not outcome.transient or is_last_attempt(request):
        return False
    return _may_repeat(request.method, outcome)


def _is_transient(error: sa_exc.SQLAlchemyError) -> bool:
    if isinstance(error, sa_exc.DBAPIError):
        # On an engine of others nobody has heard of it before.
        return (is_lost(error) and not is_overstay(error)) or is_known_rollback(error)
    return isinstance(error, StaleDataError)


def _unavailable(
    request: Request, outcome: Outcome, error: Exception
) -> DatabaseUnavailable | None:
    """Say 503 in the place of an error 500, if it is the database's and nobody tries again."""
    refusal = outcome.write_refusal_of(error)
    lost = isinstance(error, sa_exc.DBAPIError) and is_lost(error)
    if isinstance(error, CommitUnknown) or not (lost or refusal):
        return None
    happened = "the connection was lost" if refusal is None else "the server can store nothing"
    if refusal is WriteRefusal.READ_ONLY:
        happened = "the server is read-only"
    stored = "nothing" if outcome.nothing_stored else "only a part"
    text = f"{happened}, and {stored} of this attempt is stored ({driver_text(error)})"
    writes = None if refusal is None else outcome.writes
    made = DatabaseUnavailable.saying(
        text,
        driver_error(error),
        None if writes is None else writes.name,
        connection_invalidated=lost,
    )
    if writes is not None:
        made.retry_after = writes.retry_after
    _withhold_retry_after(request, outcome, made)
    return made


def _withhold_retry_after(
    request: Request, outcome: Outcome, refusal: PoolTimeout | DatabaseUnavailable
) -> None:
    if may_be_stored_twice(request, outcome):
        # Whoever did as Retry-After says would store it twice.
        refusal.retry_after = None


def _await_writes(request: Request) -> None:
    """Wait until the server takes writes, for a request that was refused one by a read-only one.

    As long as it would wait for a connection, over all its attempts, and as in an outage not once
    that has lasted for `outage_grace`.

    :raises DatabaseUnavailable: it does not yet.
    """
    writes: WriteOutage | None = request.environ.get(_READ_ONLY)
    if writes is None or writes.since is None:
        return
    until = request.environ.setdefault(_READ_ONLY_UNTIL, monotonic() + writes.patience)
    limit = current_deadline()
    until = until if limit is None else min(until, limit)
    if not writes.wait(until - monotonic(), writes.refuses):
        raise writes.unavailable()


def _limit(request: Request, timeout: float) -> AbstractContextManager[None]:
    until = request.environ.setdefault(_UNTIL, monotonic() + timeout)
    cited = f"dbpool.request_timeout = {timeout:g} s"
    return setting_limit(max(0.0, until - monotonic()), cited)
