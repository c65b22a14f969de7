"""Refuses a COMMIT that would not store what its author believes to be stored."""

from sqlalchemy import Connection, Engine, ExceptionContext, event
from sqlalchemy import exc as sa_exc

from ..drivers.sockets import has_ended
from ..drivers.transactions import is_missed_disconnect
from . import stored
from .swallowed import refuse_failed_transactions

__all__ = ["guard"]


def guard(engine: Engine) -> None:
    """Have `engine` commit only what is whole, on a connection that is there."""
    event.listen(engine, "commit", _refuse_lost_connection)
    event.listen(engine, "handle_error", _see_lost_connection)
    refuse_failed_transactions(engine)


def _see_lost_connection(context: ExceptionContext) -> None:
    # Else the pool keeps the connection, and its rollback looks like a lost COMMIT.
    if is_missed_disconnect(context.original_exception):
        context.is_disconnect = True


def _refuse_lost_connection(connection: Connection) -> None:
    # Else COMMIT is sent into the void, and nobody knows that it never arrived; or, where the
    # first error was swallowed, SQLAlchemy's own error here does not say that it was a lost one.
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
