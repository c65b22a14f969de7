"""`request.db`, and the sessions behind it: made when asked for, always given back.

One `RequestSessions` a request owns them. A session joins `request.tm` while
pyramid_tm has its transaction open; before and after that it belongs to
whoever uses it, and is rolled back when it closes. It closes after the last of
the request's finished callbacks. From then on it refuses to work, because
nobody would give its connection back.
"""

import contextlib
import logging
import weakref
from typing import Any, TypeAlias

import transaction
from pyramid.request import Request
from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction, sessionmaker
from transaction.interfaces import NoTransaction

from ..engines.application_name import take_role
from ..engines.registry import ProcessEngine
from ..errors import PoolError, RequestOver, SessionInUse, TransactionFailed
from ..pool.labels import Label, current_label, name_holder
from ..sessions.closing import close_session, roll_back
from ..sessions.joining import join
from ..sessions.uncommitted import (
    has_failed,
    has_uncommitted_changes,
    has_written,
    note_connections,
    note_writes,
)
from .requests import request_name, supplied_session

__all__ = ["RequestAttribute", "RequestSessions", "request_label", "request_sessionmaker"]

log = logging.getLogger(__name__)

SessionMaker: TypeAlias = sessionmaker[Session]

# A key of Session.info, and of the WSGI environ.
_OWNER = "pyramid_dbpool.request_sessions"
# Keys of Session.info.
_JOINED = "pyramid_dbpool.joined"
_POOL = "pyramid_dbpool.pool"
_WRITES = "pyramid_dbpool.writes"

_ATTRIBUTE = "_pyramid_dbpool_sessions"


class RequestAttribute:
    """Computes `request.db`."""

    maker: SessionMaker

    def __init__(self, pool_name: str) -> None:
        self._pool_name = pool_name

    def __call__(self, request: Request) -> Session:
        """Return the request's session; a test's own is handed out untouched.

        It is neither joined nor closed, so that the test sees the work and rolls it back.
        """
        supplied = supplied_session(request, self._pool_name)
        return RequestSessions.of(request).get(self.maker) if supplied is None else supplied


class RequestSessions:
    """Owns the sessions of one request."""

    def __init__(self, request: Request) -> None:
        self.over = False
        self._request = request
        self._sessions: dict[SessionMaker, Session] = {}
        self._transaction: transaction.Transaction | None = None
        # A subrequest may share its request's environ, and its transaction.
        parent = request.environ.get(_OWNER)
        self._parent: RequestSessions | None = parent if parent and not parent.over else None
        self._adopted: list[Session] = []
        request.environ[_OWNER] = self
        self._note_transaction()
        self._label = request_label(request)
        self._outer_label = current_label()
        if _is_served(request):
            name_holder(self._label)
            take_role("web")
        # First in line, because Pyramid drops the callbacks that are left when
        # one of them raises.
        request.finished_callbacks.appendleft(self._finish)

    @classmethod
    def of(cls, request: Request) -> "RequestSessions":
        """Return the owner of the sessions of `request`, made at the first call."""
        found = request.__dict__.get(_ATTRIBUTE)
        if not isinstance(found, cls):
            found = request.__dict__[_ATTRIBUTE] = cls(request)
        return found

    def get(self, maker: SessionMaker) -> Session:
        """Return the request's session from `maker`."""
        session = self._sessions.get(maker)
        if session is None:
            session = self._sessions[maker] = maker()
            # Under "request" as with the cookiecutter, for listeners and models.
            session.info.update({_OWNER: self, "request": self._request})
        return session

    def release(self, pool: str | None) -> None:
        """Give the connections of these sessions back; they take another at their next use.

        :param pool: the name of a pool; None: all of them.
        :raises SessionInUse: one of the sessions has changes that would be lost.
        :raises TransactionFailed: a statement failed and its error was swallowed.
        """
        mine = (*self._sessions.values(), *self._adopted)
        sessions = [each for each in mine if pool in (None, each.info[_POOL])]
        # All of them first: a refusal leaves everything as it was.
        for session in sessions:
            if session.in_transaction():
                _refuse_to_lose_changes(session, request_name(self._request))
        for session in sessions:
            # close() would detach objects, and a change to one be lost unseen.
            roll_back(session)

    def join_begun(self) -> None:
        """Join the sessions that an outer tween used before pyramid_tm began.

        They are in a transaction already, so they will not begin another one, at
        which they would join; what the view does in them would be lost.
        """
        for session in self._sessions.values():
            if session.info[_WRITES] and session.in_transaction():
                _join(session)

    def refuse_when_over(self) -> None:
        """Raise `RequestOver` once the request has ended."""
        if self.over:
            raise RequestOver(
                f"The session of {request_name(self._request)} was used after the request had"
                " ended, when nobody would give its connection back. Stream rows with"
                " pyramid_dbpool.stream(request, produce); anywhere else use"
                " pyramid_dbpool.unit_of_work(settings)."
            )

    def manager_to_join(self) -> Any:
        """Return `request.tm` while sessions have to join it, else None.

        They have to while ``tm.active`` is set, and also in before-commit hooks:
        pyramid_tm takes ``tm.active`` away before they run, and what they write
        outside of the transaction would be lost. So they have to when a script has
        begun it itself, which an explicit manager tells.
        """
        if self._note_transaction():
            return self._request.tm
        manager = getattr(self._request, "tm", None)
        # An app without pyramid_tm may have something else under this name.
        explicit = getattr(manager, "explicit", False) is True
        if not (explicit or self._transaction):
            return None
        begun = _current(manager)
        if begun is None or begun.status != "Active":
            return None
        return manager if explicit or begun is self._transaction else None

    def _note_transaction(self) -> bool:
        active = bool(self._request.environ.get("tm.active"))
        if active:
            self._transaction = _current(self._request.tm)
        return active

    def _finish(self, request: Request) -> None:
        """Run the finished callbacks that are left, then give everything back."""
        try:
            while request.finished_callbacks:
                request.finished_callbacks.popleft()(request)
        finally:
            self.over = True
            request.environ[_OWNER] = self._parent
            self._drop_label()
            # A session that cannot be closed must not keep the others from it.
            with contextlib.ExitStack() as stack:
                for session in (*self._sessions.values(), *self._adopted):
                    stack.callback(self._give_back, session)

    def _drop_label(self) -> None:
        """Leave the thread's next checkouts to whoever makes them."""
        self._label.end(request_name(self._request))
        if current_label() is self._label:
            name_holder(self._outer_label)

    def _give_back(self, session: Session) -> None:
        if self._parent is not None and self._is_in_open_transaction(session):
            # The parent's transaction goes on: it will commit this session.
            session.info[_OWNER] = self._parent
            self._parent._adopted.append(session)
            return
        # Whoever was refused a connection knows that nothing was stored.
        refused = isinstance(getattr(self._request, "exception", None), PoolError)
        lost = not refused and has_uncommitted_changes(session)
        close_session(session)
        if lost:
            _warn_of_lost_changes(self._request)

    def _is_in_open_transaction(self, session: Session) -> bool:
        joined = session.info.get(_JOINED)
        return (
            joined is not None
            and joined.status in ("Active", "Doomed")
            and _current(self._request.tm) is joined
        )


