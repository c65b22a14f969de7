"""What a session's transaction has been sent: what it changed, and what else it holds.

Noted at the engine, which all statements pass: the ORM's, Core's and text.
"""

import re
from typing import Any

from sqlalchemy import Connection, Engine

from ..drivers.statements import (
    changes_nothing,
    is_plain_read,
    locks_rows,
    plain_word,
    rolls_back,
    savepoint,
    surely_commits,
    undone_if_failed,
    writes,
)
from .hearing import Heard
from .steps import steps_of

__all__ = ["Sent", "note_error", "note_statements"]

# A key of Connection.info, and an attribute of the connection itself.
_SENT = "pyramid_dbpool_sent"

# How a statement begins whose driver counts the rows that it has changed.
_COUNTED = frozenset({"UPDATE ", "DELETE ", "update ", "delete "})

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
    :ivar rolled_back: whether a ROLLBACK as text has undone what was written.
    :ivar lost: whether the connection was found to be lost.
    :ivar held: how many things the transaction holds that no server tells of: MariaDB's named
        locks, SQLite's locks, and those whom PostgreSQL is to notify at COMMIT.
    :ivar tables: whether it has locked tables of MariaDB's.
    """

    __slots__ = (
        "_before",
        "_last",
        "changed",
        "held",
        "lost",
        "rolled_back",
        "tables",
        "undone",
        "wrote",
    )

    def __init__(self) -> None:
        self.changed = self.wrote = self.undone = self.lost = self.tables = False
        self.rolled_back = False
        self.held = 0
        # `wrote` as it was before each savepoint, by its name, the newest one last.
        self._before: dict[str, bool] = {}
        # `changed` and `wrote` as they were before the statement in hand, if it may come to
        # nothing.
        self._last: tuple[bool, bool] | None = None

    def listen_to(self, connection: Connection) -> None:
        """Note what `connection` is sent from now on; until another one does."""
        # It must not know the connection in its turn: a forgotten session's would never come back.
        if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
            connection.info.pop(_SENT, None)
            setattr(connection, _SENT, None)
        else:
            connection.info[_SENT] = self
            # There too: each statement asks for it.
            setattr(connection, _SENT, self)

    def end(self) -> None:
        """Note that what was written is stored, or was rolled back."""
        self.changed = self.wrote = False

    def note_change(self, statement: str, dialect: str, *, several: bool) -> None:
        """Note what a statement changes.

        :param several: whether the driver may make several statements of it.
        """
        before, self._last = (self.changed, self.wrote), None
        # Nearly all of them, for a fraction of what the rest costs.
        word = plain_word(statement)
        if word == "SELECT":
            self.changed = self.changed or locks_rows(statement)
            return
        if word:
            self.changed = self.wrote = True
            self._last = None if several else before
            return
        if rolls_back(statement):
            self.rolled_back = self.rolled_back or self.wrote
            self.end()
        elif surely_commits(statement, dialect):
            self.end()
        elif not changes_nothing(statement):
            self.changed = True
            self.wrote = self.wrote or writes(statement)
            # PostgreSQL's transaction is over then, or goes back to a savepoint.
            if several or not (dialect == "postgresql" or undone_if_failed(statement)):
                return
        elif (found := savepoint(statement)) is not None:
            self._note_savepoint(*found)
        self._last = before

    def _note_savepoint(self, does: str, name: str) -> None:
        before = self._before
        if does == "SAVEPOINT":
            # The newest one of that name counts.
            before.pop(name, None)
            before[name] = self.wrote
            return
        back = does == "ROLLBACK"
        if back:
            self.undone = True
            self.wrote = before.get(name, self.wrote)
        # Those that were set after it go with it; it stays if it was only gone back to.
        later = list(before)[list(before).index(name) + back :] if name in before else []
        for each in later:
            del before[each]

    def undo_last(self) -> None:
        """Note that the last statement has come to nothing."""
        if self._last is not None:
            (self.changed, self.wrote), self._last = self._last, None

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


def note_error(heard: Heard) -> None:
    """Note that a connection is lost, or that its last statement has failed."""
    sent: Sent | None = heard.connection.info.get(_SENT)
    if sent is None:
        return
    if heard.lost:
        sent.lost = True
    elif heard.of_statement:
        sent.undo_last()


def note_statements(engine: Engine, *, stores: bool) -> None:
    """Note what sessions send to `engine`.

    :param stores: whether COMMIT stores something: what is sent in AUTOCOMMIT, or to a read-only
        pool, is no change that could be lost.
    """
    dialect = engine.dialect.name
    locks, notifies = dialect in {"mysql", "mariadb", "sqlite"}, dialect == "postgresql"

    def note(connection: Connection, statement: str, context: Any) -> None:
        sent: Sent | None = getattr(connection, _SENT, None)
        if sent is None:
            return
        if is_plain_read(statement):
            sent._last = None
            return
        if stores:
            sent.note_change(statement, dialect, several=context.executemany)
            if notifies:
                sent.note_notify(statement)
        if locks:
            sent.note_lock(statement, dialect)

    steps = steps_of(engine)
    steps.statement.append(note)
    if stores:
        steps.executed = _note_no_rows


def _note_no_rows(cursor: Any, statement: Any, context: Any) -> None:
    # After each SELECT too; so this comes before everything that costs more.
    if str(statement)[:7] not in _COUNTED or ";" in statement:
        return
    # Without a context it is an app that has the dialect execute it.
    if context is None or context.executemany:
        return
    # SQLite counts what RETURNING returns only when it is fetched.
    if cursor.rowcount == 0 and cursor.description is None:
        sent: Sent | None = getattr(context.root_connection, _SENT, None)
        if sent is not None:
            sent.undo_last()
