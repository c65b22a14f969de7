"""What the server's list of sessions calls a connection, as the driver has heard at its login."""

from typing import Any

__all__ = ["server_pid"]


def server_pid(dbapi_connection: Any) -> int | None:
    """Return PostgreSQL's `pid` or MariaDB's `id` of a connection; None: the driver has none.

    Costs no round trip. Only for whoever has the connection for himself: a driver may free what
    is asked here while it closes one. A pooler in between may say a number of its own.
    """
    try:
        found = _ask(dbapi_connection)
    except Exception:
        # As of one that was closed meanwhile; nobody's work is to fail for it.
        return None
    return found if isinstance(found, int) and found > 0 else None


def _ask(dbapi_connection: Any) -> object:
    kind = type(dbapi_connection).__module__.partition(".")[0]
    match kind:
        case "psycopg":
            return dbapi_connection.info.backend_pid
        case "psycopg2":
            return dbapi_connection.get_backend_pid()
        case "pymysql" | "MySQLdb":
            return dbapi_connection.thread_id()
        case "mysql":
            return dbapi_connection.connection_id
    return None
