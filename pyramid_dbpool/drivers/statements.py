"""What a statement does, as far as its first words tell."""

from __future__ import annotations

import functools
import re

__all__ = [
    "changes_nothing",
    "commits",
    "commits_alone",
    "first_word",
    "is_plain_read",
    "leaves_open",
    "locks_rows",
    "plain_word",
    "rolls_back",
    "savepoint",
    "surely_commits",
    "undone_if_failed",
    "writes",
]

# Blanks and comments, and before a statement's first word parentheses. Possessive: each comment
# would double the time that a statement without a word takes.
_BLANK = r"\s|--[^\n]*|#[^\n]*|/\*.*?\*/"
_FIRST_WORD = re.compile(rf"(?:\(|{_BLANK})*+([a-z]+)", re.I | re.S)

# Literals, quoted names and comments; MariaDB runs what is in /*! */. What is not closed goes to
# the end, or the search would begin again at each.
_UNSAID = re.compile(
    r"""'[^']*+(?:'|\Z)|"[^"]*+(?:"|\Z)|`[^`]*+(?:`|\Z)|--[^\n]*+|/\*(?!M?!).*?(?:\*/|\Z)"""
    r"|(?<![\w$])\$([a-z_]\w*|)\$.*?(?:\$\1\$|\Z)",
    re.I | re.S,
)

# What a SELECT does beside reading has one of these in it.
_PERHAPS_MORE = ("update", "share", "lock", "notify", ";")

# Longer statements (characters) are not kept in memory.
_KEPT = 4096

# How most statements begin; none of these commits.
_PLAIN = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"})

_FURTHER_COMMIT = re.compile(r";\s*commit\b", re.I)
_LAST_COMMIT = re.compile(r";\s*commit(?:\s+(?:work|transaction))?\s*;?\s*\Z", re.I)
# These databases end the open transaction with a COMMIT first.
_IMPLICIT_COMMIT_DIALECTS = frozenset({"mysql", "mariadb", "oracle"})
# CALL, EXECUTE: what a procedure or a prepared statement commits, nobody sees.
_IMPLICIT_COMMITS = frozenset(
    {"ALTER", "ANALYZE", "BEGIN", "CALL", "CREATE", "DROP", "EXECUTE", "FLUSH", "GRANT", "LOAD"}
    | {"LOCK", "OPTIMIZE", "RENAME", "REPAIR", "REVOKE", "SET", "START", "TRUNCATE", "UNLOCK"}
    | {"XA"}
)
_XA_STORES_NOTHING = re.compile(r"xa\s+(?:begin|end|recover|rollback|start)\b", re.I)
_TEMPORARY = re.compile(
    r"(?:create(?:\s+or\s+replace)?(?:\s+(?:local|global))?|drop)\s+temp(?:orary)?\b", re.I
)
# What of those that may commit need not: a procedure may do anything, or nothing.
_PERHAPS_COMMITS = re.compile(
    r"(?:call|execute|load|begin\s+not|prepare\s+(?!transaction\b)\w+"
    r"|analyze\s+(?!(?:local|no_write_to_binlog|table)\b)\w+"
    r"|set\b(?!.*\bautocommit\s*:?=\s*(?:1|on|true)\b)|set\s+statement)\b",
    re.I | re.S,
)
# What sqlite3 begins a transaction for, and for nothing else.
_SQLITE_BEGINS = frozenset({"INSERT", "UPDATE", "DELETE", "REPLACE"})

# A failed one of these leaves no row, also where the transaction goes on.
_UNDONE = _SQLITE_BEGINS | {"WITH", "MERGE"}

