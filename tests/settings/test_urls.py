"""Database URLs: what is wrong with one is said at once, with what to do."""

import sys
from typing import Any

import pytest
from sqlalchemy import pool

from pyramid_dbpool.errors import SettingsError
from pyramid_dbpool.settings import load_pool


def refusal(url: Any, **settings: Any) -> str:
    """Return the message with which a URL is refused; it cites the key, and is one line."""
    with pytest.raises(SettingsError) as caught:
        load_pool({"sqlalchemy.url": url, **settings})
    message = str(caught.value)
    assert "sqlalchemy.url" in message
    assert "\n" not in message
    assert "s3cret" not in message
    return message


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        (7, "not a database URL"),
        ("h.db", "dialect+driver://user:password@host/database"),
        ("host=db password=s3cret", "is not a database URL"),
        ('"postgresql://web:s3cret@db/h"', "is in quotes"),
        ("'sqlite:///h.db'", "is in quotes"),
        ("${DATABASE_URL}", "${DATABASE_URL} was not replaced"),
        ("%(database_url)s", "%(database_url)s was not replaced"),
        ("postgresql://web:s3cret@db:five/h", "a port is a number"),
        ("postgresql://web:s3cret@db:70000/h", "from 1 to 65535"),
        ("postgresql://web:a@s3cret@db/h", "more than one @"),
        ("postgresql://web:a@s3cret:b@db/h", "%40"),
        ("postgresql://web:s3cret\n  @db/h", "on one line"),
        ("postgrsql://web:s3cret@db/h", "the nearest is postgresql"),
        ("postgres://web:s3cret@db/h", "the nearest is postgresql"),
        ("PostgreSQL://web:s3cret@db/h", "the nearest is postgresql"),
        ("maria://web:s3cret@db/h", "the nearest is mariadb"),
        ("postgresql+psycop://web:s3cret@db/h", "the nearest is postgresql+psycopg"),
        ("mysql+pymsql://web:s3cret@db/h", "the nearest is mysql+pymysql"),
    ],
)
def test_a_wrong_url_says_what_is_wrong_with_it(url: Any, says: str) -> None:
    """Missing pieces, characters that must be encoded, names that do not exist."""
    assert says in refusal(url)


@pytest.mark.parametrize("url", ["foo://web:s3cret@db/h", "postgresql+zzz://web:s3cret@db/h"])
def test_a_name_like_no_other_gets_no_guess(url: str) -> None:
    """What is known is listed all the same."""
    message = refusal(url)
    assert "nearest" not in message
    assert "there are " in message and "postgresql" in message


def test_a_misspelt_key_of_the_url_is_said_to_be_misspelt() -> None:
    """Nobody wants to keep that spelling."""
    with pytest.raises(SettingsError) as caught:
        load_pool({"slqalchemy.url": "postgresql://web:s3cret@db/h"})
    assert str(caught.value).endswith("There is slqalchemy.url; did you mean sqlalchemy.url?")
    assert "url_setting" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "sync"),
    [
        ("postgresql+asyncpg://web:s3cret@db/h", "postgresql+psycopg"),
        ("postgresql+psycopg_async://web:s3cret@db/h", "postgresql+psycopg"),
        ("sqlite+aiosqlite:///h.db", "sqlite"),
        ("mysql+aiomysql://web:s3cret@db/h", "mysql+pymysql"),
        ("mysql+asyncmy://web:s3cret@db/h", "mysql+pymysql"),
    ],
)
def test_asyncio_drivers_are_refused_by_name(url: str, sync: str) -> None:
    """Whether or not they are installed; the message names one that works."""
    message = refusal(url)
    assert f"{url.partition(':')[0]} is an asyncio driver" in message
    assert message.endswith(f"use {sync}.")


