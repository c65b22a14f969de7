"""What the server has said last on a connection that it has ended."""

from typing import Any

from .transactions import is_missed_disconnect

__all__ = ["farewell_state", "keep_farewell", "last_words"]

# A key of Connection.info: the SQLSTATE with which the server has ended the connection.
_FAREWELL = "pyramid_dbpool.farewell"


def keep_farewell(dbapi_connection: Any, info: dict[Any, Any]) -> None:
    """Have psycopg's connection note in `info` with what SQLSTATE the server ends it.

    If that arrives together with the result before it, libpq takes it for a notice, and the error
    of the next statement says no more than that the connection is gone.
    """

    def note(diagnosis: Any) -> None:
        if diagnosis.severity_nonlocalized == "FATAL":
            info[_FAREWELL] = diagnosis.sqlstate

    if hasattr(dbapi_connection, "add_notice_handler"):
        dbapi_connection.add_notice_handler(note)


def farewell_state(info: dict[Any, Any]) -> str | None:
    """Return the SQLSTATE that `keep_farewell` has noted; None: the server has said nothing."""
    return info.get(_FAREWELL)


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
