"""What drivers' errors and connections say of the transaction in hand."""

import sqlite3
from collections.abc import Callable
from typing import Any

from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError

from .driver_errors import driver_error, error_number, sqlite_code, sqlstate

__all__ = [
    "IDLE_IN_TRANSACTION",
    "WAIT",
    "at_rest_by",
    "in_autocommit",
    "in_transaction",
    "is_known_rollback",
    "is_lock_timeout",
    "is_lost",
    "is_missed_disconnect",
    "is_overstay",
    "is_unknown_outcome",
    "striking_timeout",
    "transaction_failed",
]

KNOWN_ROLLBACK = "40"  # PostgreSQL's class "transaction rollback", but for the unknown one
# Statement completion unknown, transaction resolution unknown.
UNKNOWN_OUTCOMES = frozenset({"40003", "08007"})
KNOWN_ROLLBACK_NUMBERS = frozenset({1020, 1205, 1213})
SQLITE_LOCKS = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
# PostgreSQL's lock_not_available (lock_timeout, NOWAIT), and InnoDB's word for the same.
LOCK_NOT_AVAILABLE, LOCK_WAIT_TIMEOUT = "55P03", 1205
# PostgreSQL's function that finds a prepared statement to be older than its table: "cached plan
# must not change result type". The text is translated, and its SQLSTATE stands for much else.
STALE_PLAN, STALE_PLAN_FUNCTION = "0A000", "RevalidateCachedQuery"

# With these the server ends a connection whose holder takes too long, and names the setting.
# MariaDB does so without a word.
IDLE_IN_TRANSACTION, WAIT = "idle_in_transaction_session_timeout", "wait_timeout"
STRIKING_TIMEOUTS = {"25P03": IDLE_IN_TRANSACTION, "25P04": "transaction_timeout"}
STRIKING_TIMEOUT_NUMBERS = {4031: WAIT}  # MySQL

# MariaDB's last words to a statement, if there is time for some: ER_SERVER_SHUTDOWN and
# ER_CONNECTION_KILLED (`killed_errno` in its sources).
ENDED_NUMBERS = frozenset({1053, 1927})

# libpq's PQTRANS_IDLE, PQTRANS_INERROR, PQTRANS_UNKNOWN.
PG_IDLE, PG_IN_ERROR, PG_UNKNOWN = 0, 3, 4
# What psycopg's `rollback` asks before it sends anything, three of them private; in a release
# without one of them every `rollback` is made.
_PSYCOPG_ASKS = ("pgconn", "_pipeline", "_tpc", "_num_transactions")
SERVER_STATUS_IN_TRANS = 1  # MySQL's


def is_lost(error: DBAPIError) -> bool:
    """Tell whether an error says that its connection is lost, on engines of others too."""
    return error.connection_invalidated or is_missed_disconnect(error)


def is_overstay(error: BaseException) -> bool:
    """Tell whether PostgreSQL has ended a transaction that took too long, and its connection."""
    return sqlstate(driver_error(error)) in STRIKING_TIMEOUTS


def is_missed_disconnect(error: BaseException) -> bool:
    """Tell whether the connection is lost although SQLAlchemy does not see it.

    SQLAlchemy knows mysql-connector's sentence with a full stop only, newer versions have none.
    """
    said = driver_error(error)
    return error_number(said) in ENDED_NUMBERS or "MySQL Connection not available" in str(said)


def transaction_failed(dbapi_connection: Any) -> bool:
    """Tell whether the server has given the connection's transaction up.

    PostgreSQL does after any error: COMMIT would then roll back and report no error. True only
    for psycopg and psycopg2, the drivers that let it pass; costs no round trip.
    """
    return _pg_status(dbapi_connection) == PG_IN_ERROR


