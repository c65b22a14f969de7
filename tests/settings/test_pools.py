"""Named pools, pools of other classes, and what makes two pools the same."""

import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, pool

from pyramid_dbpool.errors import SettingsError
from pyramid_dbpool.settings import load_app, load_pool
from tests.settings.loading import FILE, POSTGRES, load, refusal, some_function

TWO = {"sqlalchemy.url": FILE, "sqlalchemy.replica.url": POSTGRES}


def test_a_named_pool_has_options_of_its_own() -> None:
    """It takes over nothing from the default pool."""
    settings = {
        **TWO,
        "sqlalchemy.pool_size": "9",
        "dbpool.read_only": "yes",
        "sqlalchemy.replica.max_overflow": "1",
        "sqlalchemy.replica.use_native_hstore": "no",
        "dbpool.replica.connect_timeout": "3",
    }
    replica = load_pool(settings, "replica")
    assert (replica.name, replica.capacity) == ("replica", 6)
    assert replica.options.read_only is False
    assert replica.options.connect_timeout == 3
    assert replica.engine_options["use_native_hstore"] is False
    assert load_pool(settings).capacity == 19
    assert load_pool(settings).options.read_only is True


def test_the_source_of_a_value_is_its_full_ini_key() -> None:
    """Also of a value that is not set: then it is the key that would set it."""
    replica = load_pool({**TWO, "dbpool.replica.read_only": "yes"}, "replica")
    assert replica.source("url") == "sqlalchemy.replica.url"
    assert replica.source("read_only") == "dbpool.replica.read_only"
    assert replica.source("engine_hook") == "dbpool.replica.engine_hook"
    assert replica.source("pool_size") == "sqlalchemy.replica.pool_size"
    assert load_pool(TWO).source("pool_size") == "sqlalchemy.pool_size"


def test_a_named_pools_url_may_stand_under_another_key() -> None:
    """That alone makes the pool."""
    settings = {"dbpool.replica.url_setting": "replica_url", "replica_url": FILE}
    assert load_pool(settings, "replica").source("url") == "replica_url"
    shared = {"sqlalchemy.url": FILE, "dbpool.replica.url_setting": "sqlalchemy.url"}
    assert load_pool(shared, "replica").url == load_pool(shared).url
    assert list(load_app(shared).pools) == ["default", "replica"]


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("sqlalchemy.Replica.url", "a-z, 0-9 and _"),
        ("sqlalchemy.1st.url", "starts with a letter"),
        ("sqlalchemy.read-only.url", "a-z, 0-9 and _"),
        ("sqlalchemy.a.b.url", "a-z, 0-9 and _"),
        ("sqlalchemy.é.url", "a-z, 0-9 and _"),
        ("sqlalchemy.pool_size.url", "which is a setting"),
        ("sqlalchemy.read_only.url", "which is a setting"),
        ("dbpool.echo.url_setting", "which is a setting"),
        ("sqlalchemy.default.url", "write sqlalchemy.url"),
        ("dbpool.default.url_setting", "write dbpool.url_setting"),
    ],
)
def test_a_name_that_no_pool_can_have_is_refused(key: str, says: str) -> None:
    """It could not be told from a setting, or not be an attribute of the request."""
    message = refusal({"sqlalchemy.url": FILE, key: FILE})
    assert key in message
    assert says in message


def test_options_of_a_pool_without_a_url_cite_the_nearest_key() -> None:
    """Every pool says so: the misspelt key may be meant for any of them."""
    settings = {**TWO, "sqlalchemy.replcia.pool_size": "3"}
    for name in ("default", "replica"):
        message = refusal(settings, name)
        assert "no pool 'replcia'" in message
        assert message.endswith("sqlalchemy.replica.pool_size.")
    assert "either add sqlalchemy.other.url, or write" in refusal(
        {**TWO, "dbpool.other.read_only": "yes"}
    )


