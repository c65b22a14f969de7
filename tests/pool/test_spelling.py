"""Errors and warnings call settings what they are called where their reader has set them."""

import re
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import create_engine

from pyramid_dbpool import DatabaseUnavailable, PoolLineFull, PoolTimeout, deadline, get_engine
from pyramid_dbpool.pool.managed import ManagedPool
from pyramid_dbpool.pool.options import argument_name
from pyramid_dbpool.pool.refusals import saturated_text, slow_text
from tests.support.makers import Maker, wait_for
from tests.support.servers.ports import deaf_port

INI_KEY = re.compile(r"\b(?:sqlalchemy|dbpool)\.\w+")


def refused(pool: Any, error: type[Exception]) -> str:
    """Be refused a connection; return what was said."""
    with pytest.raises(error) as caught:
        pool.connect()
    return str(caught.value)


def test_a_pool_that_is_used_alone_names_create_engines_arguments(maker: Maker) -> None:
    """Who has no ini file has no key to raise."""
    pool = ManagedPool(maker, 1, 0, timeout=0.0)
    with closing(pool.connect()):
        full = refused(pool, PoolTimeout)
    assert "raise pool_size or max_overflow, or raise pool_timeout." in full
    strict = ManagedPool(maker, 1, 0, max_waiting=0)
    with closing(strict.connect()):
        line_full = refused(strict, PoolLineFull)
    assert "and max_waiting = 0 lets nobody wait." in line_full
    slow = slow_text(None, argument_name, 1.0, 1)
    assert "; pool_timeout says how long to wait." in slow
    saturated = saturated_text(None, argument_name, 1.0, 1, OSError("full"))
    assert "lower pool_size and max_overflow in the processes" in saturated
    assert not INI_KEY.search(f"{full} {line_full} {slow} {saturated}")


def test_a_pool_that_is_used_alone_speaks_of_its_url() -> None:
    """In an outage, and where the URL is wrong."""
    at = f"127.0.0.1:{deaf_port()}"
    arguments = ManagedPool.plugin_arguments() | {"outage_grace": 0.0}
    for url, said in (
        (f"postgresql+psycopg://{at}/", "the pool: the database server of the URL has been"),
        (f"postgresql+psycopg://{at}/?sslmode=no", "check what the URL or connect_args say of"),
        (f"postgresql+psycopg://{at}/?service=no", "configuration; check the URL (connection is"),
    ):
        engine = create_engine(url, poolclass=ManagedPool, **arguments)
        text = refused(engine, DatabaseUnavailable)
        assert said in text
        assert not INI_KEY.search(text)
        engine.dispose()


def test_a_pool_that_is_used_alone_warns_in_its_own_words(
    maker: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    """The line of the log that says when to warn."""
    pool = ManagedPool(maker, 1, 0, hold_warning=0.001)
    with closing(pool.connect()):
        wait_for(lambda: "(hold_warning says after how long to warn.)" in caplog.text)
    pool.dispose()
    assert not INI_KEY.search(caplog.text)


@pytest.mark.parametrize(("name", "dot"), [("default", ""), ("jobs", "jobs.")])
def test_an_apps_pool_names_the_keys_of_its_ini_file(
    sqlite_url: str, name: str, dot: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Those of its name, also after `dispose()`, which makes another pool."""
    engine = get_engine(
        {
            "sqlalchemy.url": sqlite_url,
            f"sqlalchemy.{dot}url": sqlite_url,
            f"sqlalchemy.{dot}pool_size": "1",
            f"sqlalchemy.{dot}max_overflow": "0",
            f"sqlalchemy.{dot}pool_timeout": "0",
            f"dbpool.{dot}hold_warning": "100ms",
        },
        name,
    )
    for _ in range(2):
        with closing(engine.raw_connection()):
            text = refused(engine, PoolTimeout)
            keys = [f"sqlalchemy.{dot}{each}" for each in ("pool_size", "max_overflow")]
            assert f"raise {keys[0]} or {keys[1]}, or raise sqlalchemy.{dot}pool_timeout." in text
            wait_for(lambda: f"(dbpool.{dot}hold_warning says after" in caplog.text)
        caplog.clear()
        engine.dispose()


def test_a_url_that_stands_elsewhere_is_named_by_its_own_key() -> None:
    """As in apps that have a `database_url`."""
    settings = {
        "dbpool.url_setting": "database_url",
        "database_url": f"postgresql+psycopg://127.0.0.1:{deaf_port()}/",
        "dbpool.outage_grace": "0",
    }
    with deadline(9):
        text = refused(get_engine(settings), DatabaseUnavailable)
    assert "the database server of database_url has been unreachable" in text
