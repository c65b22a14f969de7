"""What an engine adds to each opening of a connection, and says of one that fails."""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Engine, ExceptionContext, event

from ..drivers.connect_failures import ConnectFailure, classify_connect_failure
from ..drivers.driver_errors import driver_text
from ..errors import DatabaseUnavailable
from ..pool.refusals import unavailable_text
from ..settings import FALLBACK_NAME, NAMED_DRIVERS, PoolSettings
from .application_name import application_name
from .stored import note_refusal

__all__ = ["before_each_opening", "explain_failures", "prepare"]

# Called, in each process, before a connection is opened.
before_each_opening: list[Callable[[], object]] = []

# Among options, `-c Application_Name=` and `--application-name=` are the same.
_NAME = re.compile("application[_-]name", re.IGNORECASE)


def prepare(engine: Engine, pool: PoolSettings) -> None:
    """Have each connection of `engine` named, its opening bounded, and told of."""
    event.listen(engine, "do_connect", _tell_of_opening)
    arguments = pool.driver_arguments
    if engine.dialect.driver in NAMED_DRIVERS:
        if pool.options.application_name != "" and not _is_named_by_user(arguments):
            event.listen(engine, "do_connect", _name_connection(pool))
    elif engine.dialect.driver == "pymysql":
        _bound_login(engine, pool, arguments)


def _tell_of_opening(*_args: object) -> None:
    for each in before_each_opening:
        each()


def _is_named_by_user(arguments: Mapping[str, Any]) -> bool:
    """Tell whether the user has named connections where a name of ours would take the place.

    The server takes the name that libpq sends after its options, and a driver's keywords come
    before a connection string. Elsewhere (the URL, a service file, PGAPPNAME) libpq prefers
    the user's.
    """
    # libpq looks at the environment only if it is given no options at all.
    options = arguments.get("options") or os.environ.get("PGOPTIONS")
    texts = (options, arguments.get("dsn"), arguments.get("conninfo"))
    return FALLBACK_NAME in arguments or any(_NAME.search(str(text)) for text in texts)


def _name_connection(pool: PoolSettings) -> Callable[..., None]:
    """Return what tells PostgreSQL whose connection is opened."""

    def tell(_dialect: Any, _record: Any, _args: Any, arguments: dict[str, Any]) -> None:
        # Each time: the arguments are the same dict for all connections, in a child too.
        arguments[FALLBACK_NAME] = application_name(pool.options.application_name)

    return tell


def _bound_login(engine: Engine, pool: PoolSettings, arguments: Mapping[str, Any]) -> None:
    """Let the login take no longer than the connect.

    PyMySQL's `connect_timeout` is over when the server has accepted: one that then says
    nothing would keep the opening, and its slot, for as long as the kernel keeps the socket.
    """
    if "read_timeout" in arguments:
        return

    def bound(_dialect: Any, _record: Any, _args: Any, arguments: dict[str, Any]) -> None:
        arguments["read_timeout"] = arguments.get("connect_timeout")

    def lift(dbapi_connection: Any, _record: Any) -> None:
        # It has no public way. A statement may take as long as it likes.
        dbapi_connection._read_timeout = None

    event.listen(engine, "do_connect", bound)
    event.listen(engine, "connect", lift)


def explain_failures(engine: Engine, pool: PoolSettings) -> None:
    """Say what a failed opening means, for a pool that does not do so itself."""

    def explain(context: ExceptionContext) -> BaseException | None:
        error = context.sqlalchemy_exception
        if context.connection is not None or context.is_pre_ping or error is None:
            return None
        kind = classify_connect_failure(context.dialect, error)
        if kind is ConnectFailure.CONFIGURATION:
            cause = context.original_exception
            text = unavailable_text(pool.name, pool.source, kind, 0.0, cause)
        else:
            said = driver_text(context.original_exception)
            text = f"pool {pool.name!r}: no connection ({said})"
        refusal = DatabaseUnavailable.saying(text, context.original_exception, pool.name)
        if kind is ConnectFailure.CONFIGURATION:
            refusal.retry_after = None
        note_refusal(refusal)
        return refusal

    event.listen(engine, "handle_error", explain, retval=True)
