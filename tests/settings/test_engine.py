"""What reaches `create_engine`, the dialect, the pool class and the driver."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import create_engine, engine_from_config, event, pool
from sqlalchemy.dialects import plugins
from sqlalchemy.engine import CreateEnginePlugin

from pyramid_dbpool.settings import PoolSettings, load_pool
from tests.settings.loading import FILE, POSTGRES, load, refusal, refused, some_function


class OwnPool(pool.QueuePool):
    """A pool class of the app, with an argument of its own."""

    def __init__(self, creator: Any, patience: int = 1, **kw: Any) -> None:
        super().__init__(creator, **kw)
        self.patience = patience


@pytest.mark.parametrize(
    "url",
    [
        FILE,
        POSTGRES,
        POSTGRES.replace("psycopg", "psycopg2"),
        "mysql+pymysql://web:s3cret@db.example/h",
        "mysql+mysqlconnector://web:s3cret@db.example/h",
        "mariadb+pymysql://web:s3cret@db.example/h",
    ],
)
def test_an_engine_can_be_made_from_the_options(url: str) -> None:
    """For every driver that we support, with a full ini file."""
    loaded = load(
        url,
        pool_size="3",
        max_overflow="4",
        pool_timeout="2.5",
        pool_recycle="30m",
        pool_pre_ping="false",
        pool_use_lifo="false",
        pool_reset_on_return="rollback",
        echo="false",
        hide_parameters="true",
        execution_options='{"stream_results": true}',
        json_serializer="json.dumps",
        isolation_level="serializable",
        query_cache_size="100",
        label_length="20",
        poolclass="QueuePool",
        pool_logging_name="main",
        enable_from_linting="false",
        future="true",
        insertmanyvalues_page_size="10",
        skip_autocommit_rollback="false",
    )
    engine = create_engine(loaded.url, **loaded.engine_options)
    assert isinstance(engine.pool, pool.QueuePool)
    assert engine.pool.size() == 3
    assert engine.pool.timeout() == 2.5
    assert engine.hide_parameters is True
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "keyword", "value", "expected"),
    [
        (POSTGRES, "use_native_hstore", "false", False),
        (POSTGRES, "client_encoding", "utf8", "utf8"),
        (POSTGRES, "native_inet_types", True, True),
        (POSTGRES.replace("psycopg", "psycopg2"), "executemany_batch_page_size", "50", 50),
        ("mysql+pymysql://u@h/d", "is_mariadb", "true", True),
    ],
)
def test_keys_of_the_dialect_are_taken_in_their_type(
    url: str, keyword: str, value: Any, expected: Any
) -> None:
    """Though nobody has declared them; their defaults and annotations tell the type."""
    loaded = load(url, **{keyword: value})
    assert loaded.engine_options[keyword] == expected
    create_engine(loaded.url, **loaded.engine_options).dispose()


def test_keys_of_the_pool_class_are_taken_in_their_type() -> None:
    """A pool class of the app has arguments that only it knows."""
    loaded = load(POSTGRES, poolclass=OwnPool, patience="3")
    engine = create_engine(loaded.url, **loaded.engine_options)
    assert isinstance(engine.pool, OwnPool)
    assert engine.pool.patience == 3
    assert "is not a setting" in refused("patience", "3")


def test_a_key_of_another_dialect_is_refused() -> None:
    """As `create_engine` would refuse it, only that it names the ini key."""
    assert "sqlalchemy.native_datetime" in refused("native_datetime", "true", POSTGRES)


def test_what_the_dialect_refuses_cites_the_url() -> None:
    """A query item of the URL that cannot be read is a setting like any other."""
    message = refusal({"sqlalchemy.url": "sqlite:///x.db?timeout=soon"})
    assert message.startswith("sqlalchemy.url = ")
    assert "soon" in message


def test_modules_may_be_objects_and_names() -> None:
    """Another DBAPI module, as SQLAlchemy takes it."""
    sqlite3 = sys.modules["sqlite3"]
    assert load(module="sqlite3").engine_options["module"] is sqlite3
    assert load(module=sqlite3).engine_options["module"] is sqlite3
    fake = SimpleNamespace(connect=some_function, paramstyle="qmark", sqlite_version_info=(3, 40))
    assert load(module=fake).engine_options["module"] is fake


class OwnPlugin(CreateEnginePlugin):
    """A plugin that does nothing."""


def test_plugins_are_a_list_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commas and spaces both separate them; one that is not installed is an error here."""
    monkeypatch.setitem(plugins.impls, "own", lambda: OwnPlugin)
    names = ["own", "own"]
    assert load(plugins="own, own").engine_options["plugins"] == names
    assert load(plugins=names).engine_options["plugins"] == names
    assert "'geo'" in refused("plugins", "own geo")


