"""What hears of each error of a driver before anybody can put another one in its place.

A listener for SQLAlchemy's `handle_error` may raise, as in an app that wants its driver's errors,
and then no other one is asked. Before them all SQLAlchemy asks the dialect whether the connection
is lost.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakMethod

from sqlalchemy import Engine
from sqlalchemy.engine import Dialect
from sqlalchemy.pool import PoolProxiedConnection

from ..drivers.transactions import is_missed_disconnect
from ..pool.managed import is_handed_out

__all__ = ["Heard", "hear_errors"]


@dataclass(frozen=True)
class Heard:
    """What a driver has said on a connection that is in use.

    - `lost`: whether the connection is.
    - `of_statement`: whether a statement failed; BEGIN, COMMIT and ROLLBACK are none.
    """

    error: BaseException
    connection: PoolProxiedConnection
    dialect: Dialect
    lost: bool
    of_statement: bool


def hear_errors(engine: Engine, *hearers: Callable[[Heard], bool | None]) -> None:
    """Call each of `hearers` with what a driver says on the connections of `engine`.

    If one returns true, SQLAlchemy gives the connection up, and the others of its pool.
    """
    dialect = engine.dialect
    # Weakly: an engine that is forgotten goes without the garbage collector.
    ask: Any = WeakMethod(dialect.is_disconnect)

    def is_disconnect(error: Exception, connection: Any, cursor: Any) -> bool:
        asked = ask()
        lost: bool = asked(error, connection, cursor) or is_missed_disconnect(error)
        # An opening or a ping has sent nothing of a caller's, and has none of his notes: to look
        # for them would raise in the place of the error, and the checkout with it.
        if is_handed_out(connection):
            heard = Heard(error, connection, asked.__self__, lost, cursor is not None)
            for hear in hearers:
                lost = hear(heard) or lost
        return lost

    # Not by `handle_error`: see above.
    dialect.is_disconnect = is_disconnect  # type: ignore[method-assign, assignment]
