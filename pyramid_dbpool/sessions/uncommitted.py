"""What a session has written and not committed: a rollback would lose it."""

from typing import Any

from sqlalchemy import Connection, event, text
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction, sessionmaker
from sqlalchemy.sql.elements import TextClause

from ..drivers.statements import changes_nothing, first_word
from ..engines.refused_commits import has_failed
from ..errors import SessionInUse, TransactionFailed

__all__ = [
    "WROTE",
    "has_uncommitted_changes",
    "note_writes",
    "refuse_to_lose_changes",
]

# A key of Session.info: whether its transaction has written.
WROTE = "pyramid_dbpool.wrote"

# A key of Connection.info: whether its transaction was sent what may have changed something.
_CHANGED = "pyramid_dbpool.changed"

_WRITING_WORDS = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE", "TRUNCATE", "COPY"})


def note_writes(maker: sessionmaker[Session]) -> None:
    """Have the sessions of `maker` keep `WROTE` up to date, and the engine `_CHANGED`."""
    engine = maker.kw["bind"]
    # PostgreSQL can be asked. A second app with this engine adds no second listener.
    if engine.dialect.name != "postgresql":
        event.listen(engine, "begin", _forget_changes)
        event.listen(engine, "begin_twophase", _forget_changes)
        event.listen(engine, "before_cursor_execute", _note_statement)
    event.listen(maker, "after_flush", _note_flush)
    event.listen(maker, "do_orm_execute", _note_execute)
    event.listen(maker, "after_transaction_end", _forget_writes)


def _forget_changes(connection: Connection, *_: object) -> None:
    connection.info.pop(_CHANGED, None)


def _note_statement(connection: Connection, _cursor: Any, statement: Any, *_: object) -> None:
    if not changes_nothing(str(statement)):
        connection.info[_CHANGED] = True


def _note_flush(session: Session, _context: object) -> None:
    session.info[WROTE] = True


def _note_execute(state: ORMExecuteState) -> None:
    statement = state.statement
    if state.is_insert or state.is_update or state.is_delete:
        state.session.info[WROTE] = True
    elif isinstance(statement, TextClause):
        state.session.info[WROTE] |= first_word(statement.text) in _WRITING_WORDS


def _forget_writes(session: Session, ended: SessionTransaction) -> None:
    if ended.parent is None:
        session.info[WROTE] = False


def has_uncommitted_changes(session: Session) -> bool:
    """Tell whether a rollback would lose something, as far as the session can see."""
    pending = session.new or session.dirty or session.deleted
    return session.in_transaction() and bool(pending or session.info[WROTE])


def refuse_to_lose_changes(session: Session, request: str, may_write: bool) -> None:
    """Raise if ending the transaction of `session` would lose what somebody counts on.

    :param request: its name.
    :param may_write: whether the session can write at all.
    :raises SessionInUse: it has changes, or is inside of a savepoint.
    :raises TransactionFailed: a statement failed and its error was swallowed.
    """
    if session.in_nested_transaction():
        raise SessionInUse(
            f"{request} cannot give its connection back inside of begin_nested(): call"
            " release_db() outside of it."
        )
    if has_uncommitted_changes(session):
        raise _changes_would_be_lost(request)
    if not session.is_active or _has_failed(session.connection()):
        raise TransactionFailed(
            f"{request} cannot give its connection back: a statement of its transaction failed"
            " and its error was swallowed. Let the error propagate, or run the statement that may"
            " fail inside session.begin_nested()."
        )
    if may_write and _has_written(session):
        raise _changes_would_be_lost(request)


def _changes_would_be_lost(request: str) -> SessionInUse:
    return SessionInUse(
        f"{request} cannot give its connection back: its session has uncommitted changes (or row"
        " locks), which would be lost. Call release_db() before the first change; outside of"
        " pyramid_tm's transaction you may also commit() first."
    )


def _has_failed(connection: Connection) -> bool:
    # One that is lost has no driver's connection to be asked, and raises.
    return connection.invalidated or has_failed(connection)


def _has_written(session: Session) -> bool:
    """Look for what the session has not seen: Core statements, and functions that write."""
    connection = session.connection()
    if connection.dialect.name != "postgresql":
        return bool(connection.info.get(_CHANGED))
    # Only a transaction that has written or locked something has a number.
    return connection.scalar(text("SELECT txid_current_if_assigned()")) is not None
