"""What each database driver's errors and connections say; no pool knowledge.

A driver is added by an entry in `CONNECT_CLASSIFIERS` (by SQLAlchemy's name of the dialect).
"""

import enum
import functools
import re
import sqlite3
import ssl
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sqlalchemy.engine import Dialect
from sqlalchemy.exc import ArgumentError, DBAPIError

from . import postgres_messages

__all__ = [
    "ConnectFailure",
    "classify_connect_failure",
    "connect_failure",
    "error_number",
    "in_autocommit",
    "is_known_rollback",
    "is_missed_disconnect",
    "is_unknown_outcome",
    "sqlstate",
    "transaction_failed",
]


class ConnectFailure(enum.Enum):
    """Why a connection could not be opened, and so what helps."""

    SATURATED = "saturated"
    """The server has no room: wait for a connection to be closed."""
    UNREACHABLE = "unreachable"
    """The server is away, starting or stopping: wait for it."""
    CONFIGURATION = "configuration"
    """Password, role, database, file or address are wrong: only a person can help."""


SATURATED, UNREACHABLE, CONFIGURATION = ConnectFailure

# PostgreSQL's codes (errcodes.txt), whole or their beginning; pg8000 keeps them at connect.
SQLSTATES: Mapping[str, ConnectFailure] = {
    "53300": SATURATED,  # too many connections
    "08": UNREACHABLE,  # connection exception
    "57P": UNREACHABLE,  # starting, stopping, terminated by an administrator
    "28": CONFIGURATION,  # invalid authorization specification
    "3D": CONFIGURATION,  # invalid catalog name
    "22023": CONFIGURATION,  # invalid parameter value
    "42501": CONFIGURATION,  # insufficient privilege
    "42704": CONFIGURATION,  # undefined parameter
    "55000": CONFIGURATION,  # the database allows no connections
}

# The catalogues' texts, and those that no catalogue translates: what libpq's client side and
# PgBouncer say, and what stands in the server's messages untranslated.
POSTGRES_TEXTS: Mapping[ConnectFailure, tuple[str, ...]] = {
    SATURATED: (
        *postgres_messages.SATURATED,
        "no more connections allowed",
        "query_wait_timeout",
        "max clients reached",
    ),
    UNREACHABLE: postgres_messages.UNREACHABLE,
    CONFIGURATION: (
        *postgres_messages.CONFIGURATION,
        "pg_hba.conf",
        "fe_sendauth",
        "SASL authentication failed",
        "no such database: ",
        "no such user: ",
        "unsupported startup parameter",
        "invalid connection option",
        "invalid integer value",
        "invalid port number",
        "invalid sslmode value",
        "does not support SSL, but SSL was required",
        "certificate verify failed",
        "unrecognized configuration parameter",
        "invalid value for parameter",
        "cannot connect to invalid database",
    ),
}

# MySQL's and MariaDB's server and client error numbers.
MYSQL_NUMBERS: Mapping[int, ConnectFailure] = {
    **dict.fromkeys((1040, 1203, 1226), SATURATED),
    **dict.fromkeys((1053, 2002, 2003, 2005, 2006, 2013, 2055), UNREACHABLE),
    **dict.fromkeys((1044, 1045, 1049, 1115, 1129, 1130, 1193, 1231, 1251), CONFIGURATION),
    **dict.fromkeys((1698, 1820, 1862, 2019, 2054, 2059, 2061, 3118, 4151), CONFIGURATION),
}

SQLITE_CODES: Mapping[int, ConnectFailure] = {
    sqlite3.SQLITE_BUSY: SATURATED,
    sqlite3.SQLITE_LOCKED: SATURATED,
    sqlite3.SQLITE_AUTH: CONFIGURATION,
    sqlite3.SQLITE_CANTOPEN: CONFIGURATION,
    sqlite3.SQLITE_CORRUPT: CONFIGURATION,
    sqlite3.SQLITE_NOTADB: CONFIGURATION,
    sqlite3.SQLITE_PERM: CONFIGURATION,
    sqlite3.SQLITE_READONLY: CONFIGURATION,
}

