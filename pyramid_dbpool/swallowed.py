"""Which statement's error was swallowed, when the server has given a transaction up."""

from typing import Any

from sqlalchemy import Connection, Engine, ExceptionContext, event

from .drivers import error_number, sqlstate, transaction_failed
from .settings.mask import mask_text

__all__ = ["has_failed", "note_failures", "swallowed"]

# A key of Connection.info: what the error of the transaction in hand said. The text and not the
# error, whose traceback would keep a forgotten session, and so its connection, alive for ever.
_FAILURE = "pyramid_dbpool.failure"
# Another one: that the server has rolled it back, with all of its savepoints.
_ENDED = "pyramid_dbpool.ended"

# InnoDB's number for a deadlock.
_DEADLOCK = 1213

# Data exceptions, and what functions raise of their own: their texts quote values.
_QUOTING = ("22", "P0")


def note_failures(engine: Engine) -> None:
    """Keep what the statement said that made a transaction of `engine` fail."""
    event.listen(engine, "handle_error", _note)
    event.listen(engine, "begin", _forget)
    event.listen(engine, "rollback_savepoint", _forget_savepoint)


def has_failed(connection: Connection) -> bool:
    """Tell whether the server has given the transaction up, or has ended it already."""
    ended = connection.info.get(_ENDED, False)
    return ended or transaction_failed(connection.connection.dbapi_connection)


def swallowed(connection: Connection) -> str:
    """Return the words for the statement that made the transaction fail and for its error."""
    said = connection.info.get(_FAILURE)
    return "A statement of this transaction failed" + (f" ({said})" if said else "")


def _note(context: ExceptionContext) -> None:
    connection = context.connection
    if connection is None or connection.invalidated or context.is_disconnect:
        return
    if _ends_transaction(connection, context.original_exception):
        connection.info[_ENDED] = True
    # The first one: those after it only say that the transaction is aborted.
    if _FAILURE not in connection.info and has_failed(connection):
        connection.info[_FAILURE] = _text(context.original_exception)


def _ends_transaction(connection: Connection, error: BaseException) -> bool:
    # InnoDB rolls the whole transaction back at a deadlock, and begins another one by itself.
    dialect = connection.dialect
    if dialect.name not in {"mysql", "mariadb"} or error_number(error) != _DEADLOCK:
        return False
    dbapi: Any = connection.connection.dbapi_connection
    return not dialect.detect_autocommit_setting(dbapi)


def _forget(connection: Connection, *_: Any) -> None:
    if not connection.invalidated:
        connection.info.pop(_FAILURE, None)
        connection.info.pop(_ENDED, None)


def _forget_savepoint(connection: Connection, *_: Any) -> None:
    if not connection.invalidated and _ENDED not in connection.info:
        _forget(connection)


def _text(error: BaseException) -> str:
    name = type(error).__name__
    if (sqlstate(error) or "").startswith(_QUOTING):
        return name
    # The lines after the first show the statement and the row.
    return f"{name}: {mask_text(str(error).partition(chr(10))[0])}"
