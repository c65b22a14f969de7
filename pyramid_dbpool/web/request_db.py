"""`request.db`, and the sessions behind it: made when asked for, always given back.

One `RequestSessions` a request owns them, from the first on. A session that begins while a
transaction of `request.tm` is open joins it, and one that had begun before joins when that begins;
so pyramid_tm, a script, a task or a subscriber commits what was done in it. Outside of one a
session belongs to whoever uses it. It closes after the last of the request's finished callbacks.
From then on it refuses to work, because nobody would give its connection back.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import logging
import weakref
from os import getpid
from typing import Any

import transaction
from pyramid.request import Request
from pyramid.threadlocal import get_current_request
from pyramid.threadlocal import manager as threadlocals
from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction, SessionTransactionOrigin
from transaction import Transaction

from ..engines.registry import ProcessEngine
from ..errors import PoolError, RequestOver, SessionInUse, TransactionFailed
from ..pool.labels import current_label, name_holder
from ..sessions.closing import close_session, roll_back
from ..sessions.joining import is_joined, join, leave
from ..sessions.maker import SessionMaker, new_session_maker
from ..sessions.uncommitted import (
    forgive_rollback,
    has_discarded,
    has_failed,
    has_uncommitted_changes,
    holds_something,
    lost_in_abort,
)
from .requests import RequestLabel, request_name, supplied_session

__all__ = [
    "SERVED",
    "RequestAttribute",
    "RequestSessions",
    "end_sessions",
    "note_served",
    "note_thread_manager",
    "request_sessionmaker",
]

log = logging.getLogger(__name__)

# A key of the WSGI environ of a request that is served, and of copies that subrequests have of it.
SERVED = "pyramid_dbpool.served"
# Another one: the manager of the thread that serves it.
_MANAGER = "pyramid_dbpool.manager"
# Keys of Session.info.
_OWNER = "pyramid_dbpool.request_sessions"
_POOL = "pyramid_dbpool.pool"
_WRITES = "pyramid_dbpool.writes"

_ATTRIBUTE = "_pyramid_dbpool_sessions"

# The statuses of a transaction that a session can join.
_OPEN = ("Active", "Doomed")


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

    over = False
    # `request.tm`, as soon as there is a session that may join; it tells us of each of its
    # transactions, for as long as we are there.
    _manager: Any = None
    _begun: Transaction | None = None
    _is_served_by_tm = False
    # The name of this thread's work around the request.
    _outer_label: object | None = None
    # The process that it belongs to, where nobody serves it.
    _pid = 0

    def __init__(self, request: Request) -> None:
        # None when it is over.
        self._request: Request | None = request
        self._label = RequestLabel(request)
        # By what has made them.
        self._sessions: dict[SessionMaker, Session] = {}
        # Those that a subrequest has left in our transaction.
        self._adopted: list[Session] = []

    @staticmethod
    def of(request: Request) -> RequestSessions:
        """Return the owner of the sessions of `request`, made at the first call."""
        found = RequestSessions.known(request)
        if found is not None:
            return found
        made = RequestSessions(request) if _is_served(request) else _Unserved(request)
        # One for all: the request's threads may come together.
        found = request.__dict__.setdefault(_ATTRIBUTE, made)
        if found is made:
            made._begin(request)
        return found

    def _begin(self, request: Request) -> None:
        attrs = request.__dict__
        if _dropped:
            _warn_of_dropped()
        if not _is_served(request):
            self._pid = getpid()
            _unserved.add(self)
        elif "view_name" in attrs and "context" not in attrs:
            # A body asks for its first session: the router takes the context away at the end, and
            # with it nothing else that it has found.
            self.over = True
            return
        elif get_current_request() is request:
            self.name_thread()
        if end_sessions not in request.finished_callbacks:
            request.finished_callbacks.appendleft(end_sessions)

    @staticmethod
    def known(request: Request) -> RequestSessions | None:
        """Return the owner of the sessions of `request`, if it has asked for any."""
        found = request.__dict__.get(_ATTRIBUTE)
        return found if isinstance(found, RequestSessions) else None

    def name_thread(self) -> None:
        """Name this thread's work after the request, until that is over."""
        if not self.over and current_label() is not self._label:
            former = name_holder(self._label)
            self._outer_label = self._outer_label or former

    def get(self, maker: SessionMaker) -> Session:
        """Return the request's session from `maker`."""
        session = self._sessions.get(maker)
        if session is None:
            session = self._sessions[maker] = maker()
            # Under "request" as with the cookiecutter, for listeners and models.
            session.info.update({_OWNER: self, "request": self._request})
            if session.info[_WRITES] and not self.over:
                self._follow_manager()
                # Before zope.sqlalchemy's mark_changed() has it join the thread's manager.
                self.join(session)
        return session

    def release(self, pool: str | None) -> None:
        """Give the connections of these sessions back; they take another at their next use.

        :param pool: the name of a pool; None: all of them.
        :raises SessionInUse: one of the sessions has changes that would be lost.
        :raises TransactionFailed: a statement failed and its error was swallowed.
        """
        sessions = [each for each in self._all if pool in (None, each.info[_POOL])]
        # All of them first: a refusal leaves everything as it was.
        for session in sessions:
            if session.in_transaction():
                _refuse_to_lose_changes(session, self._label.name)
        for session in sessions:
            # close() would detach objects, and a change to one be lost unseen.
            roll_back(session)

    @property
    def _all(self) -> list[Session]:
        return [*self._sessions.values(), *self._adopted]

    @property
    def open_transaction(self) -> Transaction | None:
        """The transaction of `request.tm` that sessions have to join, if there is one."""
        # Also in before-commit hooks, whose writes would be lost outside of it.
        begun = self._begun
        return begun if begun is not None and begun.status in _OPEN else None

    def _follow_manager(self) -> None:
        if self._manager is not None:
            return
        # The thread's is another one in each thread, and a helper thread may come first.
        manager = self._environ.get(_MANAGER) or _manager_of(self._request)
        if manager is None:
            return
        self._manager = manager
        self._manager.registerSynch(self)
        if _belongs_to_thread(manager) and _is_served(self._request) and not self._is_tm_active():
            # What somebody has left open in this thread may never be committed.
            self._begun = None

    def newTransaction(self, begun: Transaction) -> None:
        """Have the sessions that are in a transaction already join the one that begins.

        They will not begin another one, at which they would join.
        """
        if not self.over and not self._is_anothers():
            self._begun, self._is_served_by_tm = begun, self._is_tm_active()
            self._join_all()

    def beforeCompletion(self, ended: Transaction) -> None:
        """Have those join that have not.

        So it is with what a manager that is not explicit has made for its commit.
        """
        if self.over or (ended is not self._begun and self._is_anothers()):
            return
        late = self._begun is None
        self._begun = ended
        self._join_all()
        # No public way tells of one.
        if late and ended._savepoint_index and any(map(has_uncommitted_changes, self._all)):
            raise SessionInUse(
                "request.tm has a savepoint from before its session joined, so that a rollback to"
                " it could not undo what the session did: call request.tm.begin() first."
            )

    def afterCompletion(self, ended: Transaction) -> None:
        """Let the sessions belong to whoever uses them."""
        aborted = ended.status in _OPEN
        if self.over or ended is not self._begun:
            return
        self._begun = None
        if not aborted:
            return
        # All of them, each of which forgets it when it is asked.
        lost = [each for each in self._all if lost_in_abort(each)]
        # pyramid_tm is not active any more at its own.
        if lost and self._is_tm_active():
            log.warning(
                "%s goes on without what its session had written before request.tm was"
                " aborted, by its view or by the begin() of a subrequest.",
                self._label.name,
            )

    def _join_all(self) -> None:
        for session in self._all:
            # Without `autobegin` it has to be begun for whoever uses it.
            if session.info[_WRITES] and (session.in_transaction() or not session.autobegin):
                self.join(session)

    def join(self, session: Session) -> None:
        """Have the open transaction, if there is one, commit `session`, which has begun."""
        if self.open_transaction is not None:
            join(session, self._manager)

    def forgive_rollbacks(self) -> None:
        """Say nothing of what the sessions have rolled back."""
        for session in self._all:
            forgive_rollback(session)

    def leave_failed_commit(self) -> None:
        """Give an exception view clean sessions, if a before-commit hook has failed.

        pyramid_tm then asks for the view with its transaction open, which nobody will commit.
        """
        failed = self.open_transaction
        if failed is not None and self._is_served_by_tm and not self._is_tm_active():
            for session in self._all:
                leave(session, failed)
            self._begun = None

    def doom_failed(self) -> None:
        """Have the transaction aborted if a session's part of it is lost, or given up."""
        begun = self.open_transaction
        # What a subrequest answers is its parent's to judge.
        if begun is None or self._outer() is not None:
            return
        # A read-only session has no part in it: its failure must not take with it what was
        # written elsewhere.
        joined = [each for each in self._all if is_joined(each)]
        if any(has_failed(each) or has_discarded(each) for each in joined):
            begun.doom()

    def _is_anothers(self) -> bool:
        # A test's own request lives in the thread in which the app serves one, and a script's
        # around another one's: what is begun for that would commit the unfinished work of this.
        current = get_current_request()
        if current is None or current is self._request or not _belongs_to_thread(self._manager):
            return False
        # What a unit test has made for the purpose is no request that has a transaction.
        return isinstance(current, Request) and current.environ is not self._environ

    @property
    def _environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = {} if self._request is None else self._request.environ
        return environ

    def _is_tm_active(self) -> bool:
        return bool(self._environ.get("tm.active"))

    def refuse_when_over(self) -> None:
        """Raise `RequestOver` once the request has ended."""
        if self.over:
            raise RequestOver(
                f"The session of {self._label.name} was used after the request had"
                " ended, when nobody would give its connection back. Stream rows with"
                " pyramid_dbpool.stream(request, produce); anywhere else use"
                " pyramid_dbpool.unit_of_work(settings)."
            )

    def end(self) -> None:
        """Give everything back, once."""
        if self.over:
            return
        self.over = True
        try:
            if self._sessions or self._adopted:
                self._give_all_back(self._all)
        finally:
            if self._manager is not None:
                self._leave_manager()
            label = self._label
            label.end_of(self._request)
            if current_label() is label:
                # The thread's next checkouts are whose makes them.
                name_holder(self._outer_label)
            # With these references go the cycles: they would keep each request, with all that
            # it refers to, until the garbage collector comes.
            self._request, self._sessions, self._adopted = None, {}, []

    def _leave_manager(self) -> None:
        # The thread's would tell all that have ended in it, until the collector comes; a request's
        # own goes with it.
        if _belongs_to_thread(self._manager):
            with contextlib.suppress(KeyError):
                self._manager.unregisterSynch(self)

    def _give_all_back(self, sessions: list[Session]) -> None:
        try:
            while sessions:
                self._give_back(sessions.pop())
        finally:
            # A session that cannot be closed must not keep the others from it.
            if sessions:
                self._give_all_back(sessions)

    def _give_back(self, session: Session) -> None:
        if self.open_transaction is not None and is_joined(session):
            outer = self._outer()
            if outer is not None:
                # Its transaction goes on: it will commit this session.
                outer._adopt(session)
                return
        if session.in_transaction():
            # Whoever was refused a connection knows that nothing was stored.
            refused = isinstance(getattr(self._request, "exception", None), PoolError)
            lost = not refused and has_uncommitted_changes(session)
            close_session(session)
            if lost:
                _warn_of_lost_changes(self._label.name)
        else:
            session.close()
        # A cycle, too.
        session.info.pop("request", None)

    def _outer(self) -> RequestSessions | None:
        """Return the owner for the request whose transaction this subrequest shares."""
        mine = self._request
        if mine is None or SERVED not in mine.environ:
            return None
        for each in reversed(threadlocals.stack):
            request = each["request"]
            if isinstance(request, Request) and request is not mine and _is_served(request):
                same = SERVED in request.environ and _manager_of(request) is _manager_of(mine)
                return RequestSessions.of(request) if same else None
        return None

    def _adopt(self, session: Session) -> None:
        session.info[_OWNER] = self
        self._adopted.append(session)
        self._follow_manager()

    def loses_changes(self) -> bool:
        """Tell whether nobody has committed what the sessions have written."""
        # In a fork it may still be committed, by the parent.
        mine = not self.over and self._pid == getpid()
        return mine and any(map(has_uncommitted_changes, self._all))


