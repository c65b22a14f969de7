"""From a settings dict to `PoolSettings` and `AppSettings`."""

from collections.abc import Hashable, Mapping
from types import MappingProxyType
from typing import Any

from sqlalchemy import __version__ as sqlalchemy_version
from sqlalchemy.engine import URL, Engine
from sqlalchemy.pool import Pool

from ..errors import SettingsError
from .backend import (
    CONNECT_TIMEOUTS,
    Backend,
    dialect_class,
    isolation_level,
    keywords,
    open_backend,
    parse_url,
)
from .coerce import coerce, infer
from .declare import BY_KEY, KEYWORDS, SETTINGS
from .keys import Given, Keys, missing_pool, missing_url, sort_keys, unknown_key
from .mask import shown
from .pools import AppSettings, Options, PoolSettings, freeze

__all__ = ["load_app", "load_pool"]

# create_engine takes these itself, whatever the dialect and the pool are.
_TAKEN = frozenset({"connect_args", "creator", "enable_from_linting", "module", "plugins"})
# Keyword arguments that create_engine, the dialect or the pool fill by themselves.
_INTERNAL = frozenset(
    {"cls", "compiler_linting", "dbapi", "dialect", "events", "pool", "pool_events"}
    | {"strategy", "empty_in_strategy", "url"}
)
# create_engine's names for arguments of the pool class.
_POOL_NAMES = {
    "logging_name": "pool_logging_name",
    "echo": "echo_pool",
    "timeout": "pool_timeout",
    "recycle": "pool_recycle",
    "reset_on_return": "pool_reset_on_return",
    "pre_ping": "pool_pre_ping",
    "use_lifo": "pool_use_lifo",
}


def load_pool(settings: Mapping[str, Any], name: str = "default") -> PoolSettings:
    """Check and coerce the settings of one pool.

    `settings` is an app's plain settings dict, ini strings included. Only this
    pool's keys are looked at, and those that belong to no pool at all, because one
    of them may be a misspelt key of this one. Raises SettingsError.

    >>> load_pool({"sqlalchemy.url": "sqlite:///h.db", "sqlalchemy.pool_size": "3"}).capacity
    13
    """
    keys = sort_keys(settings)
    if name not in keys.url_keys:
        raise missing_pool(name, keys)
    return _load(settings, name, keys)


def load_app(settings: Mapping[str, Any]) -> AppSettings:
    """Check and coerce the settings of an app with all its pools.

    The default pool must be there. Raises SettingsError.
    """
    keys = sort_keys(settings)
    given = keys.given.get("default", {})
    values = {s.keyword: s.default for s in SETTINGS if s.scope == "app"}
    for keyword in values:
        setting = BY_KEY["dbpool." + keyword]
        if setting.key in given:
            values[keyword] = coerce(setting, given[setting.key].value, setting.key)
    pools = {
        name: _load(settings, name, keys)
        for name in sorted(keys.url_keys, key=lambda name: (name != "default", name))
    }
    return AppSettings(pools=MappingProxyType(pools), **values)


def _load(settings: Mapping[str, Any], name: str, keys: Keys) -> PoolSettings:
    given = keys.given.get(name, {})
    url_key = _url_key(settings, name, keys)
    url = parse_url(settings[url_key], url_key)
    made = dialect_class(url, url_key)
    engine, own = _coerced(given)
    pool_class = engine.pop("poolclass", None)
    _take_undeclared(engine, given, name, keywords(made), (made,))
    backend = open_backend(url, url_key, engine, pool_class)
    takes = _takes(made, backend.pool_class)
    _take_undeclared(engine, given, name, takes, (backend.pool_class, Engine), last=True)
    _check_taken(engine, given, name, takes, backend)
    _check_modes(engine, own, given, name, backend)
    if pool_class or backend.in_memory:
        engine["poolclass"] = backend.pool_class
    engine = _defaults("sqlalchemy.", backend) | engine
    own = _defaults("dbpool.", backend) | own
    return PoolSettings(
        name=name,
        url=url,
        engine_options=Options(_bound_connect(engine, own, url, backend)),
        options=Options(own),
        pool_class=backend.pool_class,
        _sources={k.partition(".")[2]: g.key for k, g in given.items()} | {"url": url_key},
        _parts=_parts(url, engine, own),
    )


