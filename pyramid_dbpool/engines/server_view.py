"""What a server says of itself to one who has connected: what it is, and whom it lets in.

Each question is put by itself: what may not be asked, or what a server of this kind does not know,
is named as missing, and the rest is told all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, text

from ..drivers.driver_errors import one_line
from ..secrets import mask_text

__all__ = ["Limit", "ServerView", "view_server"]

# Drivers that do not say their version.
_DISTRIBUTIONS = {"MySQLdb": "mysqlclient"}
# PostgreSQL: who has no right to look at a session sees no type of it either.
_CLIENTS = "(backend_type = 'client backend' OR backend_type IS NULL AND datid IS NOT NULL)"


@dataclass(frozen=True)
class Limit:
    """How many connections are let in, and how many there are now, beside the one that asks.

    - `name`: what it is called where it is set, such as `max_connections`.
    - `allowed`: for such as this one, what is reserved for others taken off; None: no limit.
    - `reserved`: what was taken off.
    - `connected`: None if that may not be asked.
    """

    name: str
    allowed: int | None
    reserved: int = 0
    connected: int | None = None


@dataclass
class ServerView:
    """What a server says of itself.

    - `server`, `driver`, `sqlalchemy`: names with their versions.
    - `tls`: the protocol, "off", or None if nobody can tell.
    - `pooler`: whether something like PgBouncer stands between.
    - `all`, `role`, `database`: the limits on all connections, on this role's or user's, and on
      this database's; None where there is no such thing.
    - `missing`: what could not be asked, and why.
    """

    server: str
    driver: str
    sqlalchemy: str = f"SQLAlchemy {sqlalchemy.__version__}"
    tls: str | None = None
    pooler: bool = False
    all: Limit | None = None
    role: Limit | None = None
    database: Limit | None = None
    missing: list[str] = field(default_factory=list)


def view_server(connection: Connection) -> ServerView:
    """Ask a server what it is, and how many connections it allows."""
    dialect = connection.dialect
    version = ".".join(map(str, getattr(dialect, "server_version_info", None) or ()))
    view = ServerView(f"{dialect.name} {version}".strip(), _driver(dialect.dbapi))
    ask = _ASKERS.get(dialect.name)
    if ask is not None:
        ask(_Questions(connection, view), view)
    return view


def _driver(dbapi: Any) -> str:
    name = str(getattr(dbapi, "__name__", "the driver")).removesuffix(".dbapi2")
    found = getattr(dbapi, "__version__", None)
    if found is None and name in _DISTRIBUTIONS:
        found = metadata.version(_DISTRIBUTIONS[name])
    # psycopg2 adds what it was built with.
    return f"{name} {str(found or '').partition(' ')[0]}".strip()


class _Questions:
    """Puts questions to a server, each in a transaction of its own."""

    def __init__(self, connection: Connection, view: ServerView) -> None:
        self.connection = connection
        self.driver_connection = connection.connection.dbapi_connection
        self._view = view

    def row(self, what: str, sql: str) -> Sequence[Any] | None:
        """Return the first row of an answer; None, and noted as missing, if there is none."""
        try:
            row = self.connection.execute(text(sql)).first()
            found = None if row is None else tuple(row)
        except Exception as error:
            # A right that is missing, or a server that only looks like this kind.
            said = one_line(mask_text(str(getattr(error, "orig", None) or error)))
            self._view.missing.append(f"{what} ({said})")
            found = None
        finally:
            # PostgreSQL answers nothing more in a transaction that has failed.
            self.connection.rollback()
        return found


def _view_postgresql(questions: _Questions, view: ServerView) -> None:
    row = questions.row("the version", "SHOW server_version")
    if row is not None:
        view.server = f"PostgreSQL {str(row[0]).partition(' ')[0]}"
    view.pooler = _has_pooler(questions)
    view.tls = _tls_of_postgresql(questions, view.pooler)
    now = questions.row(
        "who is connected",
        "SELECT count(*), count(*) FILTER (WHERE usename = session_user),"
        " count(*) FILTER (WHERE datname = current_database()) FROM pg_stat_activity"
        f" WHERE pid <> pg_backend_pid() AND {_CLIENTS}",
    )
    connected = (None, None, None) if now is None else tuple(now)
    role = questions.row(
        "the limit of the role",
        "SELECT rolconnlimit, rolsuper, rolname FROM pg_roles WHERE rolname = session_user",
    )
    view.all = _all_of_postgresql(questions, connected[0], superuser=bool(role and role[1]))
    if role is not None:
        # A superuser's own limit is not looked at.
        limit = None if role[0] < 0 or role[1] else role[0]
        view.role = Limit(f"role {role[2]!r}", limit, connected=connected[1])
    database = questions.row(
        "the limit of the database",
        "SELECT datconnlimit, datname FROM pg_database WHERE datname = current_database()",
    )
    if database is not None:
        limit = None if database[0] < 0 or (role and role[1]) else database[0]
        view.database = Limit(f"database {database[1]!r}", limit, connected=connected[2])


def _all_of_postgresql(
    questions: _Questions, connected: int | None, *, superuser: bool
) -> Limit | None:
    row = questions.row(
        "max_connections",
        "SELECT current_setting('max_connections'),"
        " current_setting('superuser_reserved_connections'),"
        # From PostgreSQL 16 on.
        " coalesce(current_setting('reserved_connections', true), '0')",
    )
    if row is None:
        return None
    most, for_superusers, for_some = map(int, row)
    # Who has the role pg_use_reserved_connections may have some of them; an app does not.
    reserved = 0 if superuser else for_superusers + for_some
    return Limit("max_connections", most - reserved, reserved, connected)


def _has_pooler(questions: _Questions) -> bool:
    """Tell whether another process answers than the one whose number the driver was told.

    PgBouncer and its kind make a number up.
    """
    told = getattr(getattr(questions.driver_connection, "info", None), "backend_pid", None)
    row = questions.row("the server's process", "SELECT pg_backend_pid()")
    return told is not None and row is not None and told != row[0]


def _tls_of_postgresql(questions: _Questions, pooler: bool) -> str | None:
    if not pooler:
        sql = "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        row = questions.row("TLS", sql)
        if row is not None:
            return str(row[1]) if row[0] else "off"
    # As far as the pooler: it has a connection of its own to the server.
    driver = questions.driver_connection
    places: tuple[Any, ...] = (getattr(driver, "pgconn", None), getattr(driver, "info", None))
    used = next((p.ssl_in_use for p in places if hasattr(p, "ssl_in_use")), None)
    return None if used is None else ("on" if used else "off")


def _view_mysql(questions: _Questions, view: ServerView) -> None:
    row = questions.row("the version", "SELECT VERSION()")
    if row is not None:
        version = str(row[0])
        kind = "MariaDB" if "mariadb" in version.lower() else "MySQL"
        view.server = f"{kind} {version.partition('-')[0]}"
    tls = questions.row("TLS", "SHOW SESSION STATUS LIKE 'Ssl_version'")
    view.tls = None if tls is None else str(tls[1]) or "off"
    now = questions.row("who is connected", "SHOW GLOBAL STATUS LIKE 'Threads_connected'")
    connected = None if now is None else int(now[1]) - 1
    most = questions.row("max_connections", "SELECT @@global.max_connections")
    if most is not None:
        view.all = Limit("max_connections", int(most[0]), connected=connected)
    user = questions.row(
        "max_user_connections",
        "SELECT @@session.max_user_connections, CURRENT_USER(), (SELECT count(*) - 1 FROM"
        " information_schema.processlist WHERE user = SUBSTRING_INDEX(USER(), '@', 1))",
    )
    if user is not None:
        limit = int(user[0]) or None
        view.role = Limit(f"max_user_connections of {user[1]}", limit, connected=int(user[2]))


def _view_sqlite(questions: _Questions, view: ServerView) -> None:
    row = questions.row("the version", "SELECT sqlite_version()")
    if row is not None:
        view.server = f"SQLite {row[0]}"


_ASKERS: Mapping[str, Callable[[_Questions, ServerView], None]] = {
    "postgresql": _view_postgresql,
    "mysql": _view_mysql,
    "mariadb": _view_mysql,
    "sqlite": _view_sqlite,
}
