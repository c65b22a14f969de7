"""Whether a server can store anything: what drivers' errors say of it, and what servers answer."""

from __future__ import annotations

import enum
import re
import sqlite3
from contextlib import closing
from typing import Any

from .driver_errors import driver_error, error_number, sqlite_code, sqlstate
from .transactions import is_known_rollback

__all__ = ["WriteRefusal", "is_read_only", "refuses_as_standby", "storage_refusal"]


class WriteRefusal(enum.Enum):
    """Why a server stores nothing of anybody's; the statement is not to blame."""

    READ_ONLY = "read-only"
    """It is not the primary, or not any more: another server may be."""
    FULL = "full"
    """It has no room, or its storage fails: wait for a person to help."""
    EXHAUSTED = "exhausted"
    """It has no memory, or no room for temporary files, which the statement may have taken up."""


READ_ONLY, FULL, EXHAUSTED = WriteRefusal

# PostgreSQL's read_only_sql_transaction; feature_not_supported, which a standby says of
# SERIALIZABLE and of READ WRITE.
STANDBY_STATES = frozenset({"25006", "0A000"})
# MySQL's and MariaDB's: an option prevents the statement (the text says which), the transaction is
# read-only, InnoDB is.
OPTION_PREVENTS, IN_READ_ONLY_TRANSACTION, INNODB_READ_ONLY = 1290, 1792, 1836
_READ_ONLY_OPTION = re.compile(r"read[-_]only", re.I)

# disk_full; io_error, system_error. Not 53300, which is about connections, nor 53400, a limit
# that somebody has set for a statement, a session or a role.
STORAGE_STATES = {"53100": FULL, "58030": FULL, "58000": FULL}
STORAGE_STATES |= {"53000": EXHAUSTED, "53200": EXHAUSTED}
# Where PostgreSQL's table of locks is too small for a statement (out_of_memory too): raising a
# setting helps, waiting does not.
_LOCK_FILES = frozenset({"lock.c", "predicate.c"})
_PG_TEMPORARY = "pgsql_tmp"

# MySQL's and MariaDB's: a file cannot be written (3 and 1026), the disk or the table is full, the
# engine says so (1030, if with the number of "no space left"); memory; a file for sorting.
STORAGE_NUMBERS = {3: FULL, 1021: FULL, 1026: FULL, 1030: FULL, 1114: FULL}
STORAGE_NUMBERS |= {1037: EXHAUSTED, 1041: EXHAUSTED, 1878: EXHAUSTED}
ENGINE_ERROR = 1030
_NO_SPACE = re.compile(r"\berror (?:28|122|5)\b", re.I)
# How both name the files of temporary tables and sorts.
_TEMPORARY_FILE = re.compile(r"#sql|\bMY[\w-]*=\d+|/MY\w{6}\b")

SQLITE_STORAGE = {sqlite3.SQLITE_FULL: FULL, sqlite3.SQLITE_IOERR: FULL}


def refuses_as_standby(error: BaseException, dbapi_connection: Any) -> bool:
    """Tell whether a server has refused a statement because it is read-only, and not its holder.

    A role, a session or a transaction that was made read-only is not meant, nor is what MariaDB's
    other options prevent.
    """
    orig = driver_error(error)
    if sqlstate(orig) in STANDBY_STATES:
        return _is_hot_standby(dbapi_connection) is True and not is_known_rollback(orig)
    number = error_number(orig)
    if number == OPTION_PREVENTS:
        return _READ_ONLY_OPTION.search(str(orig)) is not None
    if number == IN_READ_ONLY_TRANSACTION:
        return _is_read_only_mysql(dbapi_connection)
    return number == INNODB_READ_ONLY


def storage_refusal(error: BaseException) -> WriteRefusal | None:
    """Return how an error says that the server cannot store or keep anything; None: it does not."""
    orig = driver_error(error)
    if (found := STORAGE_STATES.get(sqlstate(orig) or "")) is not None:
        if getattr(getattr(orig, "diag", None), "source_file", None) in _LOCK_FILES:
            return None
        return EXHAUSTED if _PG_TEMPORARY in str(orig) else found
    number = error_number(orig)
    if (found := STORAGE_NUMBERS.get(number or 0)) is not None:
        if number == ENGINE_ERROR and not _NO_SPACE.search(str(orig)):
            return None
        return EXHAUSTED if _TEMPORARY_FILE.search(str(orig)) else found
    return SQLITE_STORAGE.get(sqlite_code(orig) or 0)


def is_read_only(dbapi_connection: Any, dialect: str) -> bool | None:
    """Tell whether the server of a connection is read-only as a whole; None: it does not say.

    Costs a round trip on MariaDB, and none on PostgreSQL, whose drivers are told of a change.
    """
    if dialect == "postgresql":
        return _is_hot_standby(dbapi_connection)
    if dialect in {"mysql", "mariadb"}:
        return _is_read_only_mysql(dbapi_connection)
    return None


def _is_hot_standby(dbapi_connection: Any) -> bool | None:
    # PostgreSQL 14 and later report it.
    ask = getattr(dbapi_connection, "get_parameter_status", None)
    if ask is None:
        ask = getattr(getattr(dbapi_connection, "info", None), "parameter_status", None)
    status = None if ask is None else ask("in_hot_standby")
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
