"""What a session has written and not committed: a rollback would lose it."""

from typing import Any

from sqlalchemy import Connection, event, text
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction, sessionmaker
from sqlalchemy.sql.elements import TextClause

from ..drivers.statements import changes_nothing, first_word
from ..engines import refused_commits

__all__ = [
    "has_failed",
    "has_uncommitted_changes",
    "has_written",
    "note_connections",
    "note_writes",
]

# A key of Session.info: whether its transaction has written.
_WROTE = "pyramid_dbpool.wrote"

# Another one: whether its transaction has a connection.
_CONNECTED = "pyramid_dbpool.connected"

# A key of Connection.info: whether its transaction was sent what may have changed something.
_CHANGED = "pyramid_dbpool.changed"

_WRITING_WORDS = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE", "TRUNCATE", "COPY"})


def note_connections(maker: sessionmaker[Session]) -> None:
    """Have the sessions of `maker` keep `_CONNECTED` up to date."""
    event.listen(maker, "after_begin", _note_connection)
    event.listen(maker, "after_transaction_end", _forget_connection)


def _note_connection(session: Session, *_: object) -> None:
    session.info[_CONNECTED] = True


def _forget_connection(session: Session, ended: SessionTransaction) -> None:
    if ended.parent is None:
        session.info.pop(_CONNECTED, None)


def note_writes(maker: sessionmaker[Session]) -> None:
    """Have the sessions of `maker` keep `_WROTE` up to date, and the engine `_CHANGED`."""
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
    session.info[_WROTE] = True


def _note_execute(state: ORMExecuteState) -> None:
    statement = state.statement
    changes = state.is_insert or state.is_update or state.is_delete
    if isinstance(statement, TextClause):
        changes = first_word(statement.text) in _WRITING_WORDS
    if changes:
        state.session.info[_WROTE] = True


def _forget_writes(session: Session, ended: SessionTransaction) -> None:
    if ended.parent is None:
        session.info.pop(_WROTE, None)


def has_uncommitted_changes(session: Session) -> bool:
    """Tell whether a rollback would lose something, as far as the session can see."""
    pending = session.new or session.dirty or session.deleted
    return session.in_transaction() and bool(pending or session.info.get(_WROTE))


def has_failed(session: Session) -> bool:
    """Tell whether the transaction of a session cannot be committed any more."""
    if not session.is_active:
        return True
    if _CONNECTED not in session.info:
        # After a `PoolTimeout`: to ask would be to wait for a connection once more.
        return False
    connection = session.connection()
    # One that is lost has no driver's connection to be asked, and raises.
    return connection.invalidated or refused_commits.has_failed(connection)


def has_written(session: Session) -> bool:
    """Look for what the session has not seen: Core statements, and functions that write."""
    if _CONNECTED not in session.info:
        return False
    connection = session.connection()
    if connection.dialect.name != "postgresql":
        return bool(connection.info.get(_CHANGED))
    # Only a transaction that has written or locked something has a number.
    return connection.scalar(text("SELECT txid_current_if_assigned()")) is not None