def _arguments(loaded: PoolSettings) -> dict[str, Any]:
    """Return what the driver's connect function would get."""
    engine = create_engine(loaded.url, **loaded.engine_options)
    seen: dict[str, Any] = {}

    @event.listens_for(engine, "do_connect")
    def instead(dialect: Any, record: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen.update(kwargs)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        engine.connect()
    return seen


DRIVERS = [
    ("postgresql+psycopg", "connect_timeout"),
    ("postgresql+psycopg2", "connect_timeout"),
    ("mysql+pymysql", "connect_timeout"),
    ("mysql+mysqlconnector", "connection_timeout"),
]


@pytest.mark.parametrize(("driver", "argument"), DRIVERS)
def test_opening_a_connection_has_a_limit(driver: str, argument: str) -> None:
    """Each driver has its own name for it; five seconds if nobody says otherwise."""
    url = f"{driver}://web@db.example/h"
    assert _arguments(load(url))[argument] == 5
    own = load_pool({"sqlalchemy.url": url, "dbpool.connect_timeout": "9"})
    assert _arguments(own)[argument] == 9
    for off in ("off", "", "none", None):
        none = load_pool({"sqlalchemy.url": url, "dbpool.connect_timeout": off})
        assert argument not in _arguments(none)


@pytest.mark.parametrize(("driver", "argument"), DRIVERS)
def test_the_users_limit_on_opening_wins(driver: str, argument: str) -> None:
    """Whether it stands in the URL or among the connect arguments."""
    url = f"{driver}://web@db.example/h"
    assert int(_arguments(load(f"{url}?{argument}=8"))[argument]) == 8
    arguments = _arguments(load(url, connect_args={argument: 7, "x": 1}))
    assert (arguments[argument], arguments["x"]) == (7, 1)


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "postgresql+psycopg2"])
@pytest.mark.parametrize(
    ("hosts", "seconds"),
    [("host=a", 5), ("host=a:1&host=b:2", 2), ("host=a,b", 2), ("host=a,b,c,d", 2)],
)
def test_several_hosts_share_the_limit_on_opening(driver: str, hosts: str, seconds: int) -> None:
    """It is spent at each: with five seconds, callers gave up just before the second answered."""
    url = f"{driver}://web@/h?{hosts}"
    assert _arguments(load(url))["connect_timeout"] == seconds
    given = {"sqlalchemy.url": url, "dbpool.connect_timeout": "5"}
    assert _arguments(load_pool(given))["connect_timeout"] == 5


def test_hosts_are_counted_wherever_they_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Among the connect arguments, in libpq's environment, as servers to fail over to."""
    bare = "postgresql+psycopg://web@/h"
    assert _arguments(load(bare, connect_args={"host": "a,b"}))["connect_timeout"] == 2
    failover = {"failover": [{"host": "a"}, {"host": "b"}]}
    connector = load("mysql+mysqlconnector://web@/h", connect_args=failover)
    assert _arguments(connector)["connection_timeout"] == 2
    monkeypatch.setenv("PGHOST", "a,b")
    assert _arguments(load(bare))["connect_timeout"] == 2
    assert _arguments(load("postgresql+psycopg://web@a/h"))["connect_timeout"] == 5


