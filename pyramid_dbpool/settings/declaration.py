"""Every setting, declared once, as data.

Reading, bounds, the reference page and the command line's listing are all made from
`SETTINGS`. A new setting is one more entry in it; one of ours for each pool is one more
field of `DbpoolOptions` too, one for the app of `AppSettings`, and one of `ManagedPool` of
`PoolOptions` (a test compares them).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import Pool

from ..pool.options import PLUGIN_DEFAULTS
from ..secrets import mask_value

__all__ = [
    "BY_KEY",
    "KEYWORDS",
    "LEAST_CONNECT_TIMEOUT",
    "MANAGED",
    "SETTINGS",
    "YEAR",
    "DbpoolOptions",
    "Setting",
    "ini_key",
]

Kind = Literal[
    "callable",
    "choice",
    "class",
    "debug",
    "duration",
    "flag",
    "folder",
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
# In seconds: libpq takes one second for two.
LEAST_CONNECT_TIMEOUT = 2
_STYLES = ("qmark", "numeric", "named", "format", "pyformat", "numeric_dollar")
# PostgreSQL counts these in milliseconds, in an integer of 32 bits.
_BY_POSTGRESQL: dict[str, Any] = {
    "low": 0.001,
    "high": 2_147_483.0,
    "off": None,
    "note": "PostgreSQL, not through PgBouncer",
}


@dataclass(frozen=True)
class Setting:
    """One setting.

    - `prefix`, `keyword`: together the ini key. A `sqlalchemy.` keyword is an
      argument of `sqlalchemy.create_engine`.
    - `kind`: how a value is read; see `values`.
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
        """Return the ini key of this setting for a pool; those of the app have but one."""
        return self.key if self.scope == "app" else ini_key(pool, self.keyword, self.prefix)


def ini_key(pool_name: str, keyword: str, prefix: str = "sqlalchemy.") -> str:
    """Return the full ini key of a pool's setting."""
    return prefix + keyword if pool_name == "default" else f"{prefix}{pool_name}.{keyword}"


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


