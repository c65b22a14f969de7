"""Settings: from an ini file's strings, or an app's objects, to what an engine needs."""

from typing import Any

import pytest
from sqlalchemy.orm import Session

from pyramid_dbpool.errors import PoolError, SettingsError
from pyramid_dbpool.settings import load_app, load_pool
from tests.settings.loading import FILE, POSTGRES, load, refusal, some_function


class OwnSession(Session):
    """A session class of the app."""


def test_a_wrong_setting_is_a_value_error_and_a_pool_error() -> None:
    """So that whoever catches either of them catches it."""
    with pytest.raises(SettingsError) as caught:
        load(pool_size="x")
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, PoolError)


def test_the_defaults_of_a_pool_are_ours() -> None:
    """SQLAlchemy's sizes, a shorter wait, and the last returned connection first."""
    options = load(POSTGRES).engine_options
    assert options["pool_size"] == 5
    assert options["max_overflow"] == 10
    assert options["pool_timeout"] == 5.0
    assert options["pool_use_lifo"] is True
    assert "poolclass" not in options, "the pool class is the engine's business"


def test_our_own_settings_have_their_types() -> None:
    """They stand apart from the arguments for the engine."""
    options = load_pool(
        {
            "sqlalchemy.url": POSTGRES,
            "dbpool.read_only": "true",
            "dbpool.session_class": f"{__name__}.OwnSession",
            "dbpool.engine_hook": f"{some_function.__module__}.some_function",
            "dbpool.connect_timeout": "7s",
        }
    ).options
    assert options.read_only is True
    assert options.session_class.__name__ == "OwnSession"
    assert getattr(options.engine_hook, "__name__", None) == "some_function"
    assert options.connect_timeout == 7
    other = load(poolclass="NullPool")
    assert other.managed is None
    assert vars(other.options) == {
        "session_class": Session,
        "engine_hook": None,
        "read_only": False,
        "connect_timeout": None,
        "startup_check": "off",
        "startup_timeout": 20.0,
        "application_name": None,
        "statement_timeout": None,
        "lock_timeout": None,
        "idle_in_transaction_timeout": None,
    }


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("dbpool.session_class", "builtins.dict", "class derived from Session"),
        ("dbpool.session_class", "sqlalchemy.orm.sessionmaker", "class derived from Session"),
        ("dbpool.session_class", "sqlalchemy.ext.asyncio.AsyncSession", "derived from Session"),
        ("dbpool.engine_hook", "os.sep", "not callable"),
        ("dbpool.read_only", "sometimes", "true or false"),
        ("dbpool.connect_timeout", "1", "at least 2"),
        ("dbpool.connect_timeout", "2.5", "whole"),
        ("dbpool.connect_timeout", "500ms", "whole"),
        ("dbpool.url_setting", "postgresql://u:p@h/d", "name of a setting"),
        ("dbpool.url_setting", 7, "name of a setting"),
    ],
)
def test_our_own_settings_have_bounds(key: str, value: Any, says: str) -> None:
    """And say them."""
    message = refusal({"sqlalchemy.url": POSTGRES, key: value})
    assert key in message
    assert says in message


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("sqlalchemy.pool_siz", "sqlalchemy.pool_size"),
        ("sqlalchemy.recycle", "sqlalchemy.pool_recycle"),
        ("sqlalchemy.timeout", "sqlalchemy.pool_timeout"),
        ("sqlalchemy.Echo", "sqlalchemy.echo"),
        ("sqlalchemy.pool_class", "sqlalchemy.poolclass"),
        ("dbpool.pool_size", "sqlalchemy.pool_size"),
        ("sqlalchemy.read_only", "dbpool.read_only"),
        ("dbpool.request_att", "dbpool.request_attr"),
        ("dbpool.url", "sqlalchemy.url"),
        ("dbpool.pool_timeou", "sqlalchemy.pool_timeout"),
        ("sqlalchemy.idle_timeou", "dbpool.idle_timeout"),
        ("sqlalchemy.overflow", "sqlalchemy.max_overflow"),
        ("dbpool.hold", "dbpool.hold_warning"),
        ("dbpool.lock_timeout.x", "dbpool.lock_timeout"),
        ("sqlalchemy.connect_args.timeout", "sqlalchemy.connect_args"),
        ("sqlalchemy.native_datetim", "sqlalchemy.native_datetime"),
    ],
)
def test_an_unknown_key_cites_the_nearest_known_one(key: str, nearest: str) -> None:
    """Whether it is misspelt, or stands under the other prefix."""
    message = refusal({"sqlalchemy.url": FILE, key: "7"})
    assert key in message
    assert message.rstrip(".").split()[-1] == nearest


