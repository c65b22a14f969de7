"""One engine per process, for the same settings."""

import gc
import logging
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError

from pyramid_dbpool import (
    SettingsError,
    TransactionFailed,
    dispose_engine,
    get_engine,
    session_factory,
    warm,
)
from pyramid_dbpool.engines import registry
from pyramid_dbpool.engines.build import build_engine
from pyramid_dbpool.engines.registry import find_engine, live_engines, process_engine
from pyramid_dbpool.engines.write_outage import WriteOutage
from pyramid_dbpool.events import Kind
from pyramid_dbpool.settings import PoolSettings, load_pool
from tests.support.happened import Happened
from tests.support.servers.ports import deaf_port


@pytest.fixture
def settings(sqlite_url: str) -> Iterator[dict[str, Any]]:
    """Settings for a SQLite file."""
    made = {"sqlalchemy.url": sqlite_url}
    yield made
    dispose_engine(made)


def test_every_call_gives_the_same_engine(settings: dict[str, Any]) -> None:
    """For the same dict, for an equal one, and for one with other keys beside."""
    engine = get_engine(settings)
    assert get_engine(settings) is engine
    assert get_engine(dict(settings)) is engine
    assert get_engine({**settings, "pyramid.reload_templates": "true"}) is engine
    assert get_engine({**settings, "sqlalchemy.pool_size": "5"}) is engine, "5 is the default"


def test_warm_says_that_it_takes_an_engine(settings: dict[str, Any]) -> None:
    """Whoever gives it settings, as to everything else, learns what to write."""
    with pytest.raises(TypeError, match=r"not dict: warm\(get_engine\(settings\)\)"):
        warm(settings)  # type: ignore[arg-type]  # as somebody without mypy


