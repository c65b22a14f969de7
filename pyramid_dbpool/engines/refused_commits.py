"""COMMITs that are refused, because they would not store what their author believes to be stored.

Where the server has given the transaction up and the error was swallowed, or has rolled it back
by itself; and where the connection is lost already.
"""

from typing import Any

from sqlalchemy import Connection, Engine, ExceptionContext, event
from sqlalchemy import exc as sa_exc

from ..drivers.driver_errors import error_number, sqlstate
from ..drivers.sockets import has_ended
from ..drivers.transactions import in_autocommit, is_missed_disconnect, transaction_failed
from ..errors import TransactionFailed
from ..secrets import mask_text
from . import stored

__all__ = ["has_failed", "refuse_false_commits"]

# A key of Connection.info: what the error of the transaction in hand said. The text and not the
# error, whose traceback would keep a forgotten session, and so its connection, alive for ever.
_FAILURE = "pyramid_dbpool.failure"
# Another one: that the server has rolled it back, with all of its savepoints.
_ENDED = "pyramid_dbpool.ended"

# With these InnoDB rolls the whole transaction back: a row that others have changed since the
# snapshot (MariaDB, innodb_snapshot_isolation), a full table of locks, a deadlock.
_ENDING = frozenset({1020, 1206, 1213})

# Data exceptions, and what functions raise of their own: their texts quote values.
_QUOTING = ("22", "P0")


def refuse_false_commits(engine: Engine) -> None:
    """Have `engine` commit only what is whole, on a connection that is there."""
    event.listen(engine, "commit", _refuse_lost_connection)
    event.listen(engine, "handle_error", _see_lost_connection)
    event.listen(engine, "handle_error", _note_failure)
    event.listen(engine, "begin", _forget_failure)
    event.listen(engine, "begin_twophase", _forget_failure)
    event.listen(engine, "rollback_savepoint", _forget_failure_in_savepoint)
    event.listen(engine, "commit", _refuse_failed_transaction)
    event.listen(engine, "prepare_twophase", _refuse_prepare)


def has_failed(connection: Connection) -> bool:
    """Tell whether the server has given the transaction up, or has ended it already."""
    ended = connection.info.get(_ENDED, False)
    return ended or transaction_failed(connection.connection.dbapi_connection)


def _see_lost_connection(context: ExceptionContext) -> None:
    # The pool would keep the connection, and its rollback would look like a lost COMMIT.
    if is_missed_disconnect(context.original_exception):
        context.is_disconnect = True


def _refuse_lost_connection(connection: Connection) -> None:
    # COMMIT would be sent into the void, and nobody know that it never arrived; or, where the
    # first error was swallowed, SQLAlchemy's own error here would not say that it was a lost one.
    if connection.invalidated or has_ended(connection.connection.dbapi_connection):
        # With a statement: without one it would be taken for an answer that was lost.
        lost = sa_exc.OperationalError(
            "COMMIT",
            None,
            connection.dialect.loaded_dbapi.OperationalError(
                "the server closed the connection before COMMIT was sent"
            ),
            connection_invalidated=True,
        )
        connection.invalidate(lost)
        raise stored.judged(lost)


def _refuse_failed_transaction(connection: Connection) -> None:
    # PostgreSQL answers such a COMMIT with ROLLBACK and no error, and MariaDB commits what
    # came after a deadlock: the work would be lost while its author believes that it is stored.
    if has_failed(connection):
        error = _error(connection)
        # As after any failed COMMIT, the connection has to be out of the
        # transaction; SQLAlchemy takes it for ended and sends nothing more.
        connection.connection.rollback()
        raise error


def _refuse_prepare(connection: Connection, _xid: Any) -> None:
    # PostgreSQL would forget it without an error, and the other databases commit their parts.
    if has_failed(connection):
        raise _error(connection)


def _error(connection: Connection) -> TransactionFailed:
    said = connection.info.get(_FAILURE)
    failure = "A statement of this transaction failed" + (f" ({said})" if said else "")
    return TransactionFailed(
        f"{failure} and its error was swallowed, so the server would roll everything back,"
        " or has done so. Nothing was committed: let the error propagate, or (no remedy for a"
        " deadlock) run the statement that may fail inside session.begin_nested()."
    )


def _note_failure(context: ExceptionContext) -> None:
    connection = context.connection
    if connection is None or connection.invalidated or context.is_disconnect:
        return
    if _ends_transaction(connection, context.original_exception):
        connection.info[_ENDED] = True
    # The first one: those after it only say that the transaction is aborted.
    if _FAILURE not in connection.info and has_failed(connection):
        connection.info[_FAILURE] = _text(context.original_exception)


def _ends_transaction(connection: Connection, error: BaseException) -> bool:
    # The server then begins another one by itself.
    dialect = connection.dialect
    if dialect.name not in {"mysql", "mariadb"} or error_number(error) not in _ENDING:
        return False
    return not in_autocommit(dialect, connection.connection.dbapi_connection, may_ask=True)


def _text(error: BaseException) -> str:
    name = type(error).__name__
    if (sqlstate(error) or "").startswith(_QUOTING):
        return name
    # The lines after the first show the statement and the row.
    return f"{name}: {mask_text(str(error).partition(chr(10))[0])}"


def _forget_failure(connection: Connection, *_: Any) -> None:
    if not connection.invalidated:
        connection.info.pop(_FAILURE, None)
        connection.info.pop(_ENDED, None)


def _forget_failure_in_savepoint(connection: Connection, *_: Any) -> None:
    if not connection.invalidated and _ENDED not in connection.info:
        _forget_failure(connection)
