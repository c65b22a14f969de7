"""Connections that the server ends because their holder lets them wait, and by which setting."""

from typing import Any

from sqlalchemy import Engine, ExceptionContext, event
from sqlalchemy.exc import StatementError
from sqlalchemy.pool import ConnectionPoolEntry

from ..drivers.driver_errors import sqlstate
from ..drivers.last_words import farewell_state, keep_farewell
from ..drivers.transactions import IDLE_IN_TRANSACTION, WAIT, striking_timeout
from ..pool.managed import is_handed_out
from ..settings import PoolSettings
from .hearing import Heard
from .traffic import Traffic

__all__ = ["Overstays"]


class Overstays:
    """Tells connections that the server has ended for that from those that are lost."""

    def __init__(self, pool: PoolSettings) -> None:
        self._seconds = pool.options.idle_in_transaction_timeout
        self._key = pool.source("idle_in_transaction_timeout")

    def setting(self, heard: Heard) -> str | None:
        """Return how to cite the setting that has ended a connection; None: it is lost."""
        struck = striking_timeout(heard.error, farewell_state(heard.connection.info))
        own = None if self._seconds is None else f"{self._key} = {self._seconds:g} s"
        if struck is None and sqlstate(heard.error) is None and self._seconds is not None:
            # psycopg2 throws away what the server has said: without a guess by the time that has
            # passed, a view that is slow would run again, and be as slow.
            idle = _idle_seconds(heard) or 0.0
            return f"probably {own}" if idle >= self._seconds else None
        if struck == WAIT and _idle_seconds(heard) is None:
            # In the pool, where nobody had looked before it was handed out.
            return None
        if struck == IDLE_IN_TRANSACTION and own is not None:
            return own
        return struck and f"the server's {struck}"

    def explain(self, error: StatementError, heard: Heard) -> None:
        """Have an error say which setting has ended its connection, if one has."""
        if (cited := self.setting(heard)) is not None:
            error.add_detail(
                f"{cited}: the server has ended the connection, whose holder left it waiting"
                " inside a transaction"
            )

    def explain_errors(self, engine: Engine) -> None:
        """Have the errors of an engine say so."""

        def keep(dbapi_connection: Any, record: ConnectionPoolEntry) -> None:
            keep_farewell(dbapi_connection, record.info)

        def explain(context: ExceptionContext) -> None:
            error, connection = context.sqlalchemy_exception, context.connection
            if error is None or not context.is_disconnect:
                return
            if connection is None or connection.invalidated:
                return
            said, fairy = context.original_exception, connection.connection
            # What SQLAlchemy asks of the first connection of all is nobody's work.
            if is_handed_out(fairy):
                of_statement = context.statement is not None
                self.explain(error, Heard(said, fairy, context.dialect, True, of_statement))

        event.listen(engine, "connect", keep)
        event.listen(engine, "handle_error", explain)


def _idle_seconds(heard: Heard) -> float | None:
    traffic = Traffic.on(heard.connection)
    return None if traffic is None else traffic.idle_seconds(in_statement=heard.of_statement)
