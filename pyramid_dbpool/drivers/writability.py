"""Whether a server can store anything: what drivers' errors say of it, and what servers answer."""

from __future__ import annotations

import enum
import re
import sqlite3
from contextlib import closing
from typing import Any

from .driver_errors import driver_error, error_number, sqlite_code, sqlstate

__all__ = [
    "WriteRefusal",
    "defaults_to_read_only",
    "is_read_only",
    "refuses_all",
    "refuses_as_standby",
    "says_read_only",
    "storage_refusal",
]


class WriteRefusal(enum.Enum):
    """Why a server stores nothing of anybody's; the statement is not to blame."""

    READ_ONLY = "read-only"
    """It is not the primary, or not any more: another server may be."""
    FULL = "full"
    """It has no room or no memory, or its storage fails: wait for a person to help."""
    EXHAUSTED = "exhausted"
    """It has no room for temporary files, which the statement itself may have taken up."""


READ_ONLY, FULL, EXHAUSTED = WriteRefusal

# PostgreSQL's read_only_sql_transaction; feature_not_supported, which a standby says of
# SERIALIZABLE and of READ WRITE, in these of the server's sources, and any server of much else.
READ_ONLY_TRANSACTION, NOT_SUPPORTED = "25006", "0A000"
_MODE_FILES = frozenset({"guc.c", "predicate.c"})
# MySQL's and MariaDB's: an option prevents the statement (the text says which), InnoDB is
# read-only; a table is, or the transaction, of which the server may be the reason.
OPTION_PREVENTS, INNODB_READ_ONLY = 1290, 1836
MAY_BE_READ_ONLY = frozenset({1036, 1792})
_READ_ONLY_OPTION = re.compile(r"read[-_]only", re.I)

# insufficient_resources, disk_full, out_of_memory, system_error, io_error. The rest of class 53 is
# about connections, and about limits that somebody has set for a statement, a session or a role.
STORAGE_STATES = frozenset({"53000", "53100", "53200", "58000", "58030"})
# Where PostgreSQL's table of locks is too small for a statement, which is out_of_memory too: a
# setting helps, waiting does not.
_LOCK_FILES = frozenset({"lock.c", "predicate.c"})
_PG_TEMPORARY = "pgsql_tmp"

# MySQL's and MariaDB's: a file cannot be written (3, 1026, and 1878 a temporary one), the disk is
# full, the storage engine says so, there is no memory (1037, 1041), a table is full.
ENGINE_ERROR = 1030
STORAGE_NUMBERS = frozenset({3, 1021, 1026, ENGINE_ERROR, 1037, 1041, 1114, 1878})
# The engine's EIO, ENOSPC and EDQUOT.
_ENGINE_IS_FULL = re.compile(r"\berror (?:5|28|122)\b", re.I)
# How both name the files of temporary tables and of sorts.
_MYSQL_TEMPORARY = re.compile(r"#sql|\(temporary\)|\bMY\w*=\d+|/MY\w{6}\b|temporary file", re.I)

SQLITE_STORAGE = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})


def refuses_as_standby(error: BaseException, dbapi_connection: Any) -> bool:
    """Tell whether a server has refused a statement because it is read-only, and not its holder.

    A role, a session or a transaction that was made read-only is not meant, nor is what MariaDB's
    other options prevent.
    """
    orig = driver_error(error)
    number = error_number(orig)
    if number is None:
        return says_read_only(orig) and _is_hot_standby(dbapi_connection) is True
    if number == OPTION_PREVENTS:
        return _READ_ONLY_OPTION.search(str(orig)) is not None
    if number in MAY_BE_READ_ONLY:
        return _is_read_only_mysql(dbapi_connection)
    return number == INNODB_READ_ONLY


def says_read_only(error: BaseException) -> bool:
    """Tell whether PostgreSQL has refused a statement as read-only; why, it does not say.

    The server, the role, the session or the transaction may be.
    """
    orig = driver_error(error)
    state = sqlstate(orig)
    return state == READ_ONLY_TRANSACTION or (
        state == NOT_SUPPORTED and _source_file(orig) in _MODE_FILES
    )


def refuses_all(dbapi_connection: Any, dialect: str, *, by_default: bool) -> bool:
    """Ask a server whether it takes no writes from anybody; costs a round trip.

    What the drivers know would not do: a pooler such as PgBouncer passes on what a server said
    when it was reached first.

    :param by_default: whether a session of PostgreSQL's that is read-only by default tells of the
        server, as of a primary that is fenced before it is switched off.
    """
    if dialect != "postgresql":
        return is_read_only(dbapi_connection, dialect) is True
    query = "SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only')"
    with closing(dbapi_connection.cursor()) as cursor:
        cursor.execute(query)
        standby, default = cursor.fetchone()
    return bool(standby) or (by_default and default == "on")


def storage_refusal(error: BaseException) -> WriteRefusal | None:
    """Return how an error says that the server cannot keep anything; None: it does not say so."""
    orig = driver_error(error)
    said, temporary = str(orig), False
    if sqlstate(orig) in STORAGE_STATES:
        if _source_file(orig) in _LOCK_FILES:
            return None
        temporary = _PG_TEMPORARY in said
    elif (number := error_number(orig)) in STORAGE_NUMBERS:
        if number == ENGINE_ERROR and not _ENGINE_IS_FULL.search(said):
            return None
        temporary = _MYSQL_TEMPORARY.search(said) is not None
    elif sqlite_code(orig) not in SQLITE_STORAGE:
        return None
    return EXHAUSTED if temporary else FULL


def _source_file(error: BaseException) -> str | None:
    file: str | None = getattr(getattr(error, "diag", None), "source_file", None)
    return file


def is_read_only(dbapi_connection: Any, dialect: str) -> bool | None:
    """Tell whether the server of a connection is read-only as a whole; None: it does not say.

    Costs a round trip on MariaDB, and none on PostgreSQL, whose drivers are told of a change.
    """
    if dialect == "postgresql":
        return _is_hot_standby(dbapi_connection)
    if dialect in {"mysql", "mariadb"}:
        return _is_read_only_mysql(dbapi_connection)
    return None


def defaults_to_read_only(dbapi_connection: Any) -> bool | None:
    """Tell whether PostgreSQL begins this session's transactions read-only; None: it is silent.

    Costs no round trip.
    """
    return _is_on(dbapi_connection, "default_transaction_read_only")


def _is_hot_standby(dbapi_connection: Any) -> bool | None:
    return _is_on(dbapi_connection, "in_hot_standby")


def _is_on(dbapi_connection: Any, parameter: str) -> bool | None:
    # PostgreSQL 14 and later report both, and each change.
    ask = getattr(dbapi_connection, "get_parameter_status", None)
    if ask is None:
        ask = getattr(getattr(dbapi_connection, "info", None), "parameter_status", None)
    status = None if ask is None else ask(parameter)
    return None if status is None else status == "on"


def _is_read_only_mysql(dbapi_connection: Any) -> bool:
    try:
        with closing(dbapi_connection.cursor()) as cursor:
            cursor.execute("SELECT @@GLOBAL.read_only, @@GLOBAL.innodb_read_only")
            flags = cursor.fetchone()
    except Exception:
        # A server that has no such variables, or a connection that is in the middle of a result.
        return False
    # MariaDB 12 has words for some degrees of it.
    return any(str(flag).upper() not in {"0", "OFF", "NONE"} for flag in flags or ())