# By their first six letters: after these MariaDB's and SQLite's drivers show a transaction.
_OPENING = frozenset(word[:6] for word in _SQLITE_BEGINS)
_SAVEPOINT = re.compile(
    r"(?:(rollback)(?:\s+(?:work|transaction))?\s+to(?:\s+savepoint)?"
    r"|(release)(?:\s+savepoint)?|savepoint)\s+"
    rf"""("[^"]*"|`[^`]*`|[^\s;"`]+)(?:;|{_BLANK})*+\Z""",
    re.I | re.S,
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
# INSERT() and REPLACE() are functions.
_WRITES = re.compile(
    r"\b(?:update|delete|merge)\b|\b(?:insert|replace)\b(?!\s*\()|\bbegin\s+not\b", re.I
)
# Words of the same sound that change no row.
_NO_WRITES = re.compile(
    rf"{_LOCKS.pattern}|\bon\s+(?:commit\s+delete|delete|update)\b|\bor\s+replace\b", re.I
)
# These run nothing of what they name; PostgreSQL's EXPLAIN does with ANALYZE.
_DESCRIBES = frozenset({"SHOW", "DESCRIBE", "DESC", "EXPLAIN", "USE", "PRAGMA"})
_ANALYZES = re.compile(r"explain\s+(?:\([^)]*)?\banalyze\b", re.I)


def first_word(statement: str) -> str:
    """Return the word that a statement begins with, in capitals; empty if there is none.

    >>> first_word("/* all */ (select 1)")
    'SELECT'
    """
    found = _FIRST_WORD.match(statement)
    return found[1].upper() if found else ""


def _said(statement: str) -> str:
    """Return a statement without literals, quoted names and comments, from its first word on."""
    # To some databases these are an escape and a comment, to others a letter and an operator: what
    # is a literal depends on it.
    if "\\" not in statement and "#" not in statement:
        statement = _UNSAID.sub(" ", statement)
    found = _FIRST_WORD.match(statement)
    return statement[found.start(1) :] if found else ""


def _may_write(word: str, statement: str) -> bool:
    """Tell whether a statement that does not write by its first word does so behind it."""
    # WITH, MariaDB's SET STATEMENT and BEGIN NOT ATOMIC, and a further statement.
    if (word == "SELECT" and ";" not in statement) or not _WRITES.search(statement):
        return False
    said = _said(statement)
    if word in _DESCRIBES and ";" not in said and not _ANALYZES.match(said):
        return False
    return bool(_WRITES.search(_NO_WRITES.sub("", said)))


def changes_nothing(statement: str) -> bool:
    """Tell whether a statement leaves nothing that a rollback would undo: no row, no row lock.

    >>> changes_nothing("SELECT * FROM t"), changes_nothing("SELECT * FROM t FOR UPDATE")
    (True, False)
    """
    word = first_word(statement)
    return word in _HARMLESS and not locks_rows(statement) and not _may_write(word, statement)


def writes(statement: str) -> bool:
    """Tell whether a statement leaves more that a rollback would undo than locks.

    A temporary table is no more: nobody counts on it afterwards.

    >>> writes("DELETE FROM t"), writes("SELECT * FROM t FOR UPDATE"), writes("LOCK TABLE t")
    (True, False, False)
    >>> writes("WITH a AS (SELECT * FROM t FOR NO KEY UPDATE) SELECT * FROM a")
    False
    """
    word = first_word(statement)
    if word in _WRITES_NOTHING or (
        word in {"CREATE", "DROP"} and _TEMPORARY.match(_said(statement))
    ):
        return _may_write(word, statement)
    return True


def undone_if_failed(statement: str) -> bool:
    """Tell whether a single statement leaves nothing of itself if it fails, in a transaction.

    MariaDB's tables that know none, as MyISAM's, keep what it had done.

    >>> undone_if_failed("INSERT INTO t VALUES (1), (2)"), undone_if_failed("CALL p()")
    (True, False)
    """
    return first_word(statement) in _UNDONE and ";" not in statement


def savepoint(statement: str) -> tuple[str, str] | None:
    """Return what is done with a savepoint, and its name: "SAVEPOINT", "ROLLBACK", "RELEASE".

    >>> savepoint("SAVEPOINT a"), savepoint("rollback to A;"), savepoint('RELEASE "A"')
    (('SAVEPOINT', 'a'), ('ROLLBACK', 'a'), ('RELEASE', 'A'))
    """
    begins = _FIRST_WORD.match(statement)
    found = None if begins is None else _SAVEPOINT.match(statement, begins.start(1))
    if found is None:
        return None
    name = found[3]
    does = (found[1] or found[2] or "savepoint").upper()
    return does, name[1:-1] if name[0] in '"`' else name.lower()


def rolls_back(statement: str) -> bool:
    """Tell whether a statement undoes its whole transaction.

    >>> rolls_back("ROLLBACK"), rolls_back("abort"), rolls_back("ROLLBACK TO SAVEPOINT a")
    (True, True, False)
    """
    return first_word(statement) in {"ROLLBACK", "ABORT"} and savepoint(statement) is None


def plain_word(statement: str) -> str:
    """Return, in a hurry, the word that a single plain statement begins with; empty for others.

    >>> plain_word("select 1"), plain_word("/* all */ SELECT 1"), plain_word("CALL p()")
    ('SELECT', '', '')
    """
    word = statement[:6].upper()
    return word if word in _PLAIN and statement[6:7] == " " and ";" not in statement else ""


def is_plain_read(statement: str) -> bool:
    """Tell, in a hurry, whether a statement does nothing but read, whatever the database.

    Most that are sent do; an app has some hundreds, which SQLAlchemy sends as the same strings
    again and again: what they do is found out once.

    >>> is_plain_read("SELECT a FROM t"), is_plain_read("SELECT a FROM t FOR UPDATE")
    (True, False)
    """
    # A long list of values makes another statement each time.
    return len(statement) <= _KEPT and _is_plain_read(statement)


@functools.lru_cache(maxsize=256)
def _is_plain_read(statement: str) -> bool:
    if plain_word(statement) != "SELECT":
        return False
    lowered = statement.lower()
    return not any(word in lowered for word in _PERHAPS_MORE)


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
    if not _commits_unsaid(word, dialect):
        return False
    if word == "XA":
        # With these SQLAlchemy begins and gives up what has two phases.
        return not _XA_STORES_NOTHING.match(_said(statement))
    return word != "SET" or "AUTOCOMMIT" in statement.upper()


def _commits_unsaid(word: str, dialect: str) -> bool:
    return dialect in _IMPLICIT_COMMIT_DIALECTS and word in _IMPLICIT_COMMITS


def surely_commits(statement: str, dialect: str) -> bool:
    """Tell whether a statement that succeeds has stored what its transaction had done before.

    :param dialect: SQLAlchemy's name of the database.

    >>> surely_commits("CREATE TABLE t (a int)", "mysql"), surely_commits("CALL p()", "mysql")
    (True, False)
    """
    if not commits(statement, dialect):
        return False
    word, said = first_word(statement), _said(statement)
    if word in {"COMMIT", "END"} or _LAST_COMMIT.search(said):
        return True
    if word != "PREPARE" and not _commits_unsaid(word, dialect):
        return False
    return not (_TEMPORARY.match(said) or _PERHAPS_COMMITS.match(said))


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
