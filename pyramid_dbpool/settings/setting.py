"""What a setting is, and the short forms in which `declare` declares them."""

from dataclasses import dataclass
from typing import Any, Literal

from ..pool.options import PLUGIN_DEFAULTS

__all__ = ["YEAR", "Kind", "Setting", "managed", "own", "sa"]

Kind = Literal[
    "callable",
    "choice",
    "class",
    "debug",
    "duration",
    "flag",
    "identifier",
    "integer",
    "json",
    "key",
    "module",
    "path",
    "plugins",
    "reset",
    "text",
    "url",
]
Prefix = Literal["sqlalchemy.", "dbpool."]
# A longer wait is a slip of the pen, and soon more than a lock can wait.
YEAR = 366 * 24 * 3600.0


@dataclass(frozen=True)
class Setting:
    """One setting.

    - `prefix`, `keyword`: together the ini key. A `sqlalchemy.` keyword is an
      argument of `sqlalchemy.create_engine`.
    - `kind`: how a value is read; see `readers.READERS`.
    - `default`: in the setting's own type; None where SQLAlchemy, the dialect or
      the driver decides.
    - `doc`: one sentence.
    - `scope`: "pool" settings exist once a named pool, "app" ones once an app.
    - `low`, `high`: bounds, both allowed; seconds for durations.
    - `off`: what `off`, `none` or an empty value means; `...` where there is no off.
    - `base`: the class that a value of kind "class" must derive from.
    - `within`: a package whose classes may be given by their bare name.
    - `whole`: whole seconds only.
    - `queue_only`: only for pools that make callers wait (QueuePool and its kind).
    - `managed_only`: an argument of `ManagedPool`, and of no other pool.
    - `note`: more about what is allowed, for messages and the reference.
    """

    prefix: Prefix
    keyword: str
    kind: Kind
    default: Any
    doc: str
    scope: Literal["app", "pool"] = "pool"
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    off: Any = ...
    base: type | None = None
    within: str = ""
    whole: bool = False
    queue_only: bool = False
    managed_only: bool = False
    note: str = ""

    @property
    def key(self) -> str:
        """The ini key for the default pool."""
        return self.prefix + self.keyword

    @property
    def unit(self) -> str:
        """The unit of a bare number."""
        return "seconds" if self.kind == "duration" else ""

    def key_for(self, pool: str) -> str:
        """Return the ini key of this setting for a named pool."""
        return self.key if pool == "default" else f"{self.prefix}{pool}.{self.keyword}"


def sa(keyword: str, kind: Kind, default: Any, doc: str, **rest: Any) -> Setting:
    """Declare a setting of SQLAlchemy's."""
    return Setting("sqlalchemy.", keyword, kind, default, doc, **rest)


def own(keyword: str, kind: Kind, default: Any, doc: str, **rest: Any) -> Setting:
    """Declare a setting of ours."""
    return Setting("dbpool.", keyword, kind, default, doc, **rest)


def managed(keyword: str, kind: Kind, doc: str, **rest: Any) -> Setting:
    """Declare an argument of `ManagedPool`, with the plugin's default."""
    default = PLUGIN_DEFAULTS.get(keyword)
    return own(keyword, kind, default, doc, managed_only=True, **rest)
