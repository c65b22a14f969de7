"""What our settings tell the driver, and through it the server, when a connection is opened.

It goes into `connect_args`, and to the server in the packet that opens the connection, and so
without a round trip. Where nobody would listen, the setting is refused.
"""

import os
from collections.abc import Container, Mapping
from typing import Any

from sqlalchemy.engine import URL

from .backend import Backend
from .declaration import LEAST_CONNECT_TIMEOUT
from .pool_settings import Draft

__all__ = ["FALLBACK_NAME", "NAMED_DRIVERS", "add_connect_arguments", "check_connect_arguments"]

# The connect argument that bounds the opening of a connection, first the one that we
# set, then its other spellings. Each counts whole seconds.
# libpq: connect_timeout; PyMySQL and mysqlclient: connect_timeout;
# Connector/Python: connection_timeout.
_CONNECT_TIMEOUTS: Mapping[str, tuple[str, ...]] = {
    "psycopg": ("connect_timeout",),
    "psycopg2": ("connect_timeout",),
    "pymysql": ("connect_timeout",),
    "mysqldb": ("connect_timeout",),
    "mysqlconnector": ("connection_timeout", "connect_timeout"),
}
# Those on libpq, which passes on a name and options.
NAMED_DRIVERS = frozenset({"psycopg", "psycopg2"})
# libpq's keyword for a name that counts where nothing else gives one: the URL, a service
# file, PGAPPNAME.
FALLBACK_NAME = "fallback_application_name"
# Our keyword, PostgreSQL's parameter, and the nearest thing that MariaDB and MySQL have.
_SERVER_TIMEOUTS = {
    "statement_timeout": ("statement_timeout", "max_statement_time or max_execution_time"),
    "lock_timeout": ("lock_timeout", "innodb_lock_wait_timeout"),
    "idle_in_transaction_timeout": (
        "idle_in_transaction_session_timeout",
        "idle_transaction_timeout",
    ),
}
_CREATOR = "the creator opens the connections"


def check_connect_arguments(draft: Draft, url: URL, backend: Backend) -> None:
    """Refuse what this driver or this server cannot be told."""
    dialect, creates = backend.dialect, "creator" in draft.engine
    if draft.own.get("connect_timeout") is not None:
        if dialect.driver not in _CONNECT_TIMEOUTS:
            why = f"the driver {dialect.driver} has no such limit"
            draft.refuse("dbpool.connect_timeout", why)
        elif creates:
            draft.refuse("dbpool.connect_timeout", _CREATOR)
        elif users := _users_connect_timeout(draft.engine, url, backend):
            why = f"the URL or connect_args give the driver a {users}"
            draft.refuse("dbpool.connect_timeout", why, "remove one of them")
    for keyword in ("application_name", *_SERVER_TIMEOUTS):
        if not draft.own.get(keyword):
            continue
        if dialect.driver not in NAMED_DRIVERS:
            why = (
                "only PostgreSQL is told such things when a connection is opened, by psycopg or"
                f" psycopg2, and this is {dialect.name} with {dialect.driver}"
            )
            remedy = "remove it"
            if dialect.name in ("mysql", "mariadb") and keyword in _SERVER_TIMEOUTS:
                remedy += f", and see the server's {_SERVER_TIMEOUTS[keyword][1]}"
            draft.refuse("dbpool." + keyword, why, remedy)
        elif creates:
            draft.refuse("dbpool." + keyword, _CREATOR)


def add_connect_arguments(
    engine: dict[str, Any], own: dict[str, Any], url: URL, backend: Backend, given: Container[str]
) -> None:
    """Add to `engine`'s `connect_args` what `own` has for them.

    `own`'s `connect_timeout` is None afterwards where it is not ours to set.

    :param given: the keywords of `own` that the user has set.
    """
    _bound_connect(engine, own, url, backend, given="connect_timeout" in given)
    _choose_code(engine, url, backend)
    _add_server_timeouts(engine, own, url)


def _bound_connect(
    engine: dict[str, Any], own: dict[str, Any], url: URL, backend: Backend, *, given: bool
) -> None:
    """Add the limit on opening a connection, unless the user has set one for the driver."""
    names = _CONNECT_TIMEOUTS.get(backend.dialect.driver, ())
    if not names or _users_connect_timeout(engine, url, backend) or "creator" in engine:
        own["connect_timeout"] = None
    elif not given:
        own["connect_timeout"] = _shared_out(own["connect_timeout"], engine, url, backend)
    if own["connect_timeout"] is not None:
        arguments = engine.get("connect_args") or {}
        engine["connect_args"] = {**arguments, names[0]: own["connect_timeout"]}


def _shared_out(seconds: int, engine: Mapping[str, Any], url: URL, backend: Backend) -> int:
    """Return the limit at each host with which the opening at all of them is over in time.

    A driver spends it at each host in turn: were the first one silent, callers would give up
    just before their connection is there.
    """
    _, arguments = backend.dialect.create_connect_args(url)
    arguments = {**arguments, **(engine.get("connect_args") or {})}
    hosts = 1
    if backend.dialect.driver in NAMED_DRIVERS:
        named = arguments.get("hostaddr") or arguments.get("host") or os.environ.get("PGHOST", "")
        hosts += str(named).count(",")
    elif backend.dialect.driver == "mysqlconnector":
        hosts = max(1, len(arguments.get("failover") or ()))
    return max(seconds // hosts, LEAST_CONNECT_TIMEOUT)


def _users_connect_timeout(engine: Mapping[str, Any], url: URL, backend: Backend) -> str | None:
    """Return the name of the limit that the user has set for the driver."""
    given = {*url.query, *(engine.get("connect_args") or {})}
    names = _CONNECT_TIMEOUTS.get(backend.dialect.driver, ())
    return next((each for each in names if each in given), None)


def _choose_code(engine: dict[str, Any], url: URL, backend: Backend) -> None:
    """Have mysql-connector run its Python code, unless the user has chosen.

    An error of COMMIT or ROLLBACK in its C extension is no `mysql.connector.Error`: SQLAlchemy
    would take a connection that is lost there for a whole one, and nobody would know whether
    the work is stored.
    """
    arguments = engine.get("connect_args") or {}
    users_own = "use_pure" in url.query or "use_pure" in arguments
    if backend.dialect.driver == "mysqlconnector" and not users_own and "creator" not in engine:
        engine["connect_args"] = {**arguments, "use_pure": True}


def _add_server_timeouts(engine: dict[str, Any], own: Mapping[str, Any], url: URL) -> None:
    """Add the timeouts that are set, after the user's own options."""
    options = [
        f"-c {parameter}={round(own[keyword] * 1000)}"
        for keyword, (parameter, _) in _SERVER_TIMEOUTS.items()
        if own[keyword] is not None
    ]
    if not options:
        return
    arguments = engine.get("connect_args") or {}
    users = arguments.get("options") or url.query.get("options")
    if users is None:
        # libpq looks there only if it is given no options at all.
        users = os.environ.get("PGOPTIONS", "")
    # Given twice in a URL, it comes as a tuple.
    users = users if isinstance(users, str) else " ".join(users)
    engine["connect_args"] = {**arguments, "options": " ".join([users, *options]).strip()}