def _url_key(settings: Mapping[str, Any], name: str, keys: Keys) -> str:
    """Return the key of a pool's URL, which is there and the only one."""
    given = keys.given.get(name, {})
    setting = BY_KEY["dbpool.url_setting"]
    if setting.key in given:
        coerce(setting, given[setting.key].value, given[setting.key].key)
    url_key = keys.url_keys[name]
    if settings.get(url_key) is None:
        raise missing_url(settings, name, url_key)
    plain = given.get("sqlalchemy.url")
    if plain and plain.key != url_key and plain.value != settings[url_key]:
        raise SettingsError(
            f"{plain.key} and {url_key} hold different URLs, and {setting.key_for(name)} says "
            f"{url_key}: remove {plain.key}."
        )
    return url_key


def _coerced(given: Mapping[str, Given]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the coerced arguments for `create_engine`, and our own."""
    engine: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for key, item in given.items():
        setting = BY_KEY.get(key)
        if setting is not None and setting.scope == "pool" and setting.kind not in ("url", "key"):
            values = engine if setting.prefix == "sqlalchemy." else own
            values[setting.keyword] = coerce(setting, item.value, item.key)
    # There is nothing to pass on: only true exists.
    engine.pop("future", None)
    return engine, own


def _takes(made: type, pool_class: type[Pool]) -> frozenset[str]:
    """Return the keyword arguments that `create_engine` takes for this dialect and pool."""
    of_pool = {_POOL_NAMES.get(keyword, keyword) for keyword in keywords(pool_class)}
    taken = _TAKEN | keywords(made) | keywords(Engine) | of_pool
    return frozenset(k for k in taken if k not in _INTERNAL and not k.startswith("_"))


def _take_undeclared(
    engine: dict[str, Any],
    given: Mapping[str, Given],
    name: str,
    takes: frozenset[str],
    takers: tuple[type, ...],
    last: bool = False,
) -> None:
    """Add the keys that we do not declare and that `takers` take; refuse the rest at last."""
    for key, item in given.items():
        prefix, _, keyword = key.partition(".")
        app_wide = key in BY_KEY and BY_KEY[key].scope == "app" and name != "default"
        if key in BY_KEY and not app_wide:
            continue
        known = keyword in takes - _INTERNAL and not keyword.startswith("_")
        if prefix == "sqlalchemy" and known and keyword not in KEYWORDS:
            if keyword not in engine:
                engine[keyword] = infer(keyword, item.value, takers, item.key)
        elif last:
            why = ", it is for the whole app" if app_wide else ""
            why = ", SQLAlchemy fills it itself" if keyword in _INTERNAL else why
            raise unknown_key(item, name, takes, why)


def _check_taken(
    engine: Mapping[str, Any],
    given: Mapping[str, Given],
    name: str,
    takes: frozenset[str],
    backend: Backend,
) -> None:
    """Refuse a declared key that this dialect or this pool class has no use for."""
    for keyword in engine:
        setting = BY_KEY.get("sqlalchemy." + keyword)
        item = given["sqlalchemy." + keyword]
        wrong_mode = setting is not None and setting.queue_only and backend.in_memory
        if keyword in takes and not (wrong_mode and not _chosen(given)):
            continue
        if setting is not None and setting.queue_only:
            raise _queue_only(item, given, name, backend)
        raise SettingsError(
            f"{item.key} is not taken by the dialect {backend.dialect.dialect_description} with "
            f"SQLAlchemy {sqlalchemy_version} and {backend.pool_class.__name__}: remove it."
        )


def _chosen(given: Mapping[str, Given]) -> bool:
    return "sqlalchemy.poolclass" in given


def _queue_only(
    item: Given, given: Mapping[str, Given], name: str, backend: Backend
) -> SettingsError:
    poolclass = BY_KEY["sqlalchemy.poolclass"].key_for(name)
    if _chosen(given):
        why = f"{poolclass} is {backend.pool_class.__name__}, where no caller waits in line"
        remedy = f"remove it or {poolclass}"
    elif backend.in_memory:
        why = "a SQLite database in memory belongs to one connection, there is nothing to pool"
        remedy = "remove it, or use a file"
    else:
        why = f"the dialect uses {backend.pool_class.__name__}, where no caller waits in line"
        remedy = f"remove it, or set {poolclass} = QueuePool"
    return SettingsError(f"{item.key} = {shown(item.value)} has no effect: {why}; {remedy}.")


def _check_modes(
    engine: dict[str, Any],
    own: Mapping[str, Any],
    given: Mapping[str, Given],
    name: str,
    backend: Backend,
) -> None:
    """Refuse values that are each right and do not go together."""
    for keyword in own:
        setting, item = BY_KEY["dbpool." + keyword], given["dbpool." + keyword]
        if setting.queue_only and not backend.queues:
            raise _queue_only(item, given, name, backend)
    if "isolation_level" in engine:
        item = given["sqlalchemy.isolation_level"]
        engine["isolation_level"] = isolation_level(engine["isolation_level"], item.key, backend)
    options = engine.get("execution_options", {})
    level = options.get("isolation_level", engine.get("isolation_level"))
    if own.get("read_only") and str(level).upper() == "AUTOCOMMIT":
        raise SettingsError(
            f"{given['dbpool.read_only'].key} = true cannot hold with isolation_level "
            "AUTOCOMMIT, where there is no transaction to make read-only: remove one of them."
        )
    timeout = given.get("dbpool.connect_timeout")
    if timeout and own["connect_timeout"] is not None:
        _check_timeout(timeout, engine, backend)


def _check_timeout(item: Given, engine: Mapping[str, Any], backend: Backend) -> None:
    driver = backend.dialect.driver
    if driver not in CONNECT_TIMEOUTS:
        why = f"the driver {driver} has no such limit"
    elif "creator" in engine:
        why = "the creator opens the connections"
    else:
        return
    raise SettingsError(f"{item.key} = {shown(item.value)} has no effect, {why}: remove it.")


def _defaults(prefix: str, backend: Backend) -> dict[str, Any]:
    """Return our defaults; a pool without a line gets none that are about one."""
    return {
        s.keyword: s.default
        for s in SETTINGS
        if s.prefix == prefix
        and s.scope == "pool"
        and s.kind != "key"
        # What SQLAlchemy decides by itself is left to it.
        and (backend.queues if s.queue_only else prefix == "dbpool.")
    }


def _bound_connect(
    engine: dict[str, Any], own: Mapping[str, Any], url: URL, backend: Backend
) -> dict[str, Any]:
    """Add the limit on opening a connection, unless the user has set one for the driver."""
    names = CONNECT_TIMEOUTS.get(backend.dialect.driver, ())
    arguments = engine.get("connect_args") or {}
    seconds = own["connect_timeout"]
    if not names or seconds is None or "creator" in engine:
        return engine
    if any(each in url.query or each in arguments for each in names):
        return engine
    return engine | {"connect_args": {**arguments, names[0]: seconds}}


def _parts(url: URL, engine: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Hashable]:
    """Return what an engine is told apart by: every value that is not the default."""
    plain = {s.keyword: s.default for s in SETTINGS}
    parts = {k: freeze(v, k) for k, v in {**engine, **own}.items()}
    told = {k: v for k, v in parts.items() if k not in plain or v != freeze(plain[k], k)}
    return {"url": freeze(url), **told}
