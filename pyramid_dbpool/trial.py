"""One connection outside of the pool, opened to see whether it can be, and closed at once."""

from __future__ import annotations

from sqlalchemy import create_engine, select

from . import connecting
from .drivers import ConnectFailure, classify_connect_failure
from .engines import ProcessEngine
from .messages import one_line
from .settings import scrub

__all__ = ["may_pass", "reason", "try_to_connect"]


def try_to_connect(made: ProcessEngine) -> Exception | None:
    """Connect as `made` would; return what went wrong, None if nothing did.

    Nothing is left behind (on NullPool): no connection that a fork could copy.
    """
    engine = create_engine(made.settings.url, **made.settings.connect_options())
    try:
        connecting.prepare(engine, made.settings)
        for hook in made.hooks:
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


def reason(made: ProcessEngine, error: Exception) -> str:
    """Return the driver's words on one line, without secrets."""
    cause = getattr(error, "orig", None) or error
    said = scrub(str(cause) or type(cause).__name__, made.settings.url)
    return one_line(said)
