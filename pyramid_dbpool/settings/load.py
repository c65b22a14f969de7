"""From a settings dict to `PoolSettings` and `AppSettings`.

A pool is read in this order: whose the keys are (`keys`), the URL and what stands behind it
(`backend`), each value by itself (`values`), then what does not go together (`checks`).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sqlalchemy.engine import URL, Engine
from sqlalchemy.pool import AssertionPool, Pool

from ..errors import SettingsError
from ..pool.options import PoolOptions, default_max_waiting
from .backend import Backend, dialect_class, keywords, open_backend, parse_url, pool_keywords
from .checks import check_together
from .connect_arguments import add_connect_arguments
from .declaration import BY_KEY, KEYWORDS, MANAGED, SETTINGS, DbpoolOptions
from .fingerprint import fingerprints
from .keys import Keys, missing_pool, missing_url, sort_keys, unknown_key
from .mistakes import Mistakes
from .pool_settings import AppSettings, Draft, EngineOptions, PoolSettings
from .values import coerce, infer

__all__ = ["app_setting", "copied", "load_app", "load_pool"]

# create_engine takes these itself, whatever the dialect and the pool are.
_TAKEN = frozenset({"connect_args", "creator", "enable_from_linting", "module", "plugins"})
# Keyword arguments that create_engine, the dialect or the pool fill by themselves.
_INTERNAL = frozenset(
    {"cls", "compiler_linting", "dbapi", "dialect", "events", "pool", "pool_events"}
    | {"strategy", "empty_in_strategy", "url"}
)


def copied(settings: object) -> dict[str, Any]:
    """Return a copy of an app's settings.

    :raises TypeError: they are none.
    """
    if not isinstance(settings, Mapping):
        raise TypeError(
            f"settings is {type(settings).__name__}; it has to be the app's dict, such as"
            " pyramid.paster.get_appsettings(ini_file) returns."
        )
    return dict(settings)


def load_pool(settings: Mapping[str, Any], name: str = "default") -> PoolSettings:
    """Check and coerce the settings of one pool.

    `settings` is an app's plain settings dict, ini strings included. Only this
    pool's keys are looked at, and those that belong to no pool at all, because one
    of them may be a misspelt key of this one.

    :raises SettingsError: settings are unknown or wrong, with a line for each.

    >>> load_pool({"sqlalchemy.url": "sqlite:///h.db", "sqlalchemy.pool_size": "3"}).capacity
    13
    """
    mistakes = Mistakes()
    keys = sort_keys(settings, mistakes)
    mistakes.tell()
    if name not in keys.url_keys:
        raise missing_pool(name, keys)
    return _load(settings, name, keys)


def app_setting(settings: Mapping[str, Any], keyword: str) -> Any:
    """Check and coerce one of the app's own settings; what is wrong with others is not looked at.

    :raises SettingsError: its value is wrong.
    """
    setting = BY_KEY["dbpool." + keyword]
    given = settings.get(setting.key, ...)
    return setting.default if given is ... else coerce(setting, given, setting.key)


def load_app(settings: Mapping[str, Any]) -> AppSettings:
    """Check and coerce the settings of an app with all its pools.

    The default pool must be there.

    :raises SettingsError: settings are unknown or wrong, with a line for each.
    """
    mistakes = Mistakes()
    keys = sort_keys(settings, mistakes)
    given = keys.given.get("default", {})
    own = [setting for setting in SETTINGS if setting.scope == "app"]
    values = {setting.keyword: setting.default for setting in own}
    for setting in own:
        if setting.key in given:
            with mistakes.noted():
                values[setting.keyword] = coerce(setting, given[setting.key].value, setting.key)
    pools = {}
    for name in sorted(keys.url_keys, key=lambda name: (name != "default", name)):
        with mistakes.noted():
            pools[name] = _load(settings, name, keys)
    mistakes.tell()
    return AppSettings(pools=MappingProxyType(pools), **values)


def _load(settings: Mapping[str, Any], name: str, keys: Keys) -> PoolSettings:
    url_key = _url_key(settings, name, keys)
    url = parse_url(settings[url_key], url_key)
    dialect = dialect_class(url, url_key)
    draft = Draft(name, keys.given.get(name, {}))
    _coerce_declared(draft)
    pool_class = draft.engine.pop("poolclass", None)
    _take_undeclared(draft, _open_to_users(keywords(dialect)), (dialect,))
    backend = open_backend(url, url_key, draft.engine, pool_class)
    takes = _takes(dialect, backend.pool_class)
    _take_undeclared(draft, takes, (backend.pool_class, Engine))
    _refuse_unknown(draft, takes)
    # What fits together can only be told of what is right by itself.
    draft.mistakes.tell()
    check_together(draft, url, takes, backend)
    draft.mistakes.tell()
    return _finish(draft, url, url_key, backend)


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


def _coerce_declared(draft: Draft) -> None:
    for key, item in draft.given.items():
        setting = BY_KEY.get(key)
        if setting is not None and setting.scope == "pool" and setting.kind not in ("url", "key"):
            values = draft.engine if setting.prefix == "sqlalchemy." else draft.own
            with draft.mistakes.noted():
                values[setting.keyword] = coerce(setting, item.value, item.key)
    # There is nothing to pass on: only true exists.
    draft.engine.pop("future", None)


def _takes(dialect: type, pool_class: type[Pool]) -> frozenset[str]:
    """Return the keyword arguments that `create_engine` takes for this dialect and pool."""
    taken = _TAKEN | keywords(dialect) | keywords(Engine) | pool_keywords(pool_class)
    return _open_to_users(taken)


def _open_to_users(words: frozenset[str]) -> frozenset[str]:
    return frozenset(each for each in words - _INTERNAL if not each.startswith("_"))


def _take_undeclared(draft: Draft, takes: frozenset[str], takers: tuple[type, ...]) -> None:
    """Add the keys that we do not declare and that one of `takers` takes."""
    for key, item in draft.given.items():
        prefix, _, keyword = key.partition(".")
        new = keyword not in KEYWORDS | draft.engine.keys()
        if prefix == "sqlalchemy" and keyword in takes and new:
            with draft.mistakes.noted():
                draft.engine[keyword] = infer(keyword, item.value, takers, item.key)


def _refuse_unknown(draft: Draft, takes: frozenset[str]) -> None:
    for key, item in draft.given.items():
        prefix, _, keyword = key.partition(".")
        setting = BY_KEY.get(key)
        if setting is not None and (setting.scope == "pool" or draft.name == "default"):
            continue
        if prefix == "sqlalchemy" and keyword in takes and keyword not in KEYWORDS:
            continue
        why = ", it is for the whole app" if setting else ""
        if keyword in _INTERNAL or keyword.startswith("_"):
            why = ", it is SQLAlchemy's own"
        draft.mistakes.note(unknown_key(item, draft.name, takes, why))


def _finish(draft: Draft, url: URL, url_key: str, backend: Backend) -> PoolSettings:
    """Add the defaults, and what follows from the values."""
    if backend.chosen or backend.in_memory:
        draft.engine["poolclass"] = backend.pool_class
    engine = _defaults("sqlalchemy.", backend) | draft.engine
    own = _defaults("dbpool.", backend) | draft.own
    # What we make of the values must not tell two engines apart.
    parts = fingerprints(url, engine | own)
    add_connect_arguments(engine, own, url, backend, draft.own.keys())
    capacity = _capacity(engine, backend)
    arguments = {keyword: own.pop(keyword) for keyword in MANAGED if backend.managed}
    return PoolSettings(
        name=draft.name,
        url=url,
        engine_options=EngineOptions(engine),
        options=DbpoolOptions(**own),
        managed=_managed(arguments, draft.name, capacity) if backend.managed else None,
        pool_class=backend.pool_class,
        capacity=capacity,
        _sources={k.partition(".")[2]: g.key for k, g in draft.given.items()} | {"url": url_key},
        _parts=parts,
    )


def _defaults(prefix: str, backend: Backend) -> dict[str, Any]:
    """Return our defaults; a pool without a line gets none that are about one."""
    return {
        s.keyword: s.default
        for s in SETTINGS
        if s.prefix == prefix
        and s.scope == "pool"
        and s.kind != "key"
        # What SQLAlchemy decides by itself is left to it.
        and (not s.managed_only or backend.managed)
        and (backend.queues if s.queue_only else prefix == "dbpool.")
    }


def _capacity(engine: Mapping[str, Any], backend: Backend) -> int | None:
    """Return how many connections may be open at once; None means no limit."""
    if issubclass(backend.pool_class, AssertionPool):
        return 1
    if not backend.queues:
        return None
    size: int = engine["pool_size"]
    overflow: int = engine["max_overflow"]
    return None if size == 0 or overflow == -1 else size + overflow


def _managed(arguments: dict[str, Any], name: str, capacity: int | None) -> PoolOptions:
    """Return the arguments of `ManagedPool` alone, where -1 and None mean something else."""
    if arguments["max_waiting"] is None:
        arguments["max_waiting"] = default_max_waiting(capacity)
    elif arguments["max_waiting"] == -1:
        arguments["max_waiting"] = None
    return PoolOptions(**arguments, background=True, pool_name=name)
