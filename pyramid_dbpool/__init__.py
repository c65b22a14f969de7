"""One managed SQLAlchemy pool per process, for Pyramid apps, their scripts and their workers.

In an app: ``config.include("pyramid_dbpool")``, then ``request.db``. In a worker: `consume`, or
`session_factory` in a loop of its own. In a script or task: `unit_of_work`. The settings are those
of the ini file, ``sqlalchemy.url`` first; ``pdbpool settings`` lists them.
"""

from typing import Any

from .engines.registry import dispose_engine, get_engine, warm
from .errors import (
    ChangesDiscarded,
    CommitUnknown,
    DatabaseUnavailable,
    ForkedConnectionError,
    PoolError,
    PoolLineFull,
    PoolTimeout,
    RequestOver,
    SessionInUse,
    SettingsError,
    TransactionFailed,
)
from .pool.deadlines import deadline
from .pool.managed import ManagedPool
from .sessions.unit_of_work import session_factory, unit_of_work
from .telemetry import server

# `[pshell] setup = pyramid_dbpool.pshell.setup` finds it here.
from .web import pshell
from .web.streaming import stream
from .worker.loop import consume

__all__ = [
    "ChangesDiscarded",
    "CommitUnknown",
    "DatabaseUnavailable",
    "ForkedConnectionError",
    "ManagedPool",
    "PoolError",
    "PoolLineFull",
    "PoolTimeout",
    "RequestOver",
    "SessionInUse",
    "SettingsError",
    "TransactionFailed",
    "consume",
    "deadline",
    "dispose_engine",
    "get_engine",
    "includeme",
    "pshell",
    "session_factory",
    "stream",
    "unit_of_work",
    "warm",
]


# Whoever makes an engine whose settings name a folder answers there.
server.attend()


def includeme(config: Any) -> None:
    """Give requests `request.db`, and each pool of the settings its engine.

    What ``config.include("pyramid_dbpool")`` calls. Works before or after pyramid_tm and
    pyramid_retry, and includes neither. Nothing connects yet. It adds ``request.db`` (and
    ``request.db_NAME`` for a named pool), ``request.release_db()``, the registry's
    ``sqlalchemy.engine`` and ``dbsession_factory``, and ``config.add_dbpool_engine_hook()``.

    :raises SettingsError: a setting is unknown or wrong (also a Pyramid
        `ConfigurationError`).
    """
    # Here, because workers and scripts import this package without Pyramid.
    from .web import include  # noqa: PLC0415

    app = include.load(config)
    config.add_directive("add_dbpool_engine_hook", include.add_engine_hook)
    for pool in app.pools.values():
        include.add_pool(config, app, pool)
    include.mind_failures(config)
    include.add_retry(config, app)
    include.answer_overload(config)
    include.add_readiness(config, app)
    include.check_when_created(config, app)
    include.add_release(config, app)
    include.warn_without_retry(config)
