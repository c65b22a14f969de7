"""What the server has said last on a connection that it has ended."""

from typing import Any

from .transactions import is_missed_disconnect

__all__ = ["last_words"]


def last_words(dbapi_connection: Any) -> Exception | None:
    """Return the error with which the server has ended a connection, if its driver tells.

    Only for a connection whose other side is gone: there nothing is waited for.
    """
    farewell = None
    try:
        # Before the statement, at which psycopg2 throws away what the server has said.
        farewell = _notice(dbapi_connection)
        dbapi_connection.cursor().execute("SELECT 1")
    except Exception as error:
        if is_missed_disconnect(error):
            return None
        # psycopg2's connections have the classes of its errors.
        return dbapi_connection.OperationalError(farewell) if farewell else error
    return None


def _notice(dbapi_connection: Any) -> str | None:
    """Have psycopg2 read what has come; return the last of it."""
    poll = getattr(dbapi_connection, "poll", None)
    if poll is None:
        return None
    del dbapi_connection.notices[:]
    poll()
    return "".join(dbapi_connection.notices[-1:]).strip() or None
