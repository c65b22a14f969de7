"""One managed SQLAlchemy pool per process, for Pyramid apps, their scripts and their workers.

In an app: ``config.include("pyramid_dbpool")``, then ``request.db``. In a worker: `consume`, or
`session_factory` in a loop of its own. In a script or task: `unit_of_work`. The settings are those
of the ini file, ``sqlalchemy.url`` first; ``pdbpool settings`` lists them.
"""

from typing import TYPE_CHECKING

from .engines import dispose_engine, get_engine, warm
from .errors import (
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
from .limits import deadline
from .pool import ManagedPool
from .sessions import session_factory, unit_of_work
from .streaming import stream
from .worker import consume

if TYPE_CHECKING:
    from pyramid.config import Configurator

__all__ = [
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
    "session_factory",
    "stream",
    "unit_of_work",
    "warm",
]


def includeme(config: "Configurator") -> None:
    """Give requests `request.db`, and each pool of the settings its engine.

    What ``config.include("pyramid_dbpool")`` calls. Works before or after pyramid_tm and
    pyramid_retry, and includes neither. Nothing connects yet. It adds ``request.db`` (and
    ``request.db_NAME`` for a named pool), ``request.release_db()``, the registry's
    ``sqlalchemy.engine`` and ``dbsession_factory``, and ``config.add_dbpool_engine_hook()``.

    :raises SettingsError: a setting is unknown or wrong (also a Pyramid
        `ConfigurationError`).
    """
    # Here, because workers and scripts import this package without Pyramid.
    from . import configuration  # noqa: PLC0415

    app = configuration.load(config)
    config.add_directive("add_dbpool_engine_hook", configuration.add_engine_hook)
    config.add_subscriber(configuration.close_sessions_with_request, "pyramid.events.NewRequest")
    for pool in app.pools.values():
        configuration.add_pool(config, app, pool)
    configuration.add_retry(config, app)
    configuration.answer_overload(config, app)
    configuration.add_readiness(config, app)
    configuration.check_when_created(config, app)
    configuration.add_release(config, app)
    configuration.warn_without_retry(config)
