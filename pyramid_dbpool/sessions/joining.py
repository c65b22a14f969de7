"""A session's part in a transaction of the `transaction` package."""

from typing import Any

from sqlalchemy.orm import Session
from zope.sqlalchemy.datamanager import (
    _SESSION_STATE,
    STATUS_CHANGED,
    SessionDataManager,
    TwoPhaseSessionDataManager,
)

__all__ = ["is_joined", "join"]


class _DataManager(SessionDataManager):  # type: ignore[misc]  # zope.sqlalchemy says no types
    """Commits whatever transaction its session is in when the time comes.

    zope.sqlalchemy's commits the one in which the session joined, and fails if
    it was rolled back or closed in between, as by a view that gives its
    connection back before it goes on to something slow.
    """

    def tpc_vote(self, trans: Any) -> None:
        """Commit, as the last of those who vote."""
        if self.tx is not None:
            self.session.commit()
            self._finish("committed")


class _TwoPhaseDataManager(TwoPhaseSessionDataManager):  # type: ignore[misc]  # zope.sqlalchemy says no types
    """The same for a session with two phases."""

    tx: Any

    def tpc_vote(self, trans: Any) -> None:
        """Prepare, so that nothing but the server's word is missing."""
        if self.tx is not None:
            self.tx = self.session.get_transaction() or self.session.begin()
        super().tpc_vote(trans)


def join(session: Session, manager: Any) -> None:
    """Have `manager`'s transaction commit or abort `session`, if it does not do so already.

    Whatever the session does is committed, raw and Core DML included, which
    zope.sqlalchemy rolls back by default.
    """
    if not is_joined(session):
        made = _TwoPhaseDataManager if session.twophase else _DataManager
        made(session, STATUS_CHANGED, manager)


def is_joined(session: Session) -> bool:
    """Tell whether a transaction of any manager has this session."""
    return session in _SESSION_STATE
