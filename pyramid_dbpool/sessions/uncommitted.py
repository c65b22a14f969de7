"""What a session has written and not committed, and whether somebody counts on it.

Whoever will commit a session and then report success (a request, a unit of work) has *promised*
to keep what it writes; what is thrown away under a promise is told when it would be kept.
"""

import logging
from collections.abc import Mapping

from sqlalchemy import Connection, event, text
from sqlalchemy.orm import Session, SessionTransaction

from ..drivers.transactions import in_transaction
from ..engines import refused_commits
from ..engines.sent import Sent
from ..errors import ChangesDiscarded
from ..pool.labels import current_label
from .given_up import gives_up

__all__ = [
    "forget_promise",
    "forgive_rollback",
    "has_discarded",
    "has_failed",
    "has_uncommitted_changes",
    "holds_something",
    "lost_in_abort",
    "note_abort",
    "note_close",
    "note_rollback",
    "promise",
    "refuse_discarded",
    "taken_by",
    "warn_of_rollback",
]

log = logging.getLogger(__name__)

# Keys of Session.info: the connections of its transaction, each with what it was sent, and what
# became of what somebody has promised to keep; and whether its manager has thrown something away.
_TAKEN = "pyramid_dbpool.taken"
_PROMISE = "pyramid_dbpool.promise"
_ABORTED = "pyramid_dbpool.aborted"


class _Promise:
    """Somebody will commit this session and say that its work is stored.

    :ivar discarded: whether it was closed with something written.
    :ivar rolled_back: whether something written was rolled back, as its author wanted.
    """

    __slots__ = ("discarded", "rolled_back")

    def __init__(self) -> None:
        self.discarded = self.rolled_back = False


# On the class, because a listener on a session costs 30 µs; so it hears those of classes, makers
# and engines that are not ours as well.
@event.listens_for(Session, "after_begin")
def _note_connection(session: Session, begun: SessionTransaction, connection: Connection) -> None:
    if begun.nested:
        # It begins on one that is known.
        return
    sent = session.info.setdefault(_TAKEN, {})[connection] = Sent()
    sent.listen_to(connection)


@event.listens_for(Session, "after_commit")
def _note_commit(session: Session) -> None:
    if not session.in_nested_transaction():
        _end(session)


@event.listens_for(Session, "after_rollback")
def _note_rollback(session: Session) -> None:
    if not session.in_nested_transaction() and _wrote(session):
        _end(session)
        if (promised := session.info.get(_PROMISE)) is not None:
            promised.rolled_back = True


@event.listens_for(Session, "after_transaction_end")
def _note_end(session: Session, ended: SessionTransaction) -> None:
    if ended.parent is not None:
        return
    taken = session.info.pop(_TAKEN, None)
    promised: _Promise | None = session.info.get(_PROMISE)
    if taken is None or promised is None:
        return
    for sent in taken.values():
        promised.rolled_back |= sent.rolled_back
        # A commit and a rollback leave nothing written: it was closed with what it had.
        promised.discarded |= sent.wrote


def taken_by(session: Session) -> Mapping[Connection, Sent]:
    """Return the connections of a session's transaction, each with what it was sent."""
    taken: Mapping[Connection, Sent] = session.info.get(_TAKEN, {})
    return taken


def _wrote(session: Session) -> bool:
    return any(sent.wrote for sent in taken_by(session).values())


def _end(session: Session) -> None:
    for sent in taken_by(session).values():
        sent.end()


def has_uncommitted_changes(session: Session) -> bool:
    """Tell whether a rollback would lose something, as far as can be seen without asking."""
    return session.in_transaction() and (_has_pending(session) or _wrote(session))


def _has_pending(session: Session) -> bool:
    if session.new or session.deleted:
        return True
    # Dirty is also what was set to the value that it had.
    return any(map(session.is_modified, session.dirty))


def has_failed(session: Session) -> bool:
    """Tell whether the transaction of a session cannot be committed any more."""
    return not session.is_active or any(map(_has_failed, taken_by(session)))