def test_threads_that_ask_at_once_get_the_same_engine(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them find none, and one is made."""
    barrier = threading.Barrier(8)
    seen: list[Engine] = []

    def load_together(*arguments: Any) -> PoolSettings:
        loaded = load_pool(*arguments)
        barrier.wait()
        return loaded

    def build_slowly(pool: PoolSettings, writes: WriteOutage) -> Engine:
        threading.Event().wait(0.05)
        return build_engine(pool, writes)

    monkeypatch.setattr(registry, "load_pool", load_together)
    monkeypatch.setattr(registry, "build_engine", build_slowly)

    def ask() -> None:
        seen.append(get_engine(dict(settings)))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.undo()
    assert len(seen) == 8
    assert len({id(engine) for engine in seen}) == 1


def test_a_dict_that_changes_is_noticed(settings: dict[str, Any]) -> None:
    """Settings are compared, not only recognised."""
    engine = get_engine(settings)
    changed = dict(settings)
    assert get_engine(changed) is engine
    changed["sqlalchemy.pool_size"] = "7"
    assert get_engine(changed) is not engine
    dispose_engine(changed)


def test_making_an_engine_connects_nowhere() -> None:
    """No connection and no thread before first use: nobody listens here, and nobody minds."""
    settings = {"sqlalchemy.url": f"postgresql+psycopg://u:p@127.0.0.1:{deaf_port()}/db"}
    threads = set(threading.enumerate())
    get_engine(settings)
    assert set(threading.enumerate()) <= threads
    dispose_engine(settings)


def test_the_same_url_with_other_options_is_another_engine_and_one_warning(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture, happened: Happened
) -> None:
    """The warning cites the keys that differ."""
    engine = get_engine(settings)
    other = {**settings, "sqlalchemy.pool_size": "9"}
    with caplog.at_level(logging.WARNING):
        assert get_engine(other) is not engine
        get_engine(other)
        get_engine(dict(other))
    (record,) = caplog.records
    assert "sqlalchemy.pool_size" in record.getMessage()
    assert "max_overflow" not in record.getMessage()
    (event,) = happened(Kind.SECOND_ENGINE)
    assert (event.pool, event.text) == ("default", record.getMessage())
    assert event.fields == {"settings": "sqlalchemy.pool_size"}
    third = {**settings, "sqlalchemy.pool_size": "11"}
    get_engine(third)
    assert len(caplog.records) == 2
    dispose_engine(other)
    dispose_engine(third)


def test_a_disposed_engine_is_forgotten(settings: dict[str, Any]) -> None:
    """The next call makes a new one; disposing twice, or nothing, is harmless."""
    engine = get_engine(settings)
    with engine.connect():
        pass
    dispose_engine(settings)
    dispose_engine(settings)
    assert engine.pool.checkedin() == 0  # type: ignore[attr-defined]
    assert get_engine(settings) is not engine


@pytest.mark.parametrize("engines", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_disposed_engines_leave_nothing_behind(tmp_path: Path, engines: int) -> None:
    """No engine, no thread, no file descriptor."""

    live = len(live_engines())
    rest()
    files = len(os.listdir("/proc/self/fd"))
    seen: list[weakref.ref[Engine]] = []
    for number in range(engines):
        settings = {"sqlalchemy.url": f"sqlite:///{tmp_path}/{number % 50}.db?timeout={number}"}
        engine = get_engine(settings)
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        seen.append(weakref.ref(engine))
        dispose_engine(settings)
    del engine, connection
    ours = rest()
    assert [ref for ref in seen if ref() is not None] == []
    assert (len(live_engines()), ours) == (live, [])
    assert len(os.listdir("/proc/self/fd")) <= files


def rest() -> list[str]:
    """Let end what is ending, also of other tests; return the threads that stay."""
    for thread in our_threads():
        # The housekeeper ends by itself, a moment after the last pool has gone.
        thread.join(30)
    gc.collect()
    return [each.name for each in our_threads()]


def our_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name.startswith("dbpool-")]


def test_a_hook_runs_once_before_the_first_connect(settings: dict[str, Any]) -> None:
    """An engine hook sees the engine before anything has connected."""
    seen: list[str] = []

    def hook(engine: Engine) -> None:
        seen.append("hook")
        event.listen(engine, "connect", lambda *_: seen.append("connect"))

    settings = {**settings, "dbpool.engine_hook": hook}
    with get_engine(settings).connect():
        pass
    get_engine(dict(settings))
    assert seen == ["hook", "connect"]
    dispose_engine(settings)


def test_a_hook_that_failed_is_called_again(settings: dict[str, Any]) -> None:
    """An app that starts at the second attempt has what its hook listens to."""
    calls: list[Engine] = []

    def hook(engine: Engine) -> None:
        calls.append(engine)
        if len(calls) == 1:
            raise RuntimeError

    made = registry.process_engine(settings)
    with pytest.raises(RuntimeError):
        made.run_hook(hook)
    made.run_hook(hook)
    made.run_hook(hook)
    assert len(calls) == 2


@pytest.mark.parametrize("wrong", ["development.ini", None, 3])
@pytest.mark.parametrize("function", [get_engine, dispose_engine, session_factory])
def test_what_are_no_settings_is_refused(function: Any, wrong: object) -> None:
    """Such as the ini file's name; the error says where the settings come from."""
    with pytest.raises(TypeError, match=f"settings is {type(wrong).__name__}.*get_appsettings"):
        function(wrong)


def test_a_bad_setting_is_refused_with_its_key(settings: dict[str, Any]) -> None:
    """Also where SQLAlchemy alone notices it."""
    with pytest.raises(SettingsError, match=r"sqlalchemy\.pool_sise"):
        get_engine({**settings, "sqlalchemy.pool_sise": "5"})
    with pytest.raises(SettingsError, match=r"sqlalchemy\.isolation_level"):
        get_engine({**settings, "sqlalchemy.isolation_level": "NONSENSE"}).connect()


def test_a_transaction_in_error_is_not_committed(postgres_url: str) -> None:
    """On a Core connection too, COMMIT raises instead of rolling back in silence."""
    settings = {"sqlalchemy.url": postgres_url}
    with get_engine(settings).connect() as connection:
        with pytest.raises(Exception, match="division"):
            connection.execute(text("SELECT 1 / 0"))
        with pytest.raises(TransactionFailed):
            connection.commit()
        connection.rollback()
        assert connection.scalar(text("SELECT 1")) == 1
    dispose_engine(settings)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("SELECT nope", '(UndefinedColumn: column "nope" does not exist)'),
        ("SELECT CAST(:secret AS integer)", "(InvalidTextRepresentation)"),
    ],
)
def test_a_transaction_in_error_names_the_swallowed_error(
    postgres_url: str, statement: str, said: str
) -> None:
    """The first one, by its first line, and not where it may quote a value."""
    settings = {"sqlalchemy.url": postgres_url}
    with get_engine(settings).connect() as connection:
        for tried in (statement, "SELECT 1"):
            with pytest.raises(DBAPIError):
                connection.execute(text(tried), {"secret": "s3cret"} if ":" in tried else {})
        with pytest.raises(TransactionFailed) as caught:
            connection.commit()
        connection.rollback()
        with pytest.raises(DBAPIError):
            connection.execute(text("SELECT another"))
        with pytest.raises(TransactionFailed, match="another"):
            connection.commit()
    assert said in str(caught.value)
    assert "s3cret" not in str(caught.value)
    dispose_engine(settings)


def test_what_a_savepoint_has_undone_is_not_named(postgres_url: str) -> None:
    """That error was handled; it is a later one that was swallowed."""
    settings = {"sqlalchemy.url": postgres_url}
    with get_engine(settings).connect() as connection:
        with pytest.raises(DBAPIError), connection.begin_nested():
            connection.execute(text("SELECT first"))
        with pytest.raises(DBAPIError):
            connection.execute(text("SELECT second"))
        with pytest.raises(TransactionFailed, match="second"):
            connection.commit()
    dispose_engine(settings)


@pytest.mark.programs
def test_engines_are_closed_at_exit(postgres_url: str) -> None:
    """The server is told goodbye, newest pool first, and nothing is printed."""
    program = f"""
from sqlalchemy import event
from pyramid_dbpool import get_engine
settings = {{"sqlalchemy.url": {postgres_url!r}, "sqlalchemy.second.url": {postgres_url!r}}}
for name in ("default", "second"):
    engine = get_engine(settings, name)
    event.listen(engine, "close", lambda *_, name=name: print("closed", name))
    engine.connect().close()
"""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ran.stdout, ran.stderr) == ("closed second\nclosed default\n", "")


def test_an_engine_with_other_execution_options_is_found_too() -> None:
    """It is on the same pool: what a worker's session is bound to may be one."""
    settings = {"sqlalchemy.url": "sqlite:///found.db"}
    made = process_engine(settings)
    assert find_engine(made.engine) is made
    assert find_engine(made.engine.execution_options(logging_token="worker")) is made
    assert find_engine(create_engine("sqlite://")) is None
    assert find_engine(None) is None
    dispose_engine(settings)