@pytest.mark.parametrize("key", ["sqlalchemy.convert_unicode", "dbpool.nonsense"])
def test_an_unknown_key_like_no_other_gets_no_guess(key: str) -> None:
    """A wrong one would send its reader astray."""
    message = refusal({"sqlalchemy.url": FILE, key: "7"})
    assert message == f"{key} = '7' is not a setting; `pdbpool settings` lists them."


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("pyramid_dbpool.hold_warning", "dbpool.hold_warning"),
        ("pyramid_dbpool.hold_warn", "dbpool.hold_warning"),
        ("pyramid_dbpool.pool_size", "sqlalchemy.pool_size"),
        ("pyramid_dbpool.replica.read_only", "dbpool.replica.read_only"),
        ("dppool.min_idle", "dbpool.min_idle"),
        ("db_pool.min_idle", "dbpool.min_idle"),
        ("DBPOOL.min_idle", "dbpool.min_idle"),
        ("dbpol.replica.read_only", "dbpool.replica.read_only"),
        ("sqlalchmy.pool_size", "sqlalchemy.pool_size"),
        ("sqlalchmy.url", "sqlalchemy.url"),
        ("sqlalchmy.replica.url", "sqlalchemy.replica.url"),
    ],
)
def test_another_spelling_of_a_prefix_is_refused(key: str, wanted: str) -> None:
    """A setting under it would be ignored in silence."""
    message = refusal({"sqlalchemy.url": FILE, key: "7"})
    assert message == f"{key} is not a setting: write {wanted}."


@pytest.mark.parametrize("key", ["sqlalchemy2.pool_size", "pool.min_idle", "dppool.size"])
def test_the_settings_of_others_are_theirs(key: str) -> None:
    """An engine that the app makes by itself, and what is no setting of ours."""
    load_pool({"sqlalchemy.url": FILE, key: "7"})


INTERNAL = """
    pool dialect dbapi events pool_events strategy empty_in_strategy compiler_linting cls creator_
    _pool _initialize _coerce_config _dispatch . ..
"""


@pytest.mark.parametrize("keyword", INTERNAL.split())
def test_what_sqlalchemy_fills_itself_is_refused(keyword: str) -> None:
    """Even though its constructors have arguments of these names."""
    assert "sqlalchemy." in refusal({"sqlalchemy.url": FILE, f"sqlalchemy.{keyword}": "x"})


def test_the_value_of_an_unknown_key_is_cited_only_if_it_is_harmless() -> None:
    """What stands under a misspelt key may be a password."""
    assert "= '7'" in refusal({"sqlalchemy.url": FILE, "sqlalchemy.pool_siz": "7"})
    assert "hunter2" not in refusal({"sqlalchemy.url": FILE, "sqlalchemy.poolsize": "hunter2"})
    assert "1234" not in refusal({"sqlalchemy.url": FILE, "sqlalchemy.password": "1234"})


def test_read_only_does_not_go_with_autocommit() -> None:
    """There is no transaction that could be read-only."""
    settings = {"sqlalchemy.url": POSTGRES, "dbpool.read_only": "true"}
    assert load_pool({**settings, "sqlalchemy.isolation_level": "serializable"})
    for extra in (
        {"sqlalchemy.isolation_level": "autocommit"},
        {"sqlalchemy.execution_options": '{"isolation_level": "AUTOCOMMIT"}'},
    ):
        message = refusal(settings | extra)
        assert "dbpool.read_only" in message
        assert "AUTOCOMMIT" in message
        assert load_pool({**settings, **extra, "dbpool.read_only": "no"})


def test_an_app_has_its_pools_and_its_names() -> None:
    """With the defaults of h; the default pool comes first."""
    app = load_app(
        {"sqlalchemy.a.url": FILE, "sqlalchemy.url": FILE, "pyramid.includes": "pyramid_tm"}
    )
    assert (app.registry_key, app.request_attr) == ("sqlalchemy.engine", "db")
    assert list(app.pools) == ["default", "a"]
    renamed = {"dbpool.registry_key": "database_engine", "dbpool.request_attr": "dbsession"}
    app = load_app({"sqlalchemy.url": FILE} | renamed)
    assert (app.registry_key, app.request_attr) == ("database_engine", "dbsession")


@pytest.mark.parametrize("name", ["_db", "d b", "class", "", "1db", "db-2", 7])
def test_the_attribute_of_the_request_is_an_identifier(name: Any) -> None:
    """It has to be something that can be written after `request.`."""
    with pytest.raises(SettingsError, match=r"dbpool\.request_attr"):
        load_app({"sqlalchemy.url": FILE, "dbpool.request_attr": name})


def test_an_app_needs_the_default_pool() -> None:
    """A pool of one's own may do without it."""
    settings = {"sqlalchemy.replica.url": FILE}
    with pytest.raises(SettingsError, match=r"sqlalchemy\.url is missing"):
        load_app(settings)
    assert load_pool(settings, "replica").name == "replica"


def test_all_mistakes_are_told_at_once() -> None:
    """With a line for each, so that nobody has to mend one to see the next."""
    url = {"sqlalchemy.url": FILE}
    for mistakes in (
        {"sqlalchemy.pool_size": "x", "sqlalchemy.native_datetime": "x", "dbpool.nonsense": "x"},
        {"dbpool.connect_timeout": "9", "dbpool.lock_timeout": "1s", "dbpool.min_idle": "7"},
        {"sqlalchemy.nonsense.echo": "1", "dppool.min_idle": "1"},
    ):
        with pytest.raises(SettingsError) as caught:
            load_pool(url | mistakes)
        lines = str(caught.value).splitlines()
        assert len(lines) == len(mistakes)
        for key in mistakes:
            assert any(key in line for line in lines), key
    with pytest.raises(SettingsError) as caught:
        load(poolclass="NullPool", pool_size="3", max_overflow="3")
    assert str(caught.value).count("has no effect: sqlalchemy.poolclass is NullPool") == 2