def request_sessionmaker(made: ProcessEngine) -> SessionMaker:
    """Return the maker of sessions that live as long as their request.

    The listeners are on the maker: they cost 30 µs each on every session.
    """
    writes = not made.settings.options.read_only
    info = {_WRITES: writes, _POOL: made.settings.name}
    maker: SessionMaker = sessionmaker(
        made.engine, class_=made.settings.options.session_class, info=info
    )
    event.listen(maker, "after_transaction_create", _refuse_when_over)
    note_connections(maker)
    # A read-only session never joins, so that it cannot fail a request that
    # wrote elsewhere.
    if writes:
        event.listen(maker, "after_begin", _join)
        event.listen(maker, "after_attach", _join)
        event.listen(maker, "before_commit", _refuse_commit_by_hand)
    # What was sent in AUTOCOMMIT is stored.
    if writes and not made.settings.is_autocommit:
        note_writes(maker)
    return maker


def _refuse_when_over(session: Session, _begun: SessionTransaction) -> None:
    owner: RequestSessions = session.info[_OWNER]
    if owner.over:
        # It has begun already, and its next use would not come by here.
        session.close()
        owner.refuse_when_over()


def _join(session: Session, *_args: object) -> None:
    manager = session.info[_OWNER].manager_to_join()
    if manager is not None:
        join(session, manager)
        session.info[_JOINED] = manager.get()


def _refuse_commit_by_hand(session: Session) -> None:
    manager = session.info[_OWNER].manager_to_join()
    if manager is None or session.in_nested_transaction():
        return
    if manager.get().status != "Committing":
        raise SessionInUse(
            "This session has joined request.tm, which commits it with everything else at the end"
            " of the request: do not call commit() on it."
        )


def _refuse_to_lose_changes(session: Session, request: str) -> None:
    """Raise if ending the transaction of `session` would lose what somebody counts on."""
    if session.in_nested_transaction():
        raise SessionInUse(
            f"{request} cannot give its connection back inside of begin_nested(): call"
            " release_db() outside of it."
        )
    if has_uncommitted_changes(session):
        raise _changes_would_be_lost(request)
    if has_failed(session):
        raise TransactionFailed(
            f"{request} cannot give its connection back: a statement of its transaction failed"
            " and its error was swallowed. Let the error propagate, or run the statement that may"
            " fail inside session.begin_nested()."
        )
    if session.info[_WRITES] and has_written(session):
        raise _changes_would_be_lost(request)


def _changes_would_be_lost(request: str) -> SessionInUse:
    return SessionInUse(
        f"{request} cannot give its connection back: its session has uncommitted changes (or row"
        " locks), which would be lost. Call release_db() before the first change; outside of"
        " pyramid_tm's transaction you may also commit() first."
    )


def _warn_of_lost_changes(request: Request) -> None:
    log.warning(
        "%s ended with uncommitted changes in its session; they are rolled back. Outside of"
        " pyramid_tm's transaction, as in a script, call commit() on the session or take a"
        " unit_of_work.",
        request_name(request),
    )


def request_label(request: Request) -> Label:
    """Return a label that names a request for as long as it lives."""
    # Weakly: the last label of a connection stays with it while it is idle.
    weakly = weakref.ref(request)
    return Label(lambda: "" if (alive := weakly()) is None else request_name(alive))


def _is_served(request: Request) -> bool:
    # The router says this of every request; a script's is there for its registry, and
    # its path means nothing.
    return "invoke_subrequest" in vars(request)


def _current(manager: Any) -> transaction.Transaction | None:
    try:
        return manager.get()
    except NoTransaction:
        return None
