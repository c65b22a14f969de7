"""What a session has written and not committed, and whether somebody counts on it.

Statements are noted at the engine, which all of them pass: the ORM's, Core's and text. Whoever
will commit a session and then report success (a request, a unit of work) has *promised* to keep
what it writes; what is thrown away under a promise is told when it would be kept.
"""

import logging
from typing import Any

from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, SessionTransaction, sessionmaker

from ..drivers.statements import changes_nothing, commits, savepoint, writes
from ..engines import refused_commits
from ..engines.registry import ProcessEngine, find_engine
from ..errors import ChangesDiscarded
from ..pool.labels import current_label
from .given_up import gives_up

__all__ = [
    "forget_promise",
    "has_failed",
    "has_uncommitted_changes",
    "has_written",
    "holds_something",
    "note_close",
    "note_rollback",
    "note_sessions",
    "promise",
    "refuse_discarded",
    "warn_of_rollback",
]

log = logging.getLogger(__name__)

# A key of Session.info, and of the info of each of its connections: what its transaction sent.
_SENT = "pyramid_dbpool.sent"

# Others of Session.info: whether its session is noted, the connections of its transaction, and who
# has promised to keep its work.
_NOTED = "pyramid_dbpool.noted"
_CONNECTIONS = "pyramid_dbpool.connections"
_PROMISE = "pyramid_dbpool.promise"


class _Sent:
    """What one transaction of a session has sent, on all of its connections.

    It stays with those: if it knew them, a forgotten session's would never come back.

    :ivar changed: whether a rollback would undo something: a change, or a row lock.
    :ivar wrote: whether that was more than a lock.
    :ivar before: `wrote` as it was before each savepoint, by its name.
    :ivar undone: whether a savepoint was rolled back.
    """

    __slots__ = ("before", "changed", "undone", "wrote")

    def __init__(self) -> None:
        self.changed = self.wrote = self.undone = False
        self.before: dict[str, bool] = {}


class _Promise:
    """Somebody will commit this session and say that its work is stored.

    :ivar discarded: whether it was closed with something written.
    :ivar rolled_back: whether something written was rolled back, as its author wanted.
    """

    __slots__ = ("discarded", "rolled_back")

    def __init__(self) -> None:
        self.discarded = self.rolled_back = False


def note_sessions(maker: sessionmaker[Session], made: ProcessEngine) -> None:
    """Note what the sessions of `maker` write and commit on an engine of ours.

    What is sent in AUTOCOMMIT, or to a read-only pool, is no change that could be lost.
    """
    maker.kw["info"] = {**maker.kw.get("info", {}), _NOTED: True}
    # On the maker: on each session they would cost 30 µs each.
    _listen(maker)
    _note_statements(made)


def _note_foreign(session: Session) -> None:
    # Of a class, or a sessionmaker, of the app's own.
    session.info[_NOTED] = True
    # SQLAlchemy would add them to the class once more for each of its sessions.
    if _note_connection not in session.dispatch.after_begin:
        _listen(type(session))
    if (made := find_engine(session.bind)) is not None:
        _note_statements(made)


def _listen(target: Any) -> None:
    event.listen(target, "after_begin", _note_connection)
    event.listen(target, "after_commit", _note_commit)
    event.listen(target, "after_rollback", _note_rollback)
    event.listen(target, "after_transaction_end", _note_end)


def _note_statements(made: ProcessEngine) -> None:
    if not (made.settings.is_autocommit or made.settings.options.read_only):
        # A second sessionmaker of this engine adds no second listener.
        event.listen(made.engine, "before_cursor_execute", _note_statement)


def _note_connection(session: Session, _begun: object, connection: Connection) -> None:
    sent = session.info.get(_SENT)
    if sent is None:
        sent = session.info[_SENT] = _Sent()
        session.info[_CONNECTIONS] = []
    # A savepoint begins on one that is noted, and a base class may be listened to as well.
    if connection in session.info[_CONNECTIONS]:
        return
    session.info[_CONNECTIONS].append(connection)
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        connection.info[_SENT] = sent


def _note_statement(connection: Connection, _cursor: Any, statement: Any, *_: object) -> None:
    # What an earlier session's transaction has left here, nobody looks at any more.
    sent: _Sent | None = connection.info.get(_SENT)
    if sent is None:
        return
    said = str(statement)
    if commits(said, connection.dialect.name):
        sent.changed = sent.wrote = False
    elif not changes_nothing(said):
        sent.changed = True
        sent.wrote = sent.wrote or writes(said)
    elif (found := savepoint(said)) is not None:
        back, name = found
        if back:
            sent.undone = True
            sent.wrote = sent.before.get(name, sent.wrote)
        else:
            sent.before[name] = sent.wrote


