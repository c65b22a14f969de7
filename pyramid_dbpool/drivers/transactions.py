"""What drivers' errors and connections say of the transaction in hand."""

import sqlite3
from typing import Any

from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError

from .driver_errors import driver_error, error_number, sqlite_code, sqlstate

__all__ = [
    "in_autocommit",
    "is_known_rollback",
    "is_lost",
    "is_missed_disconnect",
    "is_unknown_outcome",
    "transaction_failed",
]

KNOWN_ROLLBACK = "40"  # PostgreSQL's class "transaction rollback", but for the unknown one
# Statement completion unknown, transaction resolution unknown.
UNKNOWN_OUTCOMES = frozenset({"40003", "08007"})
KNOWN_ROLLBACK_NUMBERS = frozenset({1020, 1205, 1213})
SQLITE_LOCKS = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})

PG_IN_ERROR = 3  # libpq's PQTRANS_INERROR


def is_lost(error: DBAPIError) -> bool:
    """Tell whether an error says that its connection is lost, on engines of others too."""
    return error.connection_invalidated or is_missed_disconnect(error)


def is_missed_disconnect(error: BaseException) -> bool:
    """Tell whether the connection is lost although SQLAlchemy does not see it.

    SQLAlchemy knows mysql-connector's sentence with a full stop only, newer versions have none.
    """
    return "MySQL Connection not available" in str(driver_error(error))


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
    """Tell whether the driver's connection commits each statement.

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
    orig = driver_error(error)
    state = sqlstate(orig) or ""
    if state in UNKNOWN_OUTCOMES:
        return False
    if state.startswith(KNOWN_ROLLBACK) or error_number(orig) in KNOWN_ROLLBACK_NUMBERS:
        return True
    return sqlite_code(orig) in SQLITE_LOCKS


def is_unknown_outcome(error: DBAPIError) -> bool:
    """Tell whether the server itself says that it does not know what became of a COMMIT."""
    return sqlstate(driver_error(error)) in UNKNOWN_OUTCOMES
