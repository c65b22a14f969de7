"""What a session's transaction has been sent: what it changed, and what else it holds.

Noted at the engine, which all statements pass: the ORM's, Core's and text.
"""

import re
from typing import Any

from sqlalchemy import Connection, Engine, event

from ..drivers.statements import (
    changes_nothing,
    commits,
    is_plain_select,
    locks_rows,
    savepoint,
    writes,
)
from .hearing import Heard

__all__ = ["Sent", "note_loss", "note_statements"]

# A key of Connection.info.
_SENT = "pyramid_dbpool.sent"

_NOTIFY = re.compile(r"\bpg_notify\s*\(|(?:^|;|\*/)\s*notify\b", re.I)

# MariaDB's, which are its connection's and outlive the transaction.
_LOCK_WORDS = re.compile(
    r"\b(?:(GET_LOCK)|(RELEASE_LOCK)|RELEASE_ALL_LOCKS)\s*\("
    r"|(?:^|;|\*/)\s*(UN)?(LOCK)\s+TABLES?\b"
)
_SQLITE_LOCKS = re.compile(r"begin\s+(?:immediate|exclusive)\b", re.I)


class Sent:
    """What one transaction has sent on one connection.

    :ivar changed: whether a rollback would undo something: a change, or a row lock.
    :ivar wrote: whether that was more than a lock.
    :ivar undone: whether a savepoint was rolled back.
    :ivar lost: whether the connection was found to be lost.
    :ivar held: how many things the transaction holds that no server tells of: MariaDB's named
        locks, SQLite's locks, and those whom PostgreSQL is to notify at COMMIT.
    :ivar tables: whether it has locked tables of MariaDB's.
    """

    __slots__ = ("_before", "changed", "held", "lost", "tables", "undone", "wrote")

    def __init__(self) -> None:
        self.changed = self.wrote = self.undone = self.lost = self.tables = False
        self.held = 0
        # `wrote` as it was before each savepoint, by its name.
        self._before: dict[str, bool] = {}

    def listen_to(self, connection: Connection) -> None:
        """Note what `connection` is sent from now on; until another one does."""
        # It must not know the connection in its turn: a forgotten session's would never come back.
        if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
            connection.info.pop(_SENT, None)
        else:
            connection.info[_SENT] = self

    def end(self) -> None:
        """Note that what was written is stored, or was rolled back."""
        self.changed = self.wrote = False

    def note_change(self, statement: str, dialect: str) -> None:
        """Note what a statement changes."""
        if is_plain_select(statement):
            # Nearly all of them, for a third of what the rest costs.
            self.changed = self.changed or locks_rows(statement)
        elif commits(statement, dialect):
            self.end()
        elif not changes_nothing(statement):
            self.changed = True
            self.wrote = self.wrote or writes(statement)
        elif (found := savepoint(statement)) is not None:
            back, name = found
            if back:
                self.undone = True
                self.wrote = self._before.get(name, self.wrote)
            else:
                self._before[name] = self.wrote

    def note_lock(self, statement: str, dialect: str) -> None:
        """Note what a statement of MariaDB's or SQLite's locks, beside rows."""
        if dialect == "sqlite":
            said = statement.lstrip()
            if said[:5].upper() == "BEGIN" and _SQLITE_LOCKS.match(said):
                self.held = 1
            return
        said = statement.upper()
        # The pattern costs more than a short statement takes.
        if "LOCK" not in said:
            return
        for taken, released, unlocks, tables in _LOCK_WORDS.findall(said):
            if tables:
                self.tables = not unlocks
            elif taken:
                self.held += 1
            else:
                self.held = max(self.held - 1, 0) if released else 0

    def note_notify(self, statement: str) -> None:
        """Note what a statement of PostgreSQL's sends to others at COMMIT."""
        if ("notify" in statement or "NOTIFY" in statement) and _NOTIFY.search(statement):
            self.held = 1


def note_loss(heard: Heard) -> None:
    """Note that a connection is lost."""
    sent: Sent | None = heard.connection.info.get(_SENT)
    if heard.lost and sent is not None:
        sent.lost = True


def note_statements(engine: Engine, *, stores: bool) -> None:
    """Note what sessions send to `engine`.

    :param stores: whether COMMIT stores something: what is sent in AUTOCOMMIT, or to a read-only
        pool, is no change that could be lost.
    """
    dialect = engine.dialect.name
    locks, notifies = dialect in {"mysql", "mariadb", "sqlite"}, dialect == "postgresql"

    def note(connection: Connection, _cursor: Any, statement: Any, *_: object) -> None:
        # What a transaction before this one has left here, nobody looks at any more.
        sent: Sent | None = connection.info.get(_SENT)
        if sent is None:
            return
        said = str(statement)
        if stores:
            sent.note_change(said, dialect)
            if notifies:
                sent.note_notify(said)
        if locks:
            sent.note_lock(said, dialect)

    event.listen(engine, "before_cursor_execute", note)