def _note_commit(session: Session) -> None:
    if not session.in_nested_transaction() and (sent := session.info.get(_SENT)) is not None:
        sent.changed = sent.wrote = False


def _note_rollback(session: Session) -> None:
    sent = session.info.get(_SENT)
    if sent is not None and sent.wrote and not session.in_nested_transaction():
        sent.wrote = False
        if (promised := session.info.get(_PROMISE)) is not None:
            promised.rolled_back = True


def _note_end(session: Session, ended: SessionTransaction) -> None:
    if ended.parent is not None:
        return
    session.info.pop(_CONNECTIONS, None)
    sent = session.info.pop(_SENT, None)
    # Neither by a commit nor by a rollback.
    if sent is not None and sent.wrote and (promised := session.info.get(_PROMISE)) is not None:
        promised.discarded = True


def has_uncommitted_changes(session: Session) -> bool:
    """Tell whether a rollback would lose something, as far as can be seen without asking."""
    sent = session.info.get(_SENT)
    return session.in_transaction() and (
        _has_pending(session) or (sent is not None and sent.wrote)
    )


def _has_pending(session: Session) -> bool:
    return bool(session.new or session.dirty or session.deleted)


def has_failed(session: Session) -> bool:
    """Tell whether the transaction of a session cannot be committed any more."""
    if not session.is_active:
        return True
    return any(map(_has_failed, session.info.get(_CONNECTIONS, ())))


def _has_failed(connection: Connection) -> bool:
    # One that is lost has no driver's connection to be asked, and raises.
    return connection.invalidated or refused_commits.has_failed(connection)


def has_written(session: Session) -> bool:
    """Look for all that a rollback would lose, row locks and what functions write included.

    Costs a round trip where the database can be asked.
    """
    sent = session.info.get(_SENT)
    connections = session.info.get(_CONNECTIONS, ())
    return sent is not None and any(_has_written(sent, each) for each in connections)


def _has_written(sent: _Sent, connection: Connection) -> bool:
    if connection.dialect.name != "postgresql":
        return sent.changed
    # Only a transaction that has written or locked something has a number.
    return connection.scalar(text("SELECT txid_current_if_assigned()")) is not None


def holds_something(session: Session) -> bool:
    """Look for all that giving the connections back would give up: what is written, and locks.

    Costs a round trip where the database can be asked.
    """
    sent = session.info.get(_SENT)
    connections = session.info.get(_CONNECTIONS, ())
    return sent is not None and any(_holds_something(sent, each) for each in connections)


def _holds_something(sent: _Sent, connection: Connection) -> bool:
    # PostgreSQL knows better than the statements what is written.
    changed = sent.changed and connection.dialect.name != "postgresql"
    return changed or gives_up(connection)


def promise(session: Session) -> None:
    """Note that somebody will commit `session` and report that its work is stored."""
    if _NOTED not in session.info:
        _note_foreign(session)
    session.info[_PROMISE] = _Promise()


def forget_promise(session: Session) -> None:
    """Note that nobody will any more; what is rolled back now is lost with a reason."""
    session.info.pop(_PROMISE, None)


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
        elif not _has_seen(session) and has_written(session):
            # By a function or on the driver's connection; or it was nextval(), which is no loss.
            promised.rolled_back = True
    except DBAPIError:
        # To ask may be what finds the connection lost.
        note_rollback(session)
    if (sent := session.info.get(_SENT)) is not None:
        sent.wrote = False


def note_rollback(session: Session) -> None:
    """Look, before `session` is rolled back by its user, whether that throws something away."""
    promised = session.info.get(_PROMISE)
    if promised is not None and has_uncommitted_changes(session):
        promised.rolled_back = True
    if (sent := session.info.get(_SENT)) is not None:
        sent.wrote = False


def _has_seen(session: Session) -> bool:
    sent = session.info.get(_SENT)
    return sent is None or sent.changed or sent.undone


def _has_unstored(session: Session) -> bool:
    sent = session.info.get(_SENT)
    # PostgreSQL knows what was committed on the driver's connection, as bulk loaders do.
    return sent is not None and sent.wrote and has_written(session)


def refuse_discarded(session: Session) -> None:
    """Raise what has to be raised instead of a report that the work is stored.

    :raises ChangesDiscarded: the session was closed with something written.
    """
    promised = session.info.get(_PROMISE)
    if promised is not None and promised.discarded:
        raise ChangesDiscarded(
            f"{_who()}: what the session had written was thrown away when it was closed, so"
            " nothing is committed. It is committed and closed for you at the end: do not call"
            " close() on it. Call commit(), where that is allowed, or rollback() for what shall"
            " be lost."
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
