"""What giving a connection back gives up besides changes: locks, and notifications to be sent.

PostgreSQL can be asked for its locks. What the others have locked, and whom PostgreSQL is to
notify at COMMIT, only the statements tell.
"""

import re
from typing import Any

from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.orm import Session, SessionTransaction, sessionmaker

__all__ = ["gives_up", "note_held"]

# A key of Connection.info: how many things its transaction holds that no server tells of.
_HELD = "pyramid_dbpool.held"

# A transaction has a number once it has written, or locked a row. The modes that are left out are
# those of a SELECT, also with FOR UPDATE where it finds no row; nextval() locks its sequence.
# An advisory lock of the session outlives the transaction, but its author loses it all the same.
_POSTGRESQL_HOLDS = text(
    "SELECT txid_current_if_assigned() IS NOT NULL OR EXISTS ("
    "SELECT FROM pg_locks l LEFT JOIN pg_class c ON c.oid = l.relation AND c.relkind = 'S'"
    " WHERE l.pid = pg_backend_pid() AND l.locktype <> 'virtualxid' AND c.oid IS NULL"
    " AND l.mode NOT IN ('AccessShareLock', 'RowShareLock', 'SIReadLock'))"
)

_NOTIFY = re.compile(r"\bpg_notify\s*\(|(?:^|;|\*/)\s*notify\b", re.I)

# MariaDB's, which are its connection's and outlive the transaction.
_LOCK_WORDS = re.compile(
    r"\b(?:(GET_LOCK)|(RELEASE_LOCK)|RELEASE_ALL_LOCKS)\s*\("
    r"|(?:^|;|\*/)\s*(?:(LOCK)|UNLOCK)\s+TABLES?\b"
)
_SQLITE_LOCKS = re.compile(r"begin\s+(?:immediate|exclusive)\b", re.I)


def note_held(maker: sessionmaker[Session], *, autocommit: bool) -> None:
    """Have the engine of `maker` note what its sessions hold.

    :param autocommit: whether each statement is a transaction of its own.
    """
    engine: Engine = maker.kw["bind"]
    # As late as this, because what an app takes at the begin of every transaction, such as
    # SQLite's BEGIN IMMEDIATE, it has again in the next one.
    event.listen(maker, "after_begin", _forget_held)
    # A second app with this engine adds no second listener.
    if engine.dialect.name in {"mysql", "mariadb"}:
        event.listen(engine, "before_cursor_execute", _note_lock)
    elif engine.dialect.name == "sqlite":
        event.listen(engine, "before_cursor_execute", _note_begin)
    elif engine.dialect.name == "postgresql" and not autocommit:
        event.listen(engine, "before_cursor_execute", _note_notify)


def gives_up(connection: Connection) -> bool:
    """Tell whether giving this connection back would give up what somebody counts on.

    On PostgreSQL that includes every change, and costs a round trip.
    """
    if connection.info.get(_HELD):
        return True
    return connection.dialect.name == "postgresql" and bool(connection.scalar(_POSTGRESQL_HOLDS))


def _forget_held(_session: Session, begun: SessionTransaction, connection: Connection) -> None:
    # What an earlier holder of the connection has left behind is not this one's to lose.
    if not begun.nested:
        connection.info.pop(_HELD, None)


def _note_lock(connection: Connection, _cursor: Any, statement: Any, *_: object) -> None:
    said = str(statement).upper()
    # The pattern costs more than a short statement takes.
    if "LOCK" not in said:
        return
    held = connection.info.get(_HELD, 0)
    for taken, released, locked in _LOCK_WORDS.findall(said):
        if taken or locked:
            held += 1
        else:
            held = max(held - 1, 0) if released else 0
    connection.info[_HELD] = held


def _note_begin(connection: Connection, _cursor: Any, statement: Any, *_: object) -> None:
    said = str(statement).lstrip()
    if said[:5].upper() == "BEGIN" and _SQLITE_LOCKS.match(said):
        connection.info[_HELD] = 1


def _note_notify(connection: Connection, _cursor: Any, statement: Any, *_: object) -> None:
    said = str(statement)
    if ("notify" in said or "NOTIFY" in said) and _NOTIFY.search(said):
        connection.info[_HELD] = 1
