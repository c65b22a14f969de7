"""A database URL, and what stands behind it: the dialect, its driver, the pool class it takes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Any

from sqlalchemy import exc as sa_exc
from sqlalchemy import util
from sqlalchemy.engine import URL, Dialect, make_url
from sqlalchemy.pool import Pool, QueuePool, SingletonThreadPool

from ..errors import SettingsError
from ..secrets import mask_url, scrub, shown
from .declaration import MANAGED
from .mistakes import known_ones, nearest

__all__ = [
    "Backend",
    "dialect_class",
    "keywords",
    "open_backend",
    "parse_url",
    "pool_keywords",
]

_SHAPE = "dialect+driver://user:password@host/database"
_ENCODE = (
    "write @ : / ? in a user name or password as %40 %3A %2F %3F (in an ini file with %% for %)"
)
_PLACEHOLDER = re.compile(r"\$\{(\w+)\}|\$(\w+)|%\((\w+)\)s")
_USERINFO = re.compile(r"[\w+]+://(?:[^:/]*(?::[^@]*)?@)?(.*)", re.DOTALL)
# Our extras that install a driver, and the module that shows that it is there.
_EXTRAS = {
    "psycopg": ("psycopg", "psycopg"),
    "psycopg2": ("psycopg2", "psycopg2"),
    "pymysql": ("pymysql", "pymysql"),
    "mysqldb": ("mysqlclient", "MySQLdb"),
    "mysqlconnector": ("mysqlconnector", "mysql.connector"),
}
_PACKAGES = {
    "mariadbconnector": "mariadb",
    "mssqlpython": "mssql-python",
    "pysqlcipher": "sqlcipher3",
}
_DRIVERS = {
    "postgresql": ("psycopg", "psycopg2", "pg8000"),
    "mysql": ("pymysql", "mysqlconnector", "mysqldb", "mariadbconnector", "pyodbc"),
    "mariadb": ("pymysql", "mysqlconnector", "mysqldb", "mariadbconnector", "pyodbc"),
    "sqlite": ("pysqlite",),
    "oracle": ("oracledb", "cx_oracle"),
    "mssql": ("pyodbc", "pymssql"),
}
_SYNC = {"sqlite": "sqlite", "mysql": "mysql+pymysql", "mariadb": "mariadb+pymysql"} | {
    "postgresql": "postgresql+psycopg",
    "oracle": "oracle+oracledb",
    "mssql": "mssql+pyodbc",
}
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


@dataclass(frozen=True)
class Backend:
    """A dialect that is ready to make connections, with what it and its pool take."""

    dialect: Dialect
    pool_class: type[Pool]
    in_memory: bool
    chosen: bool = False

    @property
    def managed(self) -> bool:
        """Whether the pool is a `ManagedPool`: in QueuePool's place, unless one is chosen."""
        if self.chosen:
            return frozenset(MANAGED) <= pool_keywords(self.pool_class)
        return self.queues

    @property
    def queues(self) -> bool:
        """Whether callers may have to wait for a connection of this pool."""
        return issubclass(self.pool_class, QueuePool)


def parse_url(value: Any, key: str) -> URL:
    """Return the URL that a setting holds; raise SettingsError, never showing a password."""
    if isinstance(value, URL):
        return value
    if not isinstance(value, str):
        raise SettingsError(f"{key} is {shown(value)}, not a database URL: give {_SHAPE}.")
    raw = value.strip()
    if not raw:
        raise SettingsError(f"{key} is empty: give a database URL, {_SHAPE}.")
    if "\n" in raw or "\r" in raw:
        raise SettingsError(f"{key} = {mask_url(raw)} goes over two lines: write it on one line.")
    if raw[0] == raw[-1] and raw[0] in "'\"":
        raise SettingsError(f"{key} is in quotes: write it without them, {_SHAPE}.")
    try:
        url = make_url(raw)
    except sa_exc.ArgumentError:
        if placeholder := _PLACEHOLDER.fullmatch(raw):
            name = next(filter(None, placeholder.groups()))
            raise SettingsError(_not_replaced(key, raw, name)) from None
        cited = mask_url(raw)
        raise SettingsError(f"{key} = {cited} is not a database URL: give {_SHAPE}.") from None
    except ValueError:
        raise SettingsError(
            f"{key} = {mask_url(raw)} has no number for a port: a port is a number; {_ENCODE}."
        ) from None
    if _ambiguous(raw, url):
        raise SettingsError(f"{key} = {mask_url(raw)} has more than one @: {_ENCODE}.")
    if url.port is not None and not 0 < url.port < 65536:
        raise SettingsError(f"{key} = {mask_url(raw)}: the port must be from 1 to 65535.")
    return url


def _not_replaced(key: str, raw: str, name: str) -> str:
    one = " with one %" if raw[0] == "%" else ""
    return (
        f"{key} = {raw} was not replaced. In the ini file write %({name})s{one}, and give"
        f" {name}=URL right after the file on the command line or in its [DEFAULT], with %% for"
        " each % of the URL. The environment is not asked; an app's code may do that:"
        f" settings[{key!r}] = os.environ[{name!r}]."
    )