def _has_failed(connection: Connection) -> bool:
    # One that is lost, or closed, has no driver's connection to be asked, and raises.
    if connection.closed:
        return False
    return connection.invalidated or refused_commits.has_failed(connection)


def holds_something(session: Session) -> bool:
    """Look for all that giving the connections back would give up: what is written, and locks.

    Costs a round trip where the database can be asked.
    """
    return any(gives_up(connection, sent) for connection, sent in taken_by(session).items())


def promise(session: Session) -> None:
    """Note that somebody will commit `session` and report that its work is stored."""
    session.info[_PROMISE] = _Promise()


def forget_promise(session: Session) -> None:
    """Note that nobody will any more; what is rolled back now is lost with a reason."""
    session.info.pop(_PROMISE, None)


def note_abort(session: Session) -> None:
    """Look, before its manager rolls `session` back, whether that throws something away."""
    session.info[_ABORTED] = has_uncommitted_changes(session)


def lost_in_abort(session: Session) -> bool:
    """Tell whether the abort that has just come threw something of this session's away."""
    lost: bool = session.info.pop(_ABORTED, False)
    return lost


def note_close(session: Session) -> None:
    """Look, before `session` is closed by its user, what that throws away."""
    promised = session.info.get(_PROMISE)
    if promised is None or not session.in_transaction():
        return
    if has_failed(session):
        # Whoever closes a session whose work has failed knows that it is lost.
        note_rollback(session)
        return
    try:
        if _has_pending(session) or _has_unstored(session):
            promised.discarded = True
        elif _has_unseen(session):
            # By a function or on the driver's connection; or it was nextval(), which is no loss.
            promised.rolled_back = True
    except Exception:
        # To ask may be what finds the connection lost, which its author did not know.
        promised.discarded |= _wrote(session)
    _end(session)


def note_rollback(session: Session) -> None:
    """Look, before `session` is rolled back by its user, whether that throws something away."""
    promised = session.info.get(_PROMISE)
    if promised is not None and has_uncommitted_changes(session):
        promised.rolled_back = True
    _end(session)


def _has_unstored(session: Session) -> bool:
    # PostgreSQL knows what was committed on the driver's connection, as bulk loaders do.
    return any(sent.wrote and _has_written(each, sent) for each, sent in taken_by(session).items())


def _has_unseen(session: Session) -> bool:
    return any(
        not (sent.changed or sent.undone) and _has_written(each, sent)
        for each, sent in taken_by(session).items()
    )


def _has_written(connection: Connection, sent: Sent) -> bool:
    if connection.dialect.name != "postgresql":
        # What the driver has committed is stored; to call it thrown away would have it done twice.
        driver = connection.connection.dbapi_connection
        return sent.wrote and in_transaction(driver) is not False
    # Only a transaction that has written, or locked a row, has a number.
    return connection.scalar(text("SELECT txid_current_if_assigned()")) is not None


def forgive_rollback(session: Session) -> None:
    """Say nothing of what was rolled back: the answer does not claim that it is stored."""
    if (promised := session.info.get(_PROMISE)) is not None:
        promised.rolled_back = False


def has_discarded(session: Session) -> bool:
    """Tell whether a session was closed with something written that was to be kept."""
    promised = session.info.get(_PROMISE)
    return promised is not None and promised.discarded


def refuse_discarded(session: Session) -> None:
    """Raise what has to be raised instead of a report that the work is stored.

    :raises ChangesDiscarded: the session was closed with something written.
    """
    if has_discarded(session):
        raise ChangesDiscarded(
            f"{_who()}: what the session had written was thrown away when it was closed, so"
            " nothing is committed now. Do not call close() on it: at the end it is committed and"
            " closed for you. For what shall be lost call rollback() before."
        )


def warn_of_rollback(session: Session) -> None:
    """Say, after a commit, that a part of the work was rolled back before it."""
    promised = session.info.get(_PROMISE)
    if promised is not None and promised.rolled_back:
        log.warning(
            "%s is committed without what its session had written before a rollback().", _who()
        )


def _who() -> str:
    return str(current_label() or "") or "A unit of work"