def end_sessions(request: Request) -> None:
    """Run the finished callbacks that are left, then give everything back."""
    try:
        callbacks = request.finished_callbacks
        while callbacks:
            callbacks.popleft()(request)
    finally:
        attrs = request.__dict__
        # Where the router has found nothing, a tween has answered: its body may be the first to
        # ask for a session, and nothing else says that all is over.
        if _ATTRIBUTE in attrs or "view_name" not in attrs:
            RequestSessions.of(request).end()


class _Unserved(RequestSessions):
    """Owns the sessions of a script, a shell or a task, whose end is somebody's duty."""

    def __del__(self) -> None:
        # Of one that never ended its request. The collector may come under any lock, which is no
        # time to log.
        if self.loses_changes():
            # The label knows it no more.
            _dropped.append(request_name(self._request))


# Those that may still have to be warned of, at the latest when the process ends.
_unserved: weakref.WeakSet[RequestSessions] = weakref.WeakSet()
# The names of requests that were dropped with changes.
_dropped: collections.deque[str] = collections.deque()


def _warn_of_dropped() -> None:
    while _dropped:
        _warn_of_lost_changes(_dropped.popleft())


@atexit.register
def _warn_at_exit() -> None:
    _dropped.extend(each._label.name for each in list(_unserved) if each.loses_changes())
    _warn_of_dropped()


