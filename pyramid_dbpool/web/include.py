"""What `config.include("pyramid_dbpool")` registers with Pyramid, in the order of `includeme`."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from types import FrameType

from pyramid.config import Configurator
from pyramid.events import ApplicationCreated, NewRequest
from pyramid.exceptions import ConfigurationError
from pyramid.interfaces import ITweens
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.tweens import EXCVIEW, INGRESS

from ..engines.application_name import name_app, take_role
from ..engines.probes import check_at_start
from ..engines.registry import EngineHook, process_engine
from ..errors import SettingsError
from ..settings import AppSettings, PoolSettings, load_app
from ..stopping import noting_sigterm
from . import failures, readiness, retry
from .overload import add_overload_view
from .request_db import RequestAttribute, RequestSessions, note_served, request_sessionmaker

__all__ = [
    "PyramidSettingsError",
    "add_engine_hook",
    "add_outer_tween",
    "add_pool",
    "add_readiness",
    "add_release",
    "add_retry",
    "answer_overload",
    "as_configuration_error",
    "check_when_created",
    "load",
    "mind_failures",
    "refuse_taken_names",
    "warn_without_retry",
    "whole_path",
]

log = logging.getLogger(__name__)

_TM_TWEEN = "pyramid_tm.tm_tween_factory"

# After everything that an app registers, so that what it includes later counts.
_LAST = 1_000_000


class PyramidSettingsError(SettingsError, ConfigurationError):  # type: ignore[misc]  # Pyramid says no types
    """A setting is wrong, found while Pyramid was configured."""


@contextmanager
def as_configuration_error() -> Iterator[None]:
    """Have what is wrong with a setting be Pyramid's error, too.

    :raises PyramidSettingsError: a setting is unknown or wrong.
    """
    try:
        yield
    except SettingsError as error:
        raise PyramidSettingsError(str(error)) from error


def load(config: Configurator) -> AppSettings:
    """Read the app's settings and check all of them.

    :raises PyramidSettingsError: a setting is unknown or wrong.
    """
    name_app(config.root_package.__name__)
    with as_configuration_error():
        app = load_app(config.get_settings())
    refuse_taken_names(app)
    for pool in app.pools.values():
        if pool.capacity is not None and pool.capacity < 2:
            log.warning(
                "pool %r has room for %d connection only (%s + %s): a handler that holds one and"
                " asks for a second waits for itself until the timeout. Allow at least 2.",
                pool.name,
                pool.capacity,
                pool.source("pool_size"),
                pool.source("max_overflow"),
            )
    return app


def refuse_taken_names(app: AppSettings) -> None:
    """Refuse a name for the sessions that Pyramid's requests have for something else.

    :raises PyramidSettingsError: so it is.
    """
    for pool in app.pools.values():
        attribute = _attribute_name(app, pool)
        if hasattr(Request, attribute):
            raise PyramidSettingsError(
                f"dbpool.request_attr = {app.request_attr!r}: a Pyramid request has an attribute"
                f" {attribute!r} already; choose another name, for example 'db'."
            )


def _attribute_name(app: AppSettings, pool: PoolSettings) -> str:
    return app.request_attr + ("" if pool.name == "default" else f"_{pool.name}")


def add_engine_hook(config: Configurator, hook: str | EngineHook, name: str = "default") -> None:
    """Call `hook(engine)` when the configuration is committed, before the first connect.

    The directive ``config.add_dbpool_engine_hook``: the place for
    ``event.listen(engine, ...)``, ``do_connect`` handlers and the like. A hook
    runs once for each engine.

    :param hook: a callable or its dotted name.
    :param name: the pool.
    """
    resolved: EngineHook = config.maybe_dotted(hook)

    def run() -> None:
        process_engine(config.get_settings(), name).run_hook(resolved)

    config.action(None, run)


def add_pool(config: Configurator, app: AppSettings, pool: PoolSettings) -> None:
    """Register the engine, the session factory and the request attribute of `pool`."""
    suffix = "" if pool.name == "default" else f".{pool.name}"
    attribute = RequestAttribute(pool.name)

    def register() -> None:
        made = process_engine(config.get_settings(), pool.name)
        config.registry[app.registry_key + suffix] = made.engine
        maker = attribute.maker = request_sessionmaker(made)
        config.registry["dbsession_factory" + suffix] = maker

    config.action(("pyramid_dbpool", pool.name), register)
    config.add_request_method(attribute, _attribute_name(app, pool), reify=True)


def mind_failures(config: Configurator) -> None:
    """Let answers that report a failure through, and exception views see what is stored."""
    config.add_view_deriver(failures.with_clean_sessions, "pyramid_dbpool")
    config.add_tween(failures.TWEEN, under=(_TM_TWEEN, INGRESS), over=EXCVIEW)

    def warn() -> None:
        if _TM_TWEEN in _listed_tweens(config.registry):
            _warn_of_a_missing_tween(config.registry, failures.TWEEN, f"after {_TM_TWEEN}")

    config.action(None, warn, order=_LAST)


def add_retry(config: Configurator, app: AppSettings) -> None:
    """Let requests be tried again where that is right, and bound their waits."""
    config.registry[retry.REQUEST_TIMEOUT] = app.request_timeout
    add_outer_tween(config, retry.TWEEN)
    config.action(None, partial(_subscribe_if_left_out, config.registry), order=_LAST)


def _subscribe_if_left_out(registry: Registry) -> None:
    """Have subscribers do what that tween does besides, where it is not listed."""
    if not _is_left_out(registry, retry.TWEEN):
        return

    def own_sessions(event: NewRequest) -> None:
        note_served(event.request)
        RequestSessions.of(event.request).name_thread()
        take_role("web")

    def created(_event: ApplicationCreated) -> None:
        retry.do_at_creation(registry)

    subscribing = Configurator(registry=registry, autocommit=True)
    subscribing.add_subscriber(own_sessions, NewRequest)
    subscribing.add_subscriber(created, ApplicationCreated)


def whole_path(config: Configurator, path: str) -> str:
    """Return where a path is, with the prefix that the app includes it under."""
    prefix = (config.route_prefix or "").strip("/")
    return f"/{prefix}{path}" if prefix else path


def add_outer_tween(config: Configurator, factory: str) -> None:
    """Put a tween over pyramid_tm's, and over all that the app adds; warn if it is left out."""
    # Of its own and late, so that it is over the tweens that an app adds after it.
    last = Configurator(registry=config.registry, autocommit=True)

    def register() -> None:
        last.add_tween(factory, under=INGRESS, over=(_TM_TWEEN, EXCVIEW))
        tm = _TM_TWEEN in _listed_tweens(config.registry)
        _warn_of_a_missing_tween(
            config.registry, factory, f"before {_TM_TWEEN}" if tm else "before all others"
        )

    config.action(None, register, order=_LAST)


