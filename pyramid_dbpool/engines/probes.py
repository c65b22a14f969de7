"""A look at the database outside of the pool: can one connect to it just now?

One connection is opened and closed at once: by the engine that is there, as often as
`dbpool.startup_check` says when a server or a worker starts, and once where somebody asks on the
readiness route; and by one of its own at `pdbpool check`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from sqlalchemy import Connection, create_engine, select

from ..clock import monotonic
from ..drivers.connect_failures import ConnectFailure, classify_connect_failure
from ..drivers.driver_errors import one_line, said_by
from ..pool.outage import pause_before
from ..secrets import scrub
from ..settings import PoolSettings
from . import connecting
from .apart import opened_apart
from .registry import EngineHook, ProcessEngine

__all__ = [
    "EXIT_STATUS",
    "check_at_start",
    "connect_once",
    "reason",
    "try_to_connect",
]

log = logging.getLogger(__name__)

# Seconds between two looks at a database that is away.
LONGEST_PAUSE = 2.0
# The one with which gunicorn's master gives up too, where others make it start the worker anew.
EXIT_STATUS = 3


def try_to_connect(made: ProcessEngine) -> Exception | None:
    """Connect as `made` does, beside its pool; return what went wrong, None if nothing did.

    Nothing is left behind: no connection that a fork could copy.
    """
    try:
        with opened_apart(made.engine) as dbapi_connection:
            made.engine.dialect.do_ping(dbapi_connection)
    except Exception as error:
        # Drivers, hooks and creators raise whatever they like.
        return error
    return None


def connect_once(
    pool: PoolSettings,
    hooks: Iterable[EngineHook],
    look: Callable[[Connection], object] = lambda connection: None,
) -> Exception | None:
    """Connect as an engine of these settings would; return what went wrong, None if nothing did.

    For who has no such engine, and needs none: `pdbpool check`.

    :param hooks: what the app does to its engine before the first connect.
    :param look: gets the connection, to ask the server more.
    """
    try:
        engine = create_engine(pool.url, **pool.connect_options())
        connecting.prepare(engine, pool)
        for hook in hooks:
            hook(engine)
        with engine.connect() as connection:
            connection.scalar(select(1))
            connection.rollback()
            look(connection)
    except Exception as error:
        # Drivers, hooks and creators raise whatever they like.
        return error
    return None


def reason(pool: PoolSettings, error: Exception) -> str:
    """Return the driver's words on one line, without secrets."""
    return one_line(scrub(said_by(error), pool.url))


def check_at_start(made: ProcessEngine, wait: Callable[[float], object]) -> None:
    """Try a connection, as the pool's settings say: not at all, once, or until it works.

    :param wait: waits for so many seconds; returns true to give up, because it is time to stop.
    :raises SystemExit: the database is required and cannot be used.
    """
    mode: str = made.settings.options.startup_check
    if mode == "off":
        return
    patience = 0.0 if mode == "warn" else made.settings.options.startup_timeout
    began = monotonic()
    error, stopped = _try_until(made, began + patience, wait)
    if error is None or stopped:
        return
    text = _complaint(made, error, monotonic() - began)
    if mode == "require":
        log.critical("%s; the process ends.", text)
        raise SystemExit(EXIT_STATUS)
    log.warning("%s; starting all the same.", text)


def _try_until(
    made: ProcessEngine, until: float, wait: Callable[[float], object]
) -> tuple[Exception | None, bool]:
    """Return the last error, and whether it was time to stop."""
    number = 0
    while True:
        error = try_to_connect(made)
        if error is None or not _may_pass(made, error):
            return error, False
        left = until - monotonic()
        if left <= 0:
            return error, False
        if number == 0:
            log.warning("%s; waiting up to %.0f s.", _complaint(made, error, 0.0), left)
        number += 1
        # The last try comes when the time is over, not before.
        if wait(min(pause_before(number, LONGEST_PAUSE), left)):
            return error, True


def _may_pass(made: ProcessEngine, error: Exception) -> bool:
    # A wrong password does not.
    kind = classify_connect_failure(made.engine.dialect, error)
    return kind is not ConnectFailure.CONFIGURATION


def _complaint(made: ProcessEngine, error: Exception, seconds: float) -> str:
    settings = made.settings
    waited = f" within {seconds:.0f} s" if seconds >= 1 else ""
    return (
        f"{settings.source('startup_check')} = {settings.options.startup_check}: pool"
        f" {settings.name!r} cannot connect to {settings.masked_url}{waited}"
        f" ({reason(settings, error)})"
    )