def test_an_unknown_key_of_a_named_pool_cites_the_nearest_one() -> None:
    """In that pool's own spelling."""
    message = refusal({**TWO, "sqlalchemy.replica.pool_siz": "3"}, "replica")
    assert message.endswith("sqlalchemy.replica.pool_size.")
    message = refusal({**TWO, "dbpool.replica.request_attr": "x"}, "replica")
    assert message.endswith("for the whole app: the nearest known key is dbpool.request_attr.")
    assert not hasattr(load_pool(TWO, "replica").options, "request_attr")


def test_another_pools_mistake_is_its_own() -> None:
    """A worker on the replica runs while somebody mends the default pool, and the reverse."""
    settings = {**TWO, "sqlalchemy.pool_size": "x", "sqlalchemy.nonsense": "x", "dbpool.x": "x"}
    assert load_pool(settings, "replica").name == "replica"
    settings = {**TWO, "sqlalchemy.replica.url": "x", "dbpool.replica.nonsense": "x"}
    assert load_pool(settings).name == "default"
    with pytest.raises(SettingsError):
        load_app(settings)


def test_a_pool_that_is_not_there_is_refused_with_those_that_are() -> None:
    """The name is the caller's, so the message is for him."""
    assert refusal(TWO, "replcia").endswith("or take one of default, replica.")
    assert refusal({"sqlalchemy.url": FILE}, "replica").endswith("or take default.")


@pytest.mark.parametrize(
    ("size", "overflow", "capacity"),
    [("5", "10", 15), ("1", "0", 1), ("0", "10", None), ("5", "-1", None), ("0", "0", None)],
)
def test_capacity_is_size_and_overflow_or_no_limit(
    size: str, overflow: str, capacity: int | None
) -> None:
    """A size of 0 and an overflow of -1 both mean no limit."""
    assert load(POSTGRES, pool_size=size, max_overflow=overflow).capacity == capacity


@pytest.mark.parametrize("poolclass", ["NullPool", "StaticPool", "SingletonThreadPool"])
def test_other_pool_classes_get_no_options_about_waiting(poolclass: str) -> None:
    """Ours would make them fail; the user's would have no effect."""
    loaded = load(POSTGRES, poolclass=poolclass)
    assert not issubclass(loaded.pool_class, pool.QueuePool)
    assert loaded.capacity is None
    create_engine(loaded.url, **loaded.engine_options).dispose()
    for keyword in ("max_overflow", "pool_timeout", "pool_use_lifo"):
        with pytest.raises(SettingsError, match=f"{keyword} = '1' has no effect.*{poolclass}"):
            load(POSTGRES, poolclass=poolclass, **{keyword: "1"})
    assert load(POSTGRES, poolclass=poolclass, pool_recycle="60", pool_pre_ping="yes")


def test_a_pool_class_keeps_the_options_that_it_takes() -> None:
    """SingletonThreadPool has a size, for its threads, if somebody has chosen it."""
    assert (
        load(POSTGRES, poolclass="SingletonThreadPool", pool_size="2").engine_options["pool_size"]
        == 2
    )
    assert load(POSTGRES, poolclass="AssertionPool").capacity == 1
    with pytest.raises(SettingsError, match="pool_size"):
        load(POSTGRES, poolclass="NullPool", pool_size="2")


def test_connect_options_leave_the_pool_out() -> None:
    """They connect in the same way, for a check."""
    loaded = load(
        POSTGRES, pool_size="3", pool_pre_ping="yes", connect_args='{"sslmode": "require"}'
    )
    options = loaded.connect_options()
    assert options["connect_args"] == {"sslmode": "require", "connect_timeout": 5}
    assert "pool_size" not in options
    assert isinstance(create_engine(loaded.url, **options).pool, pool.NullPool)


