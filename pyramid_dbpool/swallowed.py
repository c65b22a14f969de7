"""Which statement's error was swallowed, when the server has given a transaction up."""

from typing import Any

from sqlalchemy import Connection, Engine, ExceptionContext, event

from .drivers import sqlstate, transaction_failed
from .settings.mask import mask_text

__all__ = ["note_failures", "swallowed"]

# A key of Connection.info: what the error of the transaction in hand said. The text and not the
# error, whose traceback would keep a forgotten session, and so its connection, alive for ever.
_FAILURE = "pyramid_dbpool.failure"

# Data exceptions, and what functions raise of their own: their texts quote values.
_QUOTING = ("22", "P0")


def note_failures(engine: Engine) -> None:
    """Keep what the statement said that made a transaction of `engine` fail."""
    event.listen(engine, "handle_error", _note)
    event.listen(engine, "begin", _forget)
    event.listen(engine, "begin_twophase", _forget)
    event.listen(engine, "rollback_savepoint", _forget)


def swallowed(connection: Connection) -> str:
    """Return the words for the statement that made the transaction fail and for its error."""
    said = connection.info.get(_FAILURE)
    return "A statement of this transaction failed" + (f" ({said})" if said else "")


def _note(context: ExceptionContext) -> None:
    connection = context.connection
    if connection is None or connection.invalidated or context.is_disconnect:
        return
    # The first one: those after it only say that the transaction is aborted.
    if _FAILURE not in connection.info and transaction_failed(
        connection.connection.dbapi_connection
    ):
        connection.info[_FAILURE] = _text(context.original_exception)


def _forget(connection: Connection, *_: Any) -> None:
    if not connection.invalidated:
        connection.info.pop(_FAILURE, None)


def _text(error: BaseException) -> str:
    name = type(error).__name__
    if (sqlstate(error) or "").startswith(_QUOTING):
        return name
    # The lines after the first show the statement and the row.
    return f"{name}: {mask_text(str(error).partition(chr(10))[0])}"
