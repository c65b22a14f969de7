"""Every setting, declared once, as data.

Coercion, bounds, the reference page and the command line's listing are all made
from `SETTINGS`. A new setting is one more entry in it.
"""

from sqlalchemy.orm import Session
from sqlalchemy.pool import Pool

from ..pool.options import PLUGIN_DEFAULTS
from .declare_server import SERVER_SETTINGS
from .declare_web import WEB_SETTINGS
from .setting import YEAR, Setting, managed, own, sa

__all__ = ["BY_KEY", "KEYWORDS", "MANAGED", "SETTINGS"]

_STYLES = ("qmark", "numeric", "named", "format", "pyformat", "numeric_dollar")

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
        "Send no ROLLBACK on a connection in autocommit mode (SQLAlchemy 2.0.43 and later).",
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
    *WEB_SETTINGS,
    # Ours, for each pool.
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
        "How long opening a connection may take; off leaves it to the driver.",
        low=2,
        high=YEAR,
        off=None,
        whole=True,
    ),
    *SERVER_SETTINGS,
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
        "Refuse callers at once when the server has been away for so long.",
        low=0,
        high=YEAR,
        off=None,
    ),
    managed(
        "hold_warning",
        "duration",
        "Warn in the log when a connection is held for so long, and when one holder takes two.",
        low=0.1,
        high=YEAR,
        off=None,
    ),
)

BY_KEY = {setting.key: setting for setting in SETTINGS}
MANAGED = tuple(setting.keyword for setting in SETTINGS if setting.managed_only)
KEYWORDS = frozenset(setting.keyword for setting in SETTINGS)