def request_sessionmaker(made: ProcessEngine) -> SessionMaker:
    """Return the maker of an app's sessions, and make it that of its workers.

    A session that it makes for a request lives as long as that.
    """
    writes = not made.settings.options.read_only
    maker = made.maker = new_session_maker(made, {_WRITES: writes, _POOL: made.settings.name})
    event.listen(maker, "after_transaction_create", _enter_request)
    # A read-only session never joins, so that it cannot fail a request that
    # wrote elsewhere.
    if writes:
        event.listen(maker, "after_begin", _join_with_connection)
        event.listen(maker, "before_commit", _refuse_commit_by_hand)
    return maker


def _enter_request(session: Session, begun: SessionTransaction) -> None:
    owner: RequestSessions | None = session.info.get(_OWNER)
    if owner is None:
        # A script's or a worker's own.
        return
    if owner.over:
        # It has begun already, and its next use would not come by here.
        session.close()
        owner.refuse_when_over()
    # An explicit begin() may be that of a data manager of zope.sqlalchemy's, which is about to
    # join: there would be two, and the second one fail when all is stored.
    if begun.origin is SessionTransactionOrigin.AUTOBEGIN and session.info[_WRITES]:
        owner.join(session)


def _join_with_connection(session: Session, begun: SessionTransaction, _: object) -> None:
    owner: RequestSessions | None = session.info.get(_OWNER)
    if owner is not None and begun.origin is SessionTransactionOrigin.BEGIN:
        owner.join(session)