def _ambiguous(raw: str, url: URL) -> bool:
    """Tell whether a bare @ in the password has cut the URL at the wrong place."""
    if url.get_backend_name() == "sqlite" and url.password is None:
        return False
    match = _USERINFO.match(raw)
    path, _, query = (match[1] if match else raw).partition("?")
    return "@" in path or any("@" in item.partition("=")[0] for item in query.split("&"))


def dialect_class(url: URL, key: str) -> type[Dialect]:
    """Return the dialect class of a URL; refuse unknown and asyncio ones by name."""
    try:
        found = url.get_dialect()
    except sa_exc.NoSuchModuleError:
        raise SettingsError(f"{key} = {mask_url(url)}: {_unknown(url)}") from None
    except ImportError as error:
        raise SettingsError(
            f"{key} = {mask_url(url)}: the dialect cannot be imported ({error})."
        ) from None
    if found.is_async:
        sync = _SYNC.get(url.get_backend_name(), "a driver that is not asyncio")
        raise SettingsError(
            f"{key} = {mask_url(url)}: {url.drivername} is an asyncio driver, and sessions "
            f"here are not: use {sync}."
        )
    return found


def _unknown(url: URL) -> str:
    name, _, driver = url.drivername.partition("+")
    if name in _DRIVERS:
        near = nearest(driver.lower(), _DRIVERS[name])
        if not _DRIVERS[name][1:]:
            only = f"{name}+{_DRIVERS[name][0]}"
            return f"SQLAlchemy knows no driver {url.drivername}; there is only {only}."
        known = ", ".join(f"{name}+{each}" for each in _DRIVERS[name])
        hint = f" the nearest is {name}+{near};" if near else ""
        return f"SQLAlchemy knows no driver {url.drivername};{hint} there are {known}."
    plugged = {entry.name.partition(".")[0] for entry in entry_points(group="sqlalchemy.dialects")}
    known_names = sorted(set(_DRIVERS) | plugged)
    return f"SQLAlchemy knows no dialect {name};{known_ones(name.lower(), known_names)}."


def open_backend(
    url: URL, key: str, given: Mapping[str, Any], pool_class: type[Pool] | None
) -> Backend:
    """Import the driver and make the dialect, as `create_engine` would, without connecting.

    `given` are the keyword arguments for `create_engine`.

    :raises SettingsError: the driver is not there, or refuses the URL or an argument.
    """
    made: Any = dialect_class(url, key)
    arguments = {name: given[name] for name in keywords(made) & given.keys()}
    try:
        dbapi = given.get("module") or made.import_dbapi()
    except ImportError as error:
        raise SettingsError(
            f"{key} = {mask_url(url)}: {_no_driver(url, made.driver, error)}"
        ) from None
    try:
        dialect = made(dbapi=dbapi, **arguments)
        dialect.create_connect_args(url.difference_update_query(["plugin", "plugins"]))
    except Exception as error:
        reason = scrub(str(error), url).split("\n", 1)[0]
        if "://" in reason:
            # It quotes the URL, and knows less than we do about what to hide.
            reason = "it has parts that this dialect has no use for"
        raise SettingsError(
            f"{key} = {mask_url(url)} is refused by its driver: {reason}."
        ) from None
    memory = dialect.name == "sqlite" and _in_memory(url)
    default = SingletonThreadPool if memory else dialect.get_dialect_pool_class(url)
    return Backend(dialect, pool_class or default, memory, chosen=pool_class is not None)


def keywords(cls: type) -> frozenset[str]:
    """Return the keyword arguments that a class takes, as `create_engine` finds them."""
    return frozenset(util.get_cls_kwargs(cls) or ())


def pool_keywords(cls: type[Pool]) -> frozenset[str]:
    """Return what a pool class takes, under the names that `create_engine` has for it."""
    return frozenset(_POOL_NAMES.get(keyword, keyword) for keyword in keywords(cls))


def _no_driver(url: URL, driver: str, error: ImportError) -> str:
    extra, module = _EXTRAS.get(driver, ("", ""))
    if not isinstance(error, ModuleNotFoundError) or (module and _installed(module)):
        return f"the driver {driver} cannot be imported: {scrub(str(error), url)}"
    package = _PACKAGES.get(driver) or driver
    wanted = f'"pyramid_dbpool[{extra}]"' if extra else package
    text = f"the driver {driver} is not installed: run pip install {wanted}"
    others = [
        f"{url.get_backend_name()}+{other}"
        for other in _DRIVERS.get(url.get_backend_name(), ())
        if other in _EXTRAS and other != driver and _installed(_EXTRAS[other][1])
    ]
    return text + (f", or use {others[0]}, which is." if others else ".")


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _in_memory(url: URL) -> bool:
    # SQLAlchemy itself takes file::memory: for a file, and would give each of the
    # pool's connections an empty database of its own.
    database = url.database or ":memory:"
    return database in (":memory:", "file::memory:") or url.query.get("mode") == "memory"
