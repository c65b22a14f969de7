"""What a statement does, as far as its first words tell."""

from __future__ import annotations

import re

__all__ = [
    "changes_nothing",
    "commits",
    "commits_alone",
    "first_word",
    "is_plain_select",
    "leaves_open",
    "locks_rows",
    "savepoint",
    "writes",
]

# What may stand before a statement's first word: blanks, comments, parentheses.
_FIRST_WORD = re.compile(
    r"(?:\s|\(|--[^\n]*(?:\n|$)|#[^\n]*(?:\n|$)|/\*.*?\*/)*([a-z]+)", re.I | re.S
)

# How most statements begin; none of these commits.
_PLAIN = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"})

_FURTHER_COMMIT = re.compile(r";\s*commit\b", re.I)
# These databases end the open transaction with a COMMIT first.
_IMPLICIT_COMMIT_DIALECTS = frozenset({"mysql", "mariadb", "oracle"})
# CALL, EXECUTE: what a procedure or a prepared statement commits, nobody sees.
_IMPLICIT_COMMITS = frozenset(
    {"ALTER", "ANALYZE", "BEGIN", "CALL", "CREATE", "DROP", "EXECUTE", "FLUSH", "GRANT", "LOAD"}
    | {"LOCK", "OPTIMIZE", "RENAME", "REPAIR", "REVOKE", "START", "TRUNCATE", "UNLOCK", "XA"}
)
# What sqlite3 begins a transaction for, and for nothing else.
_SQLITE_BEGINS = frozenset({"INSERT", "UPDATE", "DELETE", "REPLACE"})

# By their first six letters: after these MariaDB's and SQLite's drivers show a transaction.
_OPENING = frozenset(word[:6] for word in _SQLITE_BEGINS)
_SAVEPOINT = re.compile(
    r"\s*(rollback\b.*\bto(?:\s+savepoint)?|savepoint)\s+(\S+)\s*$", re.I | re.S
)

# SAVEPOINT and its like change nothing by themselves.
_HARMLESS = frozenset(
    {"SELECT", "SHOW", "SET", "EXPLAIN", "DESCRIBE", "DESC", "USE", "VALUES", "WITH", "PRAGMA"}
    | {"BEGIN", "START", "SAVEPOINT", "RELEASE", "ROLLBACK", "COMMIT", "END", "XA"}
)
# These take a lock, or tell of one session's things, and leave nothing that a rollback would undo
# and somebody miss.
_WRITES_NOTHING = _HARMLESS | {
    *("LOCK", "UNLOCK", "DECLARE", "FETCH", "MOVE", "CLOSE", "LISTEN", "UNLISTEN", "RESET"),
    *("DISCARD", "DEALLOCATE", "ANALYZE", "CHECK", "CHECKSUM", "HELP", "TABLE", "FLUSH", "KILL"),
}
_LOCKS = re.compile(
    r"\bfor\s+(?:no\s+key\s+|key\s+)?(?:update|share)\b|\block\s+in\s+share\s+mode\b", re.I
)
_WRITES = re.compile(r"\b(?:insert|update|delete|replace|merge)\b", re.I)


def first_word(statement: str) -> str:
    """Return the word that a statement begins with, in capitals; empty if there is none.

    >>> first_word("/* all */ (select 1)")
    'SELECT'
    """
    found = _FIRST_WORD.match(statement)
    return found[1].upper() if found else ""


def changes_nothing(statement: str) -> bool:
    """Tell whether a statement leaves nothing that a rollback would undo: no row, no row lock.

    >>> changes_nothing("SELECT * FROM t"), changes_nothing("SELECT * FROM t FOR UPDATE")
    (True, False)
    """
    word = first_word(statement)
    if word not in _HARMLESS or locks_rows(statement):
        return False
    # WITH and MariaDB's SET STATEMENT may have one of these behind them.
    return word == "SELECT" or not _WRITES.search(statement)


def writes(statement: str) -> bool:
    """Tell whether a statement leaves more than locks that a rollback would undo.

    >>> writes("DELETE FROM t"), writes("SELECT * FROM t FOR UPDATE"), writes("LOCK TABLE t")
    (True, False, False)
    >>> writes("WITH a AS (SELECT * FROM t FOR NO KEY UPDATE) SELECT * FROM a")
    False
    """
    word = first_word(statement)
    if word not in _WRITES_NOTHING:
        return True
    return word != "SELECT" and bool(_WRITES.search(_LOCKS.sub("", statement)))


def savepoint(statement: str) -> tuple[bool, str] | None:
    """Return whether a statement goes back to a savepoint, or sets it, and the savepoint's name.

    >>> savepoint("SAVEPOINT a"), savepoint("ROLLBACK TO SAVEPOINT a"), savepoint("SELECT 1")
    ((False, 'a'), (True, 'a'), None)
    """
    found = _SAVEPOINT.match(statement)
    return None if found is None else (found[1][0] in "rR", found[2])


def is_plain_select(statement: str) -> bool:
    """Tell, in a hurry, whether a statement is a single SELECT; False for one with a comment."""
    return statement[:7].upper() == "SELECT " and ";" not in statement


def locks_rows(statement: str) -> bool:
    """Tell whether a query locks the rows that it finds."""
    # The pattern costs more than a short statement takes.
    lowered = statement.lower()
    return ("update" in lowered or "share" in lowered) and bool(_LOCKS.search(lowered))


def commits(statement: str, dialect: str) -> bool:
    """Tell whether a statement stores what its transaction has done, or may do so.

    :param dialect: SQLAlchemy's name of the database.

    >>> commits("CREATE TABLE t (a int)", "mysql"), commits("CREATE TABLE t (a int)", "sqlite")
    (True, False)
    """
    # Nearly all of them, for a tenth of what the patterns cost.
    if statement[:6].upper() in _PLAIN and ";" not in statement:
        return False
    word = first_word(statement)
    if word in {"COMMIT", "END"} or (";" in statement and _FURTHER_COMMIT.search(statement)):
        return True
    if word == "PREPARE":
        return "TRANSACTION" in statement.upper()
    if dialect not in _IMPLICIT_COMMIT_DIALECTS:
        return False
    return word in _IMPLICIT_COMMITS or (word == "SET" and "AUTOCOMMIT" in statement.upper())


def leaves_open(statement: str, dialect: str, *, opened: bool) -> bool:
    """Tell whether the driver shows an open transaction once a statement has run.

    :param dialect: SQLAlchemy's name of the database.
    :param opened: whether it does so already.

    >>> leaves_open("SELECT 1", "postgresql", opened=False)
    True
    >>> leaves_open("SELECT 1", "mysql", opened=False)
    False
    """
    start = statement[:6].upper()
    if start == "ROLLBA":
        return False
    return opened or dialect == "postgresql" or start in _OPENING


def commits_alone(statement: str, *, begins: object) -> bool:
    """Tell whether SQLite stores a statement at once that it is sent outside of a transaction.

    So it does with a SAVEPOINT, as soon as that is released.

    :param begins: the driver's isolation level; None: it begins no transaction by itself.

    >>> commits_alone("CREATE TABLE t (a int)", begins="")
    True
    """
    if statement[:6].upper() == "SELECT":
        return False
    word = first_word(statement)
    if begins is not None and word in _SQLITE_BEGINS:
        return False
    return word == "SAVEPOINT" or not changes_nothing(statement)
