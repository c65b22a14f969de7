"""Values: coerced from an ini file's strings or taken as objects, or refused with reason."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, pool

from pyramid_dbpool.errors import SettingsError
from pyramid_dbpool.settings import SETTINGS, load_pool
from pyramid_dbpool.settings.values import parse_duration
from tests.settings.loading import FILE, load, refused, some_function

ON = [True, 1, "true", "True", " yes ", "on", "1", "t", "y"]
OFF = [False, 0, "false", "FALSE", "no", "off", "0", "f", "n"]


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("pool_size", "3", 3),
        ("pool_size", 3, 3),
        ("pool_size", "0", 0),
        ("max_overflow", "-1", -1),
        ("pool_timeout", "2.5", 2.5),
        ("pool_timeout", "500ms", 0.5),
        ("pool_timeout", 0, 0.0),
        ("pool_recycle", "1h", 3600),
        ("pool_recycle", "-1", -1),
        ("pool_recycle", -1, -1),
        ("pool_recycle", "", -1),
        ("pool_recycle", "off", -1),
        ("pool_recycle", None, -1),
        ("pool_reset_on_return", "commit", "commit"),
        ("pool_reset_on_return", "none", None),
        ("pool_reset_on_return", None, None),
        ("pool_reset_on_return", True, "rollback"),
        ("pool_reset_on_return", False, None),
        ("echo", "debug", "debug"),
        ("echo_pool", "true", True),
        ("isolation_level", "read_uncommitted", "READ UNCOMMITTED"),
        ("connect_args", '{"timeout": 7}', {"timeout": 7}),
        ("connect_args", {"timeout": 7}, {"timeout": 7}),
        ("execution_options", '{"stream_results": true}', {"stream_results": True}),
        ("poolclass", "NullPool", pool.NullPool),
        ("poolclass", "sqlalchemy.pool.StaticPool", pool.StaticPool),
        ("poolclass", "sqlalchemy.pool:QueuePool", pool.QueuePool),
        ("poolclass", pool.QueuePool, pool.QueuePool),
        ("json_serializer", "json.dumps", json.dumps),
        ("json_serializer", json.dumps, json.dumps),
        ("creator", some_function, some_function),
        ("logging_name", " main ", "main"),
        ("query_cache_size", "0", 0),
        ("native_datetime", "true", True),
        ("native_datetime", "false", False),
    ],
)
def test_values_arrive_in_their_own_type(keyword: str, value: Any, expected: Any) -> None:
    """From ini strings and from code alike, and never as a truthy string."""
    found = load(**{keyword: value}).engine_options[keyword]
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("keyword", ["pool_pre_ping", "pool_use_lifo", "echo", "hide_parameters"])
def test_booleans_are_read_as_booleans(keyword: str) -> None:
    """`false` turns a thing off: to engine_from_config it is a truthy string."""
    for value in ON:
        assert load(**{keyword: value}).engine_options[keyword] is True, value
    for value in OFF:
        assert load(**{keyword: value}).engine_options[keyword] is False, value


@pytest.mark.parametrize(
    ("keyword", "value", "says"),
    [
        ("pool_size", "-3", "at least 0"),
        ("pool_size", "5.5", "integer"),
        ("pool_size", "", "integer"),
        ("pool_size", "five", "integer"),
        ("pool_size", True, "integer"),
        ("pool_size", 2.0, "integer"),
        ("pool_size", "9" * 30, "integer"),
        ("pool_size", "٣", "integer"),
        ("max_overflow", "-2", "at least -1"),
        ("pool_timeout", "-1", "at least 0"),
        ("pool_timeout", "", "duration"),
        ("pool_timeout", "5 weeks", "duration"),
        ("pool_timeout", "nan", "duration"),
        ("pool_timeout", math.inf, "finite"),
        ("pool_timeout", "400000000", "more than a year"),
        ("pool_timeout", True, "boolean"),
        ("pool_timeout", [5], "duration"),
        ("pool_recycle", "2.5", "whole"),
        ("pool_recycle", "-2", "too small"),
        ("pool_recycle", "0", "too small"),
        ("pool_pre_ping", "maybe", "true or false"),
        ("pool_pre_ping", "", "true or false"),
        ("pool_pre_ping", 2, "true or false"),
        ("pool_reset_on_return", "rolback", "did you mean rollback?"),
        ("echo", "verbose", "true, false or debug"),
        ("poolclass", "QuePool", "did you mean QueuePool?"),
        ("poolclass", "zzz", "not in sqlalchemy.pool"),
        ("poolclass", "json.dumps", "not a class derived from Pool"),
        ("poolclass", "no.such.module", "cannot import"),
        ("poolclass", "AsyncAdaptedQueuePool", "asyncio"),
        ("poolclass", 3, "not a class"),
        ("isolation_level", "serialzable", "the nearest is SERIALIZABLE"),
        ("isolation_level", "", "empty"),
        ("connect_args", "{'timeout': 7}", "double quotes"),
        ("connect_args", "[7]", "not an object"),
        ("connect_args", 7, "JSON object"),
        ("execution_options", "no", "JSON object"),
        ("json_serializer", "json.dump_s", "cannot import"),
        ("json_serializer", "json", "not callable"),
        ("module", "no_such_module", "cannot import"),
        ("module", 7, "not a module"),
        ("future", "false", "only true"),
        ("paramstyle", "qmrk", "did you mean qmark?"),
        ("native_datetime", "maybe", "true or false"),
        ("plugins", [3], "names"),
        ("plugins", "", "names"),
    ],
)
def test_a_wrong_value_says_what_is_allowed(keyword: str, value: Any, says: str) -> None:
    """With the full ini key and the value, in one line."""
    message = refused(keyword, value)
    assert says in message
    if isinstance(value, str) and "args" not in keyword and "options" not in keyword:
        assert value[:80] in message


def test_the_only_value_of_future_is_true() -> None:
    """There is no other mode in SQLAlchemy 2, so there is nothing to pass on."""
    assert "future" not in load(future="true").engine_options
    assert load(future="true") == load(future=True) == load()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2.5", 2.5), ("5", 5), ("500ms", 0.5), ("5s", 5), ("3m", 180), ("1h", 3600), (".5h", 1800)],
)
def test_durations_have_units(text: str, seconds: float) -> None:
    """A bare number is seconds."""
    assert parse_duration(text) == seconds
    assert parse_duration(f" {text} ") == seconds


@given(
    st.floats(0, 1e6), st.sampled_from([("ms", 1000), ("s", 1), ("m", 1 / 60), ("h", 1 / 3600)])
)
def test_a_duration_is_the_same_in_every_unit(seconds: float, unit: tuple[str, float]) -> None:
    """However it is written, it means the same time."""
    text = f"{seconds * unit[1]:f}{unit[0]}"
    assert parse_duration(text) == pytest.approx(seconds, rel=1e-6, abs=0.01)


@given(st.text() | st.binary() | st.none() | st.lists(st.integers()))
def test_what_is_no_duration_is_refused_as_one(value: Any) -> None:
    """Nothing but ValueError comes out, and nothing endless goes in."""
    try:
        seconds = parse_duration(value)
    except ValueError:
        return
    assert math.isfinite(seconds)


@given(
    st.sampled_from([s for s in SETTINGS if s.scope == "pool" and s.kind not in ("url", "key")]),
    st.text() | st.integers() | st.floats() | st.none() | st.booleans() | st.lists(st.text()),
)
def test_any_value_is_coerced_or_refused(setting: Any, value: Any) -> None:
    """A value never fails in another way, and what passes makes an engine."""
    try:
        loaded = load_pool({"sqlalchemy.url": FILE, setting.key: value})
    except SettingsError as error:
        assert setting.key in str(error)
        return
    create_engine(loaded.url, **loaded.engine_options).dispose()