def _refuse_commit_by_hand(session: Session) -> None:
    owner: RequestSessions | None = session.info.get(_OWNER)
    if owner is None or owner.open_transaction is None or session.in_nested_transaction():
        return
    raise SessionInUse(
        "This session has joined request.tm, which commits it with everything else at the end"
        " of its transaction: do not call commit() on it."
    )


def _refuse_to_lose_changes(session: Session, request: str) -> None:
    """Raise if ending the transaction of `session` would lose what somebody counts on."""
    if session.in_nested_transaction():
        raise SessionInUse(
            f"{request} cannot give its connection back inside of begin_nested(): call"
            " release_db() outside of it."
        )
    if has_failed(session):
        raise TransactionFailed(
            f"{request} cannot give its connection back: a statement of its transaction failed"
            " and its error was swallowed. Let the error propagate, or run the statement that may"
            " fail inside session.begin_nested()."
        )
    # A read-only session has locks, too.
    if has_uncommitted_changes(session) or holds_something(session):
        raise _changes_would_be_lost(request)


def _changes_would_be_lost(request: str) -> SessionInUse:
    return SessionInUse(
        f"{request} cannot give its connection back: its session has uncommitted changes (or"
        " locks, or a NOTIFY), which would be lost. Call release_db() before the first change, and"
        " let go of advisory locks; outside of pyramid_tm's transaction you may also commit()"
        " first."
    )


def _warn_of_lost_changes(request: str) -> None:
    log.warning(
        "%s ended with uncommitted changes in its session; they are rolled back. Where pyramid_tm"
        " does not commit, as in a script, use it in `with request.tm:`, call commit() on it, or"
        " take a unit_of_work.",
        request,
    )


def _is_served(request: Request) -> bool:
    # The router says this of every request; a script's is there for its registry, and
    # its path means nothing.
    return "invoke_subrequest" in request.__dict__


def _manager_of(request: Request) -> Any:
    """Return the manager of a request, in this thread; None if there is none."""
    manager = getattr(request, "tm", None)
    # An app without pyramid_tm may have something else under this name.
    return getattr(manager, "manager", manager) if hasattr(manager, "registerSynch") else None


def note_served(request: Request) -> None:
    """Note that a request is served, unless it is another one's subrequest.

    For apps whose outermost tween is not ours, which knows so.
    """
    stack = [each["request"] for each in threadlocals.stack]
    served = (each for each in stack if isinstance(each, Request) and _is_served(each))
    if next(served, request) is request:
        request.environ[SERVED] = True


def note_thread_manager(request: Request) -> None:
    """Note the manager of the thread that serves a request."""
    request.environ[_MANAGER] = _manager_of(request)


def _belongs_to_thread(manager: Any) -> bool:
    return manager is getattr(transaction.manager, "manager", transaction.manager)
