"""One connection outside of the pool, opened to see whether it can be, and closed at once."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import create_engine, select

from ..drivers.connect_failures import ConnectFailure, classify_connect_failure
from ..drivers.error_text import one_line, said_by
from ..secrets import scrub
from ..settings import PoolSettings
from . import connecting
from .registry import EngineHook, ProcessEngine

__all__ = ["connect_once", "may_pass", "reason", "try_to_connect"]


def try_to_connect(made: ProcessEngine) -> Exception | None:
    """Connect as `made` would; return what went wrong, None if nothing did."""
    return connect_once(made.settings, made.hooks)


def connect_once(pool: PoolSettings, hooks: Iterable[EngineHook]) -> Exception | None:
    """Connect as the engine of these settings would; return what went wrong, None if nothing did.

    Nothing is left behind (on NullPool): no connection that a fork could copy.

    :param hooks: what the app does to its engine before the first connect.
    """
    try:
        engine = create_engine(pool.url, **pool.connect_options())
        connecting.prepare(engine, pool)
        for hook in hooks:
            hook(engine)
        with engine.connect() as connection:
            connection.scalar(select(1))
    except Exception as error:
        # Drivers, hooks and creators raise whatever they like.
        return error
    return None


def may_pass(made: ProcessEngine, error: Exception) -> bool:
    """Tell whether the failure may pass by itself: a wrong password does not."""
    kind = classify_connect_failure(made.engine.dialect, error)
    return kind is not ConnectFailure.CONFIGURATION


def reason(pool: PoolSettings, error: Exception) -> str:
    """Return the driver's words on one line, without secrets."""
    return one_line(scrub(said_by(error), pool.url))
