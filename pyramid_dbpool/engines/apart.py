"""A connection beside an engine's pool, to look at the server."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine

from ..pool.managed import ManagedPool

__all__ = ["opened_apart"]


@contextmanager
def opened_apart(engine: Engine) -> Iterator[Any]:
    """Open a connection of the driver's as `engine` does, and close it.

    Takes no slot, waits in no line, and leaves nothing behind that a fork could copy. Raises
    whatever the driver, a hook or a creator does.
    """
    if isinstance(engine.pool, ManagedPool):
        with engine.pool.opened_apart() as dbapi_connection:
            yield dbapi_connection
        return
    # Another pool of the same class, with the same listeners.
    pool = engine.pool.recreate()
    try:
        connection = pool.connect()
        try:
            yield connection.dbapi_connection
        finally:
            connection.close()
    finally:
        pool.dispose()