def test_equal_values_are_one_identity() -> None:
    """However they are written, in whatever order, and whether or not they are the default."""
    first = load(
        POSTGRES, pool_timeout="90s", pool_size="5", connect_args='{"a": 1, "b": [2, {"c": 3}]}'
    )
    second = load(POSTGRES, connect_args={"b": [2, {"c": 3}], "a": 1}, pool_timeout=90, echo="no")
    assert first.identity() == second.identity()
    assert (first, hash(first)) == (second, hash(second))
    assert first.differing(second) == []


@pytest.mark.parametrize(
    ("changed", "keys"),
    [
        ({"sqlalchemy.pool_size": "6"}, ["sqlalchemy.pool_size"]),
        ({"sqlalchemy.url": POSTGRES.replace("s3cret", "other")}, ["sqlalchemy.url"]),
        ({"sqlalchemy.url": POSTGRES.replace("web", "app")}, ["sqlalchemy.url"]),
        ({"sqlalchemy.connect_args": {"a": 1}}, ["sqlalchemy.connect_args"]),
        (
            {"dbpool.read_only": "yes", "sqlalchemy.echo": "1"},
            ["dbpool.read_only", "sqlalchemy.echo"],
        ),
        ({"dbpool.connect_timeout": "9"}, ["dbpool.connect_timeout"]),
        ({"dbpool.engine_hook": some_function}, ["dbpool.engine_hook"]),
        ({"dbpool.registry_key": "x", "dbpool.request_attr": "x"}, []),
        ({"pyramid.includes": "x"}, []),
    ],
)
def test_differing_values_are_cited_by_their_keys(
    changed: dict[str, Any], keys: list[str]
) -> None:
    """Only those that concern the pool; it does not matter from which side one looks."""
    first = load_pool({"sqlalchemy.url": POSTGRES})
    second = load_pool({"sqlalchemy.url": POSTGRES} | changed)
    assert first.differing(second) == second.differing(first) == keys
    assert (first == second) is (not keys)


def test_the_name_is_part_of_the_identity() -> None:
    """Two pools to one server are two pools."""
    settings = {"sqlalchemy.url": POSTGRES, "sqlalchemy.replica.url": POSTGRES}
    assert load_pool(settings) != load_pool(settings, "replica")


def test_callables_are_the_same_only_if_they_are_one() -> None:
    """Even two that call themselves equal."""

    class Equal:
        def __call__(self) -> None: ...

        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    one, other = Equal(), Equal()
    assert load(POSTGRES, creator=one) == load(POSTGRES, creator=one)
    assert load(POSTGRES, creator=one) != load(POSTGRES, creator=other)
    assert hash(load(POSTGRES, connect_args={"ssl": one}))


def test_numbers_and_booleans_are_not_the_same_argument() -> None:
    """A driver may tell them apart, though Python does not."""
    first, second, third = (load(POSTGRES, connect_args={"a": value}) for value in (1, True, 1.0))
    assert len({first, second, third}) == 3


@given(st.text(min_size=1))
def test_passwords_make_a_difference(password: str) -> None:
    """As a hash, that cannot be compared with another process's."""
    first = load(POSTGRES, connect_args={"password": "x"})
    second = load(POSTGRES, connect_args={"password": password})
    assert (first == second) is (password == "x")


@pytest.mark.programs
def test_the_hash_of_a_password_is_another_in_every_process() -> None:
    """So that a dump of it is worth nothing."""
    program = (
        "from pyramid_dbpool.settings import load_pool;"
        f"print(load_pool({{'sqlalchemy.url': {POSTGRES!r}}}).identity())"
    )
    path = os.pathsep.join(p for p in sys.path if p)
    made = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "web:***@db.example" in made
    assert made.strip() != str(load(POSTGRES).identity())


def test_options_are_read_only_mappings() -> None:
    """Whoever changes them would change them for everybody."""
    loaded = load(POSTGRES)
    assert set(loaded.engine_options) >= {"pool_size", "connect_args"}
    with pytest.raises(TypeError):
        loaded.engine_options["pool_size"] = 1  # type: ignore[index]
    with pytest.raises(AttributeError):
        loaded.name = "x"  # type: ignore[misc]