# A server on Windows or an old cluster writes its own encoding; psycopg2 then raises
# UnicodeDecodeError in the place of its own error.
SERVER_ENCODINGS = ("utf-8", "cp1252", "cp1250", "cp1251", "koi8-r", "euc-jp", "euc-kr", "gbk")

KNOWN_ROLLBACK = "40"  # PostgreSQL's class "transaction rollback", but for the unknown one
# Statement completion unknown, transaction resolution unknown.
UNKNOWN_OUTCOMES = frozenset({"40003", "08007"})
KNOWN_ROLLBACK_NUMBERS = frozenset({1020, 1205, 1213})
SQLITE_LOCKS = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})

PG_IN_ERROR = 3  # libpq's PQTRANS_INERROR


def classify_connect_failure(dialect: Dialect, error: BaseException) -> ConnectFailure:
    """Tell why a connection could not be opened.

    `error` is the driver's own error, or SQLAlchemy's around it. What no table knows counts as
    `UNREACHABLE`, for that is what passes by itself; a program's error (a wrong keyword in
    `connect_args`) counts as `CONFIGURATION`.
    """
    error = _driver_error(error)
    return _classify_by_driver(dialect, error) or _classify_by_type(dialect, error)


def connect_failure(dialect: Dialect, error: DBAPIError) -> ConnectFailure | None:
    """Classify an error of a session if it is a failed connect, else return None.

    SQLAlchemy tells the two apart only by the missing statement, which errors at COMMIT share:
    those come from a server that is there, so with its number or SQLSTATE.
    """
    orig = _driver_error(error)
    if error.statement is not None:
        return None
    if failure := _classify_by_driver(dialect, orig):
        return failure
    answered = sqlstate(orig) or error_number(orig) or _sqlite_code(orig)
    return None if answered else _classify_by_type(dialect, orig)


def is_missed_disconnect(error: BaseException) -> bool:
    """Tell whether the connection is lost although SQLAlchemy does not see it.

    SQLAlchemy knows mysql-connector's sentence with a full stop only, newer versions have none.
    """
    return "MySQL Connection not available" in str(_driver_error(error))


def transaction_failed(dbapi_connection: Any) -> bool:
    """Tell whether the server has given the connection's transaction up.

    PostgreSQL does after any error: COMMIT would then roll back and report no error. True only
    for psycopg and psycopg2, the drivers that let it pass; costs no round trip.
    """
    pgconn = getattr(dbapi_connection, "pgconn", None)
    if pgconn is not None:
        return bool(pgconn.transaction_status == PG_IN_ERROR)
    status = getattr(dbapi_connection, "get_transaction_status", None)
    return status is not None and status() == PG_IN_ERROR


def in_autocommit(dialect: Dialect, dbapi_connection: Any, *, may_ask: bool = False) -> bool:
    """Tell whether the driver's connection commits each statement; SQLAlchemy can from 2.0.43 on.

    :param may_ask: whether it may cost a round trip: mysql-connector asks the server.
    """
    if dialect.driver == "mysqlconnector" and not may_ask:
        return False
    ask = getattr(dbapi_connection, "get_autocommit", None)
    return bool(ask()) if ask else getattr(dbapi_connection, "autocommit", None) is True


def is_known_rollback(error: DBAPIError) -> bool:
    """Tell whether the unit of work can be rolled back and tried again at once.

    True for a serialization failure, a deadlock and a wait for a lock that was given up: nothing
    of the transaction is stored, and another try may succeed.
    """
    orig = _driver_error(error)
    state = sqlstate(orig) or ""
    if state in UNKNOWN_OUTCOMES:
        return False
    if state.startswith(KNOWN_ROLLBACK) or error_number(orig) in KNOWN_ROLLBACK_NUMBERS:
        return True
    return _sqlite_code(orig) in SQLITE_LOCKS