def _warn_of_a_missing_tween(registry: Registry, factory: str, where: str) -> None:
    if _is_left_out(registry, factory):
        log.warning(
            "pyramid.tweens does not list %s, so it has no effect: put it %s.",
            factory,
            where,
        )


def _is_left_out(registry: Registry, factory: str) -> bool:
    # Pyramid then leaves out, without a word, what is not listed.
    listed = _listed_tweens(registry)
    return bool(listed) and factory not in listed


def _tweens(registry: Registry) -> list[str]:
    tweens = registry.queryUtility(ITweens)
    if tweens is None:
        return []
    return [name for name, _tween in tweens.explicit or tweens.implicit()]


def _listed_tweens(registry: Registry) -> list[str]:
    return [name for name, _tween in registry.getUtility(ITweens).explicit]


def answer_overload(config: Configurator) -> None:
    """Answer 503 where a pool refuses, unless the app has a view for that."""
    config.action(None, partial(add_overload_view, config.registry))


def add_readiness(config: Configurator, app: AppSettings) -> None:
    """Answer on the readiness path, if there is one."""
    if app.readiness_route is None:
        return
    answers = config.registry[readiness.READINESS] = readiness.Readiness(app.readiness_route)

    def register() -> None:
        settings = config.get_settings()
        engines = [process_engine(settings, name) for name in app.pools]
        answers.pools = [readiness.PoolReadiness(each) for each in engines]

    config.action(None, register, order=_LAST)
    # After the other one, and so over it.
    add_outer_tween(config, readiness.TWEEN)


def check_when_created(config: Configurator, app: AppSettings) -> None:
    """Have `dbpool.startup_check` done when the app is there, but not for a script."""

    def check() -> None:
        checked = [p for p in app.pools.values() if p.options.startup_check != "off"]
        if checked and not _started_by_script():
            with noting_sigterm() as stop:
                for pool in checked:
                    check_at_start(process_engine(config.get_settings(), pool.name), stop.wait)

    retry.at_creation(config.registry, check)


def _started_by_script() -> bool:
    """Tell whether one of Pyramid's scripts, or `bootstrap()`, makes the app just now.

    A script that only looks at the app, as proutes does, must work while the database is away.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        module, function = frame.f_globals.get("__name__", ""), frame.f_code.co_name
        if (module, function) == ("pyramid.paster", "bootstrap"):
            return True
        if module.startswith("pyramid.scripts.") and module != "pyramid.scripts.pserve":
            return True
        frame = frame.f_back
    return False


def add_release(config: Configurator, app: AppSettings) -> None:
    """Register `request.release_db()`."""
    known = tuple(app.pools)

    def releaser(request: Request) -> Callable[..., None]:
        def release_db(name: str | None = None) -> None:
            """Give the request's connections back, before something slow that needs none.

            The sessions can be used again; what they have loaded is loaded anew then. A
            session that a test supplied is left alone.

            :param name: the pool; every pool if not given.
            :raises SessionInUse: a session has uncommitted changes, which would be lost.
            :raises TransactionFailed: a statement failed and its error was swallowed.
            :raises ValueError: there is no such pool.
            """
            if name is not None and name not in known:
                raise ValueError(f"There is no pool {name!r}: there are {', '.join(known)}.")
            RequestSessions.of(request).release(name)

        return release_db

    # As a property: Pyramid binds methods for each request, whether it calls them or not.
    config.add_request_method(releaser, "release_db", property=True)


def warn_without_retry(config: Configurator) -> None:
    """Warn, once in a process, if nothing tries a request of pyramid_tm's again."""

    def warn() -> None:
        # Views that are not run in a transaction of their request's were not written to run twice.
        if not retry.tries_again(config.registry) and _TM_TWEEN in _tweens(config.registry):
            _say_that_retry_is_missing()

    # Then: where the configuration commits by itself, an action is over before whoever comes next
    # includes pyramid_retry.
    retry.at_creation(config.registry, warn)


@cache
def _say_that_retry_is_missing() -> None:
    # Cached: an app that is made in every test says it once.
    log.warning(
        "pyramid_retry is not included: a request that loses a race against another transaction,"
        " or its connection, fails, although a second attempt would succeed. Add"
        ' config.include("pyramid_retry").'
    )