@pytest.mark.parametrize(
    ("url", "module", "install"),
    [
        ("postgresql+psycopg://", "psycopg", '"pyramid_dbpool[psycopg]"'),
        ("postgresql+psycopg2://", "psycopg2", '"pyramid_dbpool[psycopg2]"'),
        ("mysql+pymysql://", "pymysql", '"pyramid_dbpool[pymysql]"'),
        ("mysql+mysqldb://", "MySQLdb", '"pyramid_dbpool[mysqlclient]"'),
        ("mysql://", "MySQLdb", '"pyramid_dbpool[mysqlclient]"'),
        ("mysql+mysqlconnector://", "mysql", '"pyramid_dbpool[mysqlconnector]"'),
        ("postgresql+pg8000://", "pg8000", "pip install pg8000"),
        ("oracle+oracledb://", "oracledb", "pip install oracledb"),
        ("mssql+pyodbc://", "pyodbc", "pip install pyodbc"),
        ("mysql+mariadbconnector://", "mariadb", "pip install mariadb"),
    ],
)
def test_a_driver_that_is_not_installed_is_named_with_its_package(
    url: str, module: str, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our extra, so that its version suits, or the package itself."""
    for name in [m for m in sys.modules if m == module or m.startswith(module + ".")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    assert install in refusal(f"{url}web:s3cret@db/h")


def test_another_driver_that_is_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be all that is needed."""
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    message = refusal("postgresql+psycopg2://web:s3cret@db/h")
    assert "or use postgresql+psycopg, which is." in message


def test_a_missing_url_is_said_to_be_missing() -> None:
    """With an example, and the setting that looks like it."""
    for settings in ({}, {"sqlalchemy.url": None}, {"sqlalchemy.pool_size": "3"}):
        with pytest.raises(SettingsError, match=r"sqlalchemy\.url is missing"):
            load_pool(settings)
    with pytest.raises(SettingsError) as caught:
        load_pool({"database_url": "postgresql://web:s3cret@db/h"})
    assert str(caught.value).endswith("if that is the URL, set dbpool.url_setting = database_url.")
    assert "s3cret" not in str(caught.value)


def test_the_url_may_stand_under_another_key() -> None:
    """As it does in other apps; the error about it cites that key."""
    settings = {"dbpool.url_setting": "database_url", "database_url": "sqlite:///h.db"}
    loaded = load_pool(settings)
    assert loaded.source("url") == "database_url"
    assert loaded == load_pool({"sqlalchemy.url": "sqlite:///h.db"}), "it is the same pool"
    with pytest.raises(SettingsError, match="database_url = nothing"):
        load_pool({**settings, "database_url": "nothing://db"})
    said = r"dbpool\.url_setting says database_url, and there is no database_url: "
    with pytest.raises(SettingsError, match=said):
        load_pool({"dbpool.url_setting": "database_url"})
    own = {"dbpool.url_setting": "sqlalchemy.dsn", "sqlalchemy.dsn": "sqlite:///h.db"}
    assert load_pool(own) == loaded, "a key of ours that nobody else takes"


def test_two_urls_for_one_pool_are_refused() -> None:
    """One of them would be ignored, and somebody would look for his tables in the other."""
    settings = {"dbpool.url_setting": "database_url", "database_url": "sqlite:///h.db"}
    assert load_pool({**settings, "sqlalchemy.url": "sqlite:///h.db"})
    message = refusal("sqlite:///other.db", **settings)
    assert "different URLs" in message
    assert message.endswith("remove sqlalchemy.url.")


MEMORY = [
    "sqlite://",
    "sqlite:///:memory:",
    "sqlite:///file::memory:?uri=true",
    "sqlite:///file::memory:?cache=shared&uri=true",
    "sqlite:///file:name?mode=memory&uri=true",
]


@pytest.mark.parametrize("url", MEMORY)
def test_a_database_in_memory_is_not_pooled(url: str) -> None:
    """Each connection of a pool would have an empty database of its own."""
    loaded = load_pool({"sqlalchemy.url": url})
    assert not issubclass(loaded.pool_class, pool.QueuePool)
    assert loaded.capacity is None
    assert dict(loaded.engine_options) == {"poolclass": pool.SingletonThreadPool}
    for keyword, value in (("pool_size", "3"), ("max_overflow", "0"), ("pool_timeout", "1")):
        with pytest.raises(SettingsError, match=f"{keyword} = .*SQLite database in memory"):
            load_pool({"sqlalchemy.url": url, f"sqlalchemy.{keyword}": value})


def test_a_sqlite_file_is_pooled() -> None:
    """Like the database of any server."""
    for url in ("sqlite:///h.db", "sqlite:////srv/h@home.db", "sqlite:///file:h.db?uri=true"):
        assert issubclass(load_pool({"sqlalchemy.url": url}).pool_class, pool.QueuePool)


def test_a_password_with_an_at_sign_in_an_sqlite_url_is_not_shown() -> None:
    """SQLite takes no password; what was meant for another dialect is hidden all the same."""
    with pytest.raises(SettingsError, match="more than one @") as caught:
        load_pool({"sqlalchemy.url": "sqlite://web:one@QxSecret?@db/h"})
    assert "QxSecret" not in str(caught.value)