def is_unknown_outcome(error: DBAPIError) -> bool:
    """Tell whether the server itself says that it does not know what became of a COMMIT."""
    return sqlstate(_driver_error(error)) in UNKNOWN_OUTCOMES


def _driver_error(error: BaseException) -> BaseException:
    orig = getattr(error, "orig", None)
    if isinstance(orig, BaseException) and orig is not error:
        return _driver_error(orig)
    return error


def sqlstate(error: BaseException) -> str | None:
    """Return the SQLSTATE that a driver's error carries."""
    for name in ("sqlstate", "pgcode"):
        if isinstance(value := getattr(error, name, None), str):
            return value
    # pg8000 hands on the fields of the server's message.
    fields = error.args[0] if error.args else None
    return fields.get("C") if isinstance(fields, dict) else None


def error_number(error: BaseException) -> int | None:
    """Return the server's number that a driver's error begins with, as MariaDB's do."""
    number = error.args[0] if error.args else None
    return number if isinstance(number, int) else None


def _sqlite_code(error: BaseException) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)
    # The low byte is the primary code, the rest refines it.
    return code & 0xFF if isinstance(code, int) else None


def _classify_postgres(error: BaseException) -> ConnectFailure | None:
    state = sqlstate(error) or ""
    for length in (5, 3, 2):
        if failure := SQLSTATES.get(state[:length]):
            return failure
    for text in _texts(error):
        flat = " ".join(text.split())
        for failure, pattern in _postgres_patterns().items():
            if pattern.search(flat):
                return failure
    return None


def _texts(error: BaseException) -> Iterator[str]:
    yield str(error)
    raw = getattr(getattr(error, "pgconn", None), "error_message", None)
    if isinstance(error, UnicodeDecodeError):
        raw = error.object
    if isinstance(raw, bytes):
        for encoding in SERVER_ENCODINGS:
            yield raw.decode(encoding, errors="replace")


@functools.cache
def _postgres_patterns() -> Mapping[ConnectFailure, re.Pattern[str]]:
    # In this order: of several addresses one may be full or starting while another refuses.
    return {
        failure: re.compile("|".join(map(_as_pattern, texts)))
        for failure, texts in POSTGRES_TEXTS.items()
    }


def _as_pattern(text: str) -> str:
    # Quotation marks are left out: a server whose encoding has none writes others.
    parts = (part.strip(" \"'«»") for part in text.split("%s"))
    return ".{1,80}?".join(re.escape(part) for part in parts if part)


def _classify_mysql(error: BaseException) -> ConnectFailure | None:
    if isinstance(error, RuntimeError):
        return CONFIGURATION  # PyMySQL misses the package `cryptography` for this password
    number = getattr(error, "errno", None) or error_number(error)
    return MYSQL_NUMBERS.get(number) if isinstance(number, int) else None


def _classify_sqlite(error: BaseException) -> ConnectFailure | None:
    code = _sqlite_code(error)
    return None if code is None else SQLITE_CODES.get(code)


CONNECT_CLASSIFIERS: Mapping[str, Callable[[BaseException], ConnectFailure | None]] = {
    "postgresql": _classify_postgres,
    "mysql": _classify_mysql,
    "mariadb": _classify_mysql,
    "sqlite": _classify_sqlite,
}


def _classify_by_driver(dialect: Dialect, error: BaseException) -> ConnectFailure | None:
    classify = CONNECT_CLASSIFIERS.get(dialect.name)
    return None if classify is None else classify(error)


def _classify_by_type(dialect: Dialect, error: BaseException) -> ConnectFailure:
    if isinstance(error, ssl.SSLCertVerificationError):
        return CONFIGURATION
    if isinstance(error, (UnicodeDecodeError, OSError)):
        return UNREACHABLE
    module = dialect.loaded_dbapi
    wrong = (module.ProgrammingError, module.NotSupportedError, ArgumentError)
    program = (AttributeError, ImportError, LookupError, TypeError, ValueError)
    return CONFIGURATION if isinstance(error, wrong + program) else UNREACHABLE