def in_transaction(dbapi_connection: Any) -> bool | None:
    """Tell whether a transaction is open on the driver's connection; None: it does not show.

    Costs no round trip. On MariaDB and SQLite it is certain only after a statement that writes:
    what a SELECT has begun the servers, or the drivers, do not tell. mysqlclient shows nothing.
    """
    status = _pg_status(dbapi_connection)
    if status is not None:
        return None if status == PG_UNKNOWN else status != PG_IDLE
    flags = getattr(dbapi_connection, "server_status", None)
    if flags is not None:
        return bool(flags & SERVER_STATUS_IN_TRANS)
    shown: bool | None = getattr(dbapi_connection, "in_transaction", None)
    return shown


def at_rest_by(dbapi_connection: Any) -> Callable[[], bool] | None:
    """Return what tells that a `rollback` would do nothing, by what the driver's own goes by.

    None but for psycopg, whose `rollback` of nothing costs a quarter of a checkout and return.
    """
    if not all(hasattr(dbapi_connection, name) for name in _PSYCOPG_ASKS):
        return None
    pgconn = dbapi_connection.pgconn

    def is_at_rest() -> bool:
        # In a pipeline the server's word is out of date; in a transaction of two phases, and in a
        # block, `rollback` is an error.
        return (
            pgconn.transaction_status == PG_IDLE
            and dbapi_connection._pipeline is None
            and dbapi_connection._tpc is None
            and dbapi_connection._num_transactions == 0
        )

    return is_at_rest


def _pg_status(dbapi_connection: Any) -> int | None:
    pgconn = getattr(dbapi_connection, "pgconn", None)
    if pgconn is not None:
        status: int = pgconn.transaction_status
        return status
    ask = getattr(dbapi_connection, "get_transaction_status", None)
    return None if ask is None else ask()


def in_autocommit(dialect: Dialect, dbapi_connection: Any, *, may_ask: bool = False) -> bool:
    """Tell whether the driver's connection commits each statement.

    :param may_ask: whether it may cost a round trip: mysql-connector asks the server.
    """
    if dialect.driver == "mysqlconnector" and not may_ask:
        return False
    ask = getattr(dbapi_connection, "get_autocommit", None)
    return bool(ask()) if ask else getattr(dbapi_connection, "autocommit", None) is True


def is_known_rollback(error: BaseException) -> bool:
    """Tell whether the unit of work can be rolled back and tried again at once.

    True for a serialization failure, a deadlock, a wait for a lock that was given up, and a
    prepared statement whose table has changed: nothing of the transaction is stored, and another
    try may succeed.
    """
    orig = driver_error(error)
    state = sqlstate(orig) or ""
    if state in UNKNOWN_OUTCOMES:
        return False
    if state.startswith(KNOWN_ROLLBACK) or error_number(orig) in KNOWN_ROLLBACK_NUMBERS:
        return True
    return is_lock_timeout(error) or _is_stale_plan(orig, state)


def is_lock_timeout(error: BaseException) -> bool:
    """Tell whether a statement has not got its lock in time."""
    orig = driver_error(error)
    if sqlstate(orig) == LOCK_NOT_AVAILABLE or error_number(orig) == LOCK_WAIT_TIMEOUT:
        return True
    return sqlite_code(orig) in SQLITE_LOCKS


def _is_stale_plan(orig: BaseException, state: str) -> bool:
    diagnosis = getattr(orig, "diag", None)
    return (
        state == STALE_PLAN and getattr(diagnosis, "source_function", None) == STALE_PLAN_FUNCTION
    )


def striking_timeout(error: BaseException, farewell: str | None = None) -> str | None:
    """Return the server's setting by which it has ended a connection that was kept waiting.

    :param farewell: the SQLSTATE that came before the error, if one did.
    """
    orig = driver_error(error)
    by_state = STRIKING_TIMEOUTS.get(sqlstate(orig) or farewell or "")
    return by_state or STRIKING_TIMEOUT_NUMBERS.get(error_number(orig) or 0)


def is_unknown_outcome(error: BaseException) -> bool:
    """Tell whether the server itself says that it does not know what became of a COMMIT."""
    return sqlstate(driver_error(error)) in UNKNOWN_OUTCOMES
