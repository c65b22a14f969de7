"""What one pool, and one app, need: checked, coerced, and safe to print."""

import hashlib
import os
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.engine import URL
from sqlalchemy.pool import AssertionPool, NullPool, Pool, QueuePool

from ..pool.options import PLUGIN_DEFAULTS
from ..secrets import HIDDEN, is_secret, mask_url, mask_value
from .backend import pool_keywords
from .declare import BY_KEY, MANAGED

__all__ = ["AppSettings", "Options", "PoolSettings", "freeze"]

# Per process: a digest that gets into a dump is worth nothing outside of it.
_SALT = os.urandom(16)


class Options(Mapping[str, Any]):
    """A read-only mapping whose repr shows no secret."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, Any]) -> None:
        self._items = dict(items)

    def __getitem__(self, name: str) -> Any:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return repr(mask_value(self._items))


class _Same:
    """Equal only to itself; keeps the object alive, so that its id is not given out again."""

    __slots__ = ("it",)

    def __init__(self, it: object) -> None:
        self.it = it

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.it is other.it

    def __hash__(self) -> int:
        return id(self.it)

    def __repr__(self) -> str:
        return f"<{type(self.it).__name__} at {id(self.it):#x}>"


def freeze(value: Any, name: str = "") -> Hashable:
    """Return a hashable stand-in for a setting's value; secrets become a digest."""
    if name and is_secret(name) and isinstance(value, str | bytes | int | float):
        return ("sha256", _digest(value))
    if isinstance(value, URL):
        return _freeze_url(value)
    if isinstance(value, Mapping):
        frozen = ((str(k), freeze(v, str(k))) for k, v in value.items())
        return tuple(sorted(frozen, key=lambda item: item[0]))
    if isinstance(value, list | tuple):
        return tuple(freeze(item, name) for item in value)
    if value is None or isinstance(value, str | bytes | bool | int | float):
        # 1, 1.0 and True are equal, and yet are three different driver arguments.
        return (type(value).__name__, value)
    return _Same(value)


def _freeze_url(url: URL) -> Hashable:
    # A password that was not encoded may have ended up in any part of the URL.
    parts = (url.username, str(url.password), url.host, url.port, url.database)
    return (mask_url(url), _digest((url.drivername, *parts, sorted(url.query.items()))))


def _digest(value: object) -> str:
    return hashlib.sha256(_SALT + repr(value).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, eq=False, repr=False)
class PoolSettings:
    """One named pool's settings.

    - `name`: "default", or the NAME of `sqlalchemy.NAME.url`.
    - `url`: the database URL, with its password.
    - `engine_options`: keyword arguments for `sqlalchemy.create_engine`.
    - `options`: the values of our own `dbpool.*` settings, by keyword.
    - `pool_class`: the pool class that `create_engine` will use.
    - `managed`: whether the pool is a `ManagedPool`, which then stands in QueuePool's place.
    - `uses_queue_pool`: whether that class makes callers wait for a connection.

    Two of them are equal if their `identity()` is.
    """

    name: str
    url: URL
    engine_options: Mapping[str, Any]
    options: Mapping[str, Any]
    pool_class: type[Pool]
    managed: bool = False
    _sources: Mapping[str, str] = field(default_factory=dict)
    _parts: Mapping[str, Hashable] = field(default_factory=dict)

    @property
    def uses_queue_pool(self) -> bool:
        """Whether callers may have to wait for a connection of this pool."""
        return issubclass(self.pool_class, QueuePool)

    @property
    def capacity(self) -> int | None:
        """How many connections may be open at once; None means no limit."""
        if issubclass(self.pool_class, AssertionPool):
            return 1
        if not self.uses_queue_pool:
            return None
        size: int = self.engine_options["pool_size"]
        overflow: int = self.engine_options["max_overflow"]
        return None if size == 0 or overflow == -1 else size + overflow

    @property
    def managed_arguments(self) -> dict[str, Any]:
        """The arguments of `ManagedPool` alone; empty for other pools."""
        if not self.managed:
            return {}
        arguments = {keyword: self.options[keyword] for keyword in MANAGED}
        if arguments["max_waiting"] is None and self.capacity is not None:
            arguments["max_waiting"] = (
                PLUGIN_DEFAULTS["max_waiting_per_connection"] * self.capacity
            )
        elif arguments["max_waiting"] == -1:
            arguments["max_waiting"] = None
        return arguments | {"background": True, "pool_name": self.name}

    @property
    def masked_url(self) -> str:
        """The URL without its secrets."""
        return mask_url(self.url)

    @property
    def driver_arguments(self) -> dict[str, Any]:
        """What the URL's query and `connect_args` say to the driver."""
        return {**self.url.query, **(self.engine_options.get("connect_args") or {})}

    def source(self, keyword: str) -> str:
        """Return the full ini key that a keyword's value came from, or would come from."""
        if keyword in self._sources:
            return self._sources[keyword]
        own = BY_KEY.get("dbpool." + keyword)
        middle = "" if self.name == "default" else f"{self.name}."
        return own.key_for(self.name) if own else f"sqlalchemy.{middle}{keyword}"

    def connect_options(self) -> dict[str, Any]:
        """Return the arguments of an engine that connects in the same way, on NullPool."""
        pool_only = pool_keywords(self.pool_class) - pool_keywords(NullPool)
        kept = {k: v for k, v in self.engine_options.items() if k not in pool_only}
        return {**kept, "poolclass": NullPool}

    def identity(self) -> Hashable:
        """Return what two pools have in common that may share one engine.

        The name and every effective value; callables by identity, the password
        only as a hash, so it may be kept in a registry.
        """
        return (self.name, tuple(sorted(self._parts.items(), key=lambda part: part[0])))

    def differing(self, other: "PoolSettings") -> list[str]:
        """Return the ini keys whose effective values differ from another's, in order."""
        keywords = self._parts.keys() | other._parts.keys()
        differing = (k for k in keywords if self._parts.get(k) != other._parts.get(k))
        return sorted(
            self.source(k) if k in self._parts or k not in other._parts else other.source(k)
            for k in differing
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PoolSettings) and self.identity() == other.identity()

    def __hash__(self) -> int:
        return hash(self.identity())

    def __repr__(self) -> str:
        values = {**self.engine_options, **self.options}
        given = {k: HIDDEN if is_secret(k) else mask_value(v) for k, v in values.items()}
        listed = "".join(f" {name}={value!r}" for name, value in given.items())
        return f"<PoolSettings {self.name!r} {self.masked_url}{listed}>"


@dataclass(frozen=True)
class AppSettings:
    """What a Pyramid app needs: where things stand, and its pools by name."""

    registry_key: str
    request_attr: str
    request_timeout: float | None
    readiness_route: str | None
    pools: Mapping[str, PoolSettings]