SETTINGS: tuple[Setting, ...] = (
    sa("url", "url", None, "The database URL."),
    # The pool.
    sa(
        "pool_size",
        "integer",
        5,
        "How many connections the pool keeps; 0 means no limit.",
        low=0,
        queue_only=True,
    ),
    sa(
        "max_overflow",
        "integer",
        10,
        "How many connections may be open above `pool_size`; -1 means no limit.",
        low=-1,
        queue_only=True,
    ),
    sa(
        "pool_timeout",
        "duration",
        PLUGIN_DEFAULTS["timeout"],
        "How long a caller waits for a connection before it gets an error.",
        low=0,
        high=YEAR,
        queue_only=True,
    ),
    sa(
        "pool_use_lifo",
        "flag",
        PLUGIN_DEFAULTS["use_lifo"],
        "Hand out the connection that was returned last, so that the others become idle.",
        queue_only=True,
    ),
    sa(
        "pool_recycle",
        "duration",
        -1,
        "The age at which a connection is replaced at its next checkout.",
        low=1,
        high=YEAR,
        off=-1,
        whole=True,
        note="-1 is off too",
    ),
    sa("pool_pre_ping", "flag", False, "Test each connection at checkout with a round trip."),
    sa(
        "pool_reset_on_return",
        "reset",
        "rollback",
        "What ends a transaction that is still open when its connection is returned.",
        choices=("rollback", "commit", "none"),
    ),
    sa(
        "poolclass",
        "class",
        None,
        "The pool class; without it ManagedPool, where SQLAlchemy would take QueuePool.",
        base=Pool,
        within="sqlalchemy.pool",
    ),
    sa("pool_logging_name", "text", None, "The name of the pool in log records."),
    sa("echo_pool", "debug", False, "Log what the pool does; `debug` adds each checkout."),
    # The connection.
    sa(
        "connect_args",
        "json",
        None,
        "More arguments for the driver's connect function.",
    ),
    sa("creator", "callable", None, "A function that opens a connection; the URL is not used."),
    sa("module", "module", None, "Another DBAPI module for the dialect."),
    sa(
        "isolation_level",
        "text",
        None,
        "The isolation level of every transaction, or AUTOCOMMIT.",
    ),
    sa(
        "skip_autocommit_rollback",
        "flag",
        False,
        "Send no ROLLBACK on a connection in autocommit mode.",
    ),
    # The engine and its dialect.
    sa("echo", "debug", False, "Log every statement; `debug` adds the rows."),
    sa("logging_name", "text", None, "The name of the engine in log records."),
    sa("hide_parameters", "flag", False, "Keep statement parameters out of logs and errors."),
    sa("execution_options", "json", None, "Execution options of every connection."),
    sa("query_cache_size", "integer", 500, "How many compiled statements are kept.", low=0),
    sa("enable_from_linting", "flag", True, "Warn about SELECTs with a cartesian product."),
    sa("json_serializer", "callable", None, "The function that writes JSON columns."),
    sa("json_deserializer", "callable", None, "The function that reads JSON columns."),
    sa("label_length", "integer", None, "The longest column label to generate.", low=0),
    sa("max_identifier_length", "integer", None, "The longest identifier in SQL.", low=0),
    sa("insertmanyvalues_page_size", "integer", None, "Rows in one bulk INSERT.", low=1),
    sa("use_insertmanyvalues", "flag", None, "Use bulk INSERT ... RETURNING."),
    sa("paramstyle", "choice", None, "The style of bound parameters.", choices=_STYLES),
    sa("plugins", "plugins", None, "SQLAlchemy engine plugins to load."),
    sa("future", "choice", "true", "Only true exists in SQLAlchemy 2.", choices=("true",)),
    # Ours, for the app.
    own(
        "url_setting",
        "key",
        "sqlalchemy.url",
        "The setting that holds the database URL.",
        note="a named pool has its own",
    ),
    own(
        "registry_key",
        "text",
        "sqlalchemy.engine",
        "The key of the registry under which the engine stands.",
        scope="app",
    ),
    own(
        "request_attr",
        "identifier",
        "db",
        "The attribute of the request that holds its session.",
        scope="app",
    ),
    own(
        "request_timeout",
        "duration",
        None,
        "Let no wait for a connection last beyond so long after the request began, over all its"
        " attempts.",
        scope="app",
        low=0.001,
        high=YEAR,
        off=None,
    ),
    own(
        "readiness_route",
        "path",
        None,
        "Answer on this path with 200 while the database can be reached, else with 503.",
        scope="app",
        off=None,
    ),
    # Of the windows: the live page, the processes' sockets, the metrics.
    own(
        "status_route",
        "path",
        "/dbpool",
        "The path of the live page, where `pyramid_dbpool.status` is included.",
        scope="app",
    ),
    own(
        "status_permission",
        "text",
        None,
        "The permission that one needs to see the live page.",
        scope="app",
        note="a permission of the app's; without it the page is refused",
    ),
    own(
        "status_command_permission",
        "text",
        None,
        "The permission that one needs to refresh, pause or resize a pool on the live page.",
        scope="app",
        off=None,
        note="nobody may if it is off",
    ),
    own(
        "run_dir",
        "folder",
        None,
        "A private folder in which each process answers, on a socket, who asks what its pools do.",
        scope="app",
        off=None,
    ),
    own(
        "prometheus_route",
        "path",
        "/dbpool/metrics",
        "The path of the metrics, where `pyramid_dbpool.prometheus` is included.",
        scope="app",
    ),
    # Ours, for each pool.
    own(
        "startup_check",
        "choice",
        "off",
        "When a server or `consume` starts, try a connection: `warn` once; `wait` until it works"
        " or `startup_timeout` is over; `require` the same, and end the process if it does not.",
        choices=("off", "warn", "wait", "require"),
    ),
    own(
        "startup_timeout",
        "duration",
        20.0,
        "How long `startup_check` waits for the database.",
        low=0,
        high=YEAR,
    ),
    own("session_class", "class", Session, "The class of sessions.", base=Session),
    own(
        "engine_hook",
        "callable",
        None,
        "A function that gets the new engine before its first connect.",
    ),
    own("read_only", "flag", False, "Make every transaction read-only."),
    own(
        "connect_timeout",
        "duration",
        5,
        "How long opening a connection may take at each host, and at each address of a host's"
        " name; off leaves it to the driver.",
        low=LEAST_CONNECT_TIMEOUT,
        high=YEAR,
        off=None,
        whole=True,
        note="if not given, the hosts of the URL share the 5 s, with 2 s each at least",
    ),
    # What a server is told when a connection is opened.
    own(
        "application_name",
        "text",
        None,
        "What PostgreSQL calls this app in `pg_stat_activity`; role and process id are added.",
        off="",
        note="the app's package or the program if not given",
    ),
    own(
        "statement_timeout",
        "duration",
        None,
        "The server cancels a statement that takes longer.",
        **_BY_POSTGRESQL,
    ),
    own(
        "lock_timeout",
        "duration",
        None,
        "The server cancels a statement that waits longer for a lock.",
        **_BY_POSTGRESQL,
    ),
    own(
        "idle_in_transaction_timeout",
        "duration",
        None,
        "The server ends a connection that is idle inside a transaction for longer.",
        **_BY_POSTGRESQL,
    ),
    # Ours, for the pool.
    managed(
        "min_idle",
        "integer",
        "Never close an idle connection if fewer than this many would be open; at most"
        " `pool_size`.",
        low=0,
    ),
    managed(
        "idle_timeout",
        "duration",
        "Close a connection that has been idle for so long.",
        low=0,
        high=YEAR,
        off=None,
    ),
    managed(
        "overflow_linger",
        "duration",
        "Keep an idle connection beyond `pool_size` for so long; 0 closes it at its return.",
        low=0,
        high=YEAR,
    ),
    managed(
        "max_lifetime",
        "duration",
        "Replace a connection at this age, or up to a quarter earlier at random.",
        low=1,
        high=YEAR,
        off=None,
    ),
    managed(
        "liveness",
        "flag",
        "Look at the socket of each connection that is handed out, and ping it if in doubt.",
    ),
    managed(
        "ping_after",
        "duration",
        "Ping a connection before it is handed out if it was idle for so long.",
        low=0,
        high=YEAR,
    ),
    managed("ping_timeout", "duration", "How long a ping may take.", low=0.001, high=YEAR),
    managed(
        "keepalive",
        "duration",
        "Ping idle connections so often, to keep them open in firewalls.",
        low=0.1,
        high=YEAR,
        off=None,
    ),
    managed(
        "max_waiting",
        "integer",
        "Refuse a caller at once when so many wait already.",
        low=0,
        off=-1,
        note="20 for each connection of the pool if not given",
    ),
    managed(
        "outage_grace",
        "duration",
        "Refuse callers at once when for so long no connection could be opened, and none that is"
        " open has answered.",
        low=0,
        high=YEAR,
        off=None,
    ),
    managed(
        "hold_warning",
        "duration",
        "Warn in the log when a connection is held for so long, and when a holder waits for"
        " another.",
        low=0.1,
        high=YEAR,
        off=None,
    ),
    managed(
        "trace_checkouts",
        "flag",
        "Note where in the app's code each connection is taken, for what is said of leaks and of"
        " long holds; a checkout takes some ten µs more.",
    ),
)

BY_KEY = {setting.key: setting for setting in SETTINGS}
MANAGED = tuple(setting.keyword for setting in SETTINGS if setting.managed_only)
KEYWORDS = frozenset(setting.keyword for setting in SETTINGS)


@dataclass(frozen=True, eq=False, repr=False)
class DbpoolOptions:
    """The values of one pool's `dbpool.*` settings, but for the arguments of `ManagedPool`."""

    startup_check: Literal["off", "warn", "wait", "require"]
    startup_timeout: float
    session_class: type[Session]
    engine_hook: Callable[[Engine], Any] | None
    read_only: bool
    connect_timeout: int | None
    application_name: str | None
    statement_timeout: float | None
    lock_timeout: float | None
    idle_in_transaction_timeout: float | None

    def __repr__(self) -> str:
        listed = ", ".join(f"{name}={value!r}" for name, value in mask_value(vars(self)).items())
        return f"DbpoolOptions({listed})"
