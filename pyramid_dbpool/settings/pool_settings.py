"""The settings of one pool: in the making, and made; and those of an app."""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool, Pool

from ..pool.options import PoolOptions
from ..secrets import mask_url, mask_value, shown
from .backend import pool_keywords
from .declaration import BY_KEY, DbpoolOptions, ini_key
from .keys import Given
from .mistakes import Mistakes
from .values import TRUE_WORDS

__all__ = ["AppSettings", "Draft", "EngineOptions", "PoolSettings", "is_autocommit"]


@dataclass
class Draft:
    """A pool's settings in the making.

    - `given`: what was found, by the key as for the default pool.
    - `engine`: the coerced arguments for `create_engine`.
    - `own`: the coerced values of our own settings.
    - `mistakes`: those found so far.
    """

    name: str
    given: Mapping[str, Given]
    engine: dict[str, Any] = field(default_factory=dict)
    own: dict[str, Any] = field(default_factory=dict)
    mistakes: Mistakes = field(default_factory=Mistakes)

    def refuse(self, key: str, why: str, remedy: str = "remove it") -> None:
        """Note that a setting has no effect here."""
        item = self.given[key]
        self.mistakes.note(f"{item.key} = {shown(item.value)} has no effect: {why}; {remedy}.")


class EngineOptions(Mapping[str, Any]):
    """Arguments for `create_engine`: whatever the dialect takes. Its repr shows no secret."""

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


@dataclass(frozen=True, eq=False, repr=False)
class PoolSettings:
    """One named pool's settings.

    - `name`: "default", or the NAME of `sqlalchemy.NAME.url`.
    - `url`: the database URL, with its password.
    - `engine_options`: keyword arguments for `sqlalchemy.create_engine`.
    - `options`: the values of our own `dbpool.*` settings.
    - `managed`: the arguments of `ManagedPool` alone; None for a pool of another kind.
    - `pool_class`: the pool class that SQLAlchemy would use; `managed` then stands in its place,
      unless it is one itself.
    - `capacity`: how many connections may be open at once; None means no limit.

    Two of them are equal if their `identity()` is.
    """

    name: str
    url: URL
    engine_options: Mapping[str, Any]
    options: DbpoolOptions
    managed: PoolOptions | None
    pool_class: type[Pool]
    capacity: int | None
    _sources: Mapping[str, str]
    _parts: Mapping[str, Hashable]

    @property
    def masked_url(self) -> str:
        """The URL without its secrets."""
        return mask_url(self.url)

    @property
    def pool_timeout(self) -> float | None:
        """How long a caller waits for a connection; None for a pool without a line."""
        timeout: float | None = self.engine_options.get("pool_timeout")
        return timeout

    @property
    def driver_arguments(self) -> dict[str, Any]:
        """What the URL's query and `connect_args` say to the driver."""
        return _driver_arguments(self.url, self.engine_options)

    @property
    def is_autocommit(self) -> bool:
        """Whether each statement is stored at once, unless a connection says otherwise."""
        return is_autocommit(self.url, self.engine_options)

    def source(self, keyword: str) -> str:
        """Return the full ini key that a keyword's value came from, or would come from."""
        if keyword in self._sources:
            return self._sources[keyword]
        own = BY_KEY.get("dbpool." + keyword)
        return own.key_for(self.name) if own else ini_key(self.name, keyword)

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
        managed = asdict(self.managed) if self.managed else {}
        values = {**self.engine_options, **vars(self.options), **managed}
        listed = "".join(f" {name}={value!r}" for name, value in mask_value(values).items())
        return f"<PoolSettings {self.name!r} {self.masked_url}{listed}>"


@dataclass(frozen=True)
class AppSettings:
    """What a Pyramid app needs: where things stand, and its pools by name."""

    registry_key: str
    request_attr: str
    request_timeout: float | None
    readiness_route: str | None
    status_route: str
    status_permission: str | None
    status_command_permission: str | None
    run_dir: str | None
    prometheus_route: str
    pools: Mapping[str, PoolSettings]


def is_autocommit(url: URL, engine: Mapping[str, Any]) -> bool:
    """Tell whether an engine's connections store each statement at once.

    So they do at the isolation level AUTOCOMMIT, and where the driver was told to.

    :param engine: the keyword arguments for `create_engine`.
    """
    options = engine.get("execution_options") or {}
    level = options.get("isolation_level", engine.get("isolation_level"))
    if str(level).upper() == "AUTOCOMMIT":
        return True
    return str(_driver_arguments(url, engine).get("autocommit") or 0).lower() in TRUE_WORDS


def _driver_arguments(url: URL, engine: Mapping[str, Any]) -> dict[str, Any]:
    return {**url.query, **(engine.get("connect_args") or {})}
