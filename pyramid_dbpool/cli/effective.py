"""The settings that hold for an app and its pools, and where each of them comes from."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..secrets import HIDDEN, is_secret, mask_value
from ..settings import NAMED_DRIVERS, SETTINGS, PoolSettings, Setting
from ..settings.declaration import KEYWORDS
from ..settings.reference import default_text
from .ini import Configuration
from .places import places

__all__ = ["Effective", "app_rows", "capacity_text", "pool_class", "pool_rows"]

# What libpq, and so psycopg and psycopg2, look at where the URL says nothing of it.
_LIBPQ = (
    *("PGAPPNAME", "PGCHANNELBINDING", "PGCONNECT_TIMEOUT", "PGDATABASE", "PGGSSENCMODE"),
    *("PGHOST", "PGHOSTADDR", "PGOPTIONS", "PGPASSFILE", "PGPASSWORD", "PGPORT", "PGSERVICE"),
    *("PGSERVICEFILE", "PGSSLCERT", "PGSSLKEY", "PGSSLMODE", "PGSSLROOTCERT", "PGSYSCONFDIR"),
    *("PGTARGETSESSIONATTRS", "PGTZ", "PGUSER"),
)
# Not the user's to say.
_INNER = {"background", "pool_name"}


@dataclass(frozen=True)
class Effective:
    """A setting that holds.

    - `value`: masked, fit for JSON; durations in seconds.
    - `text`: the same as one would write it in an ini file.
    - `kind`: "file", "command line", "default", "url" or "environment".
    - `where`: the place, for people.
    """

    setting: str
    value: Any
    text: str
    kind: str
    where: str


def app_rows(configuration: Configuration) -> list[Effective]:
    """List the settings that are for the whole app."""
    origins = _Origins(configuration)
    return [
        _declared(s, s.key, getattr(configuration.app, s.keyword), origins)
        for s in SETTINGS
        if s.scope == "app"
    ]


def pool_rows(configuration: Configuration, pool: PoolSettings) -> list[Effective]:
    """List the settings of a pool that hold, but for those that are left to SQLAlchemy.

    What the URL and the environment say to the driver comes last.
    """
    origins = _Origins(configuration)
    values = _values(pool)
    rows = [
        _declared(s, pool.source(s.keyword), values[s.keyword], origins, pool)
        for s in SETTINGS
        if s.scope == "pool" and s.keyword in values
    ]
    for keyword in sorted(values.keys() - KEYWORDS - _INNER):
        key, value = pool.source(keyword), _masked(keyword, values[keyword])
        rows.append(Effective(key, value, _plain(value), *origins.of(key)))
    return [*rows, *_of_url(pool), *_of_environment(pool)]


def pool_class(pool: PoolSettings) -> str:
    """Return the name of the class of which a pool is made."""
    chosen = "poolclass" in pool.engine_options
    return "ManagedPool" if pool.managed and not chosen else pool.pool_class.__name__


def capacity_text(pool: PoolSettings) -> str:
    """Say how many connections a pool may open."""
    return "no limit" if pool.capacity is None else f"at most {pool.capacity}"


def _values(pool: PoolSettings) -> dict[str, Any]:
    managed = asdict(pool.managed) if pool.managed else {}
    values = {"url": pool.masked_url, **pool.engine_options, **vars(pool.options), **managed}
    return {**values, "poolclass": pool_class(pool)}


class _Origins:
    """Where each setting comes from."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._places = places(configuration.config_uri)

    def of(self, key: str) -> tuple[str, str]:
        """Return the kind of the place, and the place."""
        if key in self._configuration.typed:
            return "command line", "command line"
        if key not in self._configuration.settings:
            return "default", "default"
        if key not in self._places:
            return "file", self._configuration.config_uri.partition("#")[0]
        place = self._places[key]
        made_of = f", with {', '.join(place.variables)}" if place.variables else ""
        return "file", f"{place}{made_of}"


def _declared(
    setting: Setting, key: str, value: Any, origins: _Origins, pool: PoolSettings | None = None
) -> Effective:
    # The URL is masked already, and better than a text can be.
    shown = value if setting.kind == "url" else _masked(setting.keyword, value)
    kind, where = origins.of(key)
    if kind == "default" and pool is not None:
        where = _why_default(setting, value, pool) or where
    return Effective(key, shown, _text(setting, value, shown), kind, where)


def _text(setting: Setting, value: Any, shown: Any) -> str:
    if isinstance(shown, dict | list):
        return json.dumps(shown)
    if setting.keyword == "application_name" and value is None:
        return "the app's package, or the program"
    kept = value if setting.kind in ("class", "duration") else shown
    return default_text(replace(setting, default=kept)) or "off"


def _why_default(setting: Setting, value: Any, pool: PoolSettings) -> str | None:
    if setting.keyword == "max_waiting" and value is not None:
        return "default: 20 for each connection"
    if setting.keyword == "connect_timeout" and value is None:
        return "the driver: nothing of ours, or in its own arguments"
    if setting.keyword == "connect_timeout" and value != setting.default:
        return f"default: {setting.default} s, shared by the hosts"
    if setting.keyword == "connect_args":
        return "what the settings below tell the driver"
    return None


def _of_url(pool: PoolSettings) -> Iterator[Effective]:
    for name, value in pool.url.query.items():
        shown = HIDDEN if is_secret(name) else mask_value(value)
        yield Effective(name, shown, _plain(shown), "url", pool.source("url"))


def _of_environment(pool: PoolSettings) -> Iterator[Effective]:
    if pool.engine_options.get("creator") or pool.url.get_driver_name() not in NAMED_DRIVERS:
        return
    for name in _LIBPQ:
        value = os.environ.get(name)
        if value:
            shown = HIDDEN if is_secret(name) else mask_value(value)
            yield Effective(
                name, shown, shown, "environment", "this shell, where the URL says nothing"
            )


def _masked(keyword: str, value: Any) -> Any:
    return HIDDEN if is_secret(keyword) and isinstance(value, str) else mask_value(value)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else json.dumps(value)
