"""A session's part in a transaction of the `transaction` package."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import transaction
from sqlalchemy.orm import Session
from zope.sqlalchemy.datamanager import (
    _SESSION_STATE,
    STATUS_CHANGED,
    SessionDataManager,
    TwoPhaseSessionDataManager,
)

from ..errors import SessionInUse
from .uncommitted import forget_promise, note_abort, promise, refuse_discarded, warn_of_rollback

__all__ = ["is_joined", "join", "joined_transaction", "leave"]


# A key of Session.info: the transaction that it has joined by `join`.
_JOINED = "pyramid_dbpool.joined"


class _Kept:
    """Commits all of what its session has written, or nothing of it."""

    session: Session
    tx: Any

    def __init__(self, session: Session, manager: Any) -> None:
        # As changed: raw and Core DML included, which zope.sqlalchemy would roll back.
        super().__init__(session, STATUS_CHANGED, manager)  # type: ignore[call-arg]
        session.info[_JOINED] = manager.get()
        promise(session)

    def abort(self, trans: Any) -> None:
        """Roll back."""
        if self.tx is not None:
            note_abort(self.session)
        super().abort(trans)  # type: ignore[misc]

    def tpc_begin(self, trans: Any) -> None:
        """Flush, and refuse before any other database has committed."""
        super().tpc_begin(trans)  # type: ignore[misc]
        refuse_discarded(self.session)

    def _finish(self, final_state: str) -> None:
        session = self.session
        if final_state == "committed":
            warn_of_rollback(session)
        # What the manager rolls back is lost with a reason; it would be told as another loss.
        forget_promise(session)
        del session.info[_JOINED]
        super()._finish(final_state)  # type: ignore[misc]


class _DataManager(_Kept, SessionDataManager):  # type: ignore[misc]  # zope.sqlalchemy says no types
    """Commits whatever transaction its session is in when the time comes.

    zope.sqlalchemy's commits the one in which the session joined, and fails if
    it was rolled back or closed in between, as by a view that gives its
    connection back before it goes on to something slow.
    """

    def tpc_vote(self, trans: Any) -> None:
        """Commit, as the last of those who vote."""
        if self.tx is not None:
            # With `autobegin=False` a session that is in none has none to commit.
            if self.session.in_transaction():
                self.session.commit()
            self._finish("committed")


class _TwoPhaseDataManager(_Kept, TwoPhaseSessionDataManager):  # type: ignore[misc]  # zope.sqlalchemy says no types
    """The same for a session with two phases."""

    def tpc_vote(self, trans: Any) -> None:
        """Prepare, so that nothing but the server's word is missing."""
        if self.tx is not None:
            self.tx = self.session.get_transaction() or self.session.begin()
        super().tpc_vote(trans)


def join(session: Session, manager: Any) -> None:
    """Have `manager`'s transaction commit or abort `session`, if it does not do so already.

    :raises SessionInUse: another manager's does, whose commit is not this one's.
    """
    if not session.in_transaction():
        session.begin()
    if session.info.get(_JOINED) is manager.get():
        return
    if not is_joined(session):
        made = _TwoPhaseDataManager if session.twophase else _DataManager
        made(session, manager)
    elif not _data_managers(session, manager.get()):
        raise SessionInUse(
            "The session has joined another transaction manager, which does not commit with this"
            " one. It joins by itself: zope.sqlalchemy's mark_changed() and register() are not"
            " needed, and take the thread's manager unless they are given request.tm."
        )


def leave(session: Session, transaction: transaction.Transaction) -> None:
    """Roll `session` back, and have it belong to nobody, although `transaction` goes on."""
    for each in _data_managers(session, transaction):
        each.abort(transaction)


@contextmanager
def joined_transaction(session: Session, manager: Any) -> Iterator[None]:
    """Begin `manager` with `session` in its transaction; commit it, or abort it on an error.

    :raises SessionInUse: one of the two is in another transaction already.
    """
    if is_joined(session):
        raise SessionInUse("The session is joined to another transaction manager already.")
    _begin(manager)
    try:
        join(session, manager)
        yield
        manager.commit()
    except BaseException:
        # Also after a failed commit: until then the manager refuses to begin anything else.
        manager.abort()
        raise


def is_joined(session: Session) -> bool:
    """Tell whether a session has joined the transaction of any manager."""
    # zope.sqlalchemy has no public way to ask.
    return session in _SESSION_STATE


def _data_managers(session: Session, begun: transaction.Transaction) -> list[Any]:
    # A transaction has no public way to be asked for what has joined.
    return [each for each in begun._resources if getattr(each, "session", None) is session]


def _begin(manager: Any) -> None:
    """Begin `manager`, unless that would abort what somebody else has begun on it."""
    if not manager.explicit and _has_work(manager.get()):
        raise SessionInUse(
            "The transaction manager is already in a transaction with work in it: commit or abort"
            " it first, or give unit_of_work a manager of its own."
        )
    try:
        manager.begin()
    except transaction.interfaces.AlreadyInTransaction as error:
        raise SessionInUse("The transaction manager is already in a transaction.") from error


def _has_work(begun: transaction.Transaction) -> bool:
    hooks = (begun.getBeforeCommitHooks, begun.getAfterCommitHooks)
    return bool(begun._resources) or begun.isDoomed() or any(list(get()) for get in hooks)