@pytest.mark.parametrize(("driver", "argument"), DRIVERS)
def test_two_limits_on_opening_are_refused(driver: str, argument: str) -> None:
    """Only one of them could hold, and nobody would know which."""
    url, ours = f"{driver}://web@db.example/h", {"dbpool.connect_timeout": "9"}
    said = refusal({"sqlalchemy.url": f"{url}?{argument}=8", **ours})
    assert said.startswith("dbpool.connect_timeout = '9' has no effect:")
    assert argument in said
    arguments = {"sqlalchemy.connect_args": {argument: 7}}
    assert argument in refusal({"sqlalchemy.url": url, **arguments, **ours})


@pytest.mark.parametrize(
    "stores_at_once",
    [
        {"sqlalchemy.isolation_level": "AUTOCOMMIT"},
        {"sqlalchemy.execution_options": {"isolation_level": "AUTOCOMMIT"}},
        {"sqlalchemy.connect_args": '{"autocommit": true}'},
        {"sqlalchemy.url": f"{POSTGRES}?autocommit=true"},
    ],
)
def test_a_pool_that_stores_each_statement_cannot_be_read_only(
    stores_at_once: dict[str, Any],
) -> None:
    """There is no transaction that could be, however it has come to that."""
    settings = {"sqlalchemy.url": POSTGRES, **stores_at_once}
    assert load_pool(settings).is_autocommit
    assert "dbpool.read_only = true" in refusal({**settings, "dbpool.read_only": "true"})


def test_mysql_connector_runs_its_python_code_unless_the_user_has_chosen() -> None:
    """A connection that its C extension loses at COMMIT is not seen to be lost."""
    url = "mysql+mysqlconnector://web@db.example/h"
    assert _arguments(load(url))["use_pure"] is True
    assert _arguments(load(f"{url}?use_pure=false"))["use_pure"] is False
    assert _arguments(load(url, connect_args={"use_pure": False}))["use_pure"] is False
    assert "use_pure" not in _arguments(load("mysql+pymysql://web@db.example/h"))


def test_connect_timeout_where_there_is_none_is_refused() -> None:
    """SQLite has no such limit, and a creator opens connections as it likes."""
    assert "pysqlite" in refusal({"sqlalchemy.url": FILE, "dbpool.connect_timeout": "9"})
    with_creator = {"sqlalchemy.url": POSTGRES, "sqlalchemy.creator": some_function}
    assert "creator" in refusal({**with_creator, "dbpool.connect_timeout": "9"})
    assert "connect_args" not in load_pool(with_creator).engine_options


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("pool_timeout", "2.5"),
        ("pool_recycle", ""),
        ("poolclass", "NullPool"),
        ("connect_args", '{"timeout": 7}'),
        ("json_serializer", "json.dumps"),
    ],
)
def test_what_engine_from_config_cannot_read_is_read(keyword: str, value: str) -> None:
    """It passes the strings on, to fail now or at the first connect."""
    ini = {"sqlalchemy.url": FILE, f"sqlalchemy.{keyword}": value}
    try:
        theirs = engine_from_config(ini)
        try:
            with theirs.connect() as connection:
                assert callable(connection.dialect._json_serializer)
        finally:
            theirs.dispose()
    except (ValueError, TypeError, AttributeError, AssertionError):
        loaded = load_pool(ini)
        create_engine(loaded.url, **loaded.engine_options).dispose()
    else:
        pytest.fail("engine_from_config has learnt to read it")


def test_what_engine_from_config_lets_pass_is_refused_or_right() -> None:
    """A string that is true because it is not empty, a size below nothing, a nameless typo."""
    ini = {"sqlalchemy.url": FILE, "sqlalchemy.pool_pre_ping": "false"}
    theirs: Any = engine_from_config(ini)
    assert theirs.pool._pre_ping == "false"
    theirs.dispose()
    assert load_pool(ini).engine_options["pool_pre_ping"] is False
    ini = {"sqlalchemy.url": FILE, "sqlalchemy.pool_size": "-3"}
    engine_from_config(ini).dispose()
    assert "at least 0" in refusal(ini)
    ini = {"sqlalchemy.url": FILE, "sqlalchemy.pool_siz": "3"}
    with pytest.raises(TypeError) as caught:
        engine_from_config(ini)
    assert "sqlalchemy.pool_siz" not in str(caught.value)
    assert "sqlalchemy.pool_siz" in refusal(ini)
