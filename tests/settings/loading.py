"""Settings that load, and the words with which others are refused."""

from collections.abc import Mapping
from typing import Any

import pytest

from pyramid_dbpool.errors import SettingsError
from pyramid_dbpool.settings import PoolSettings, load_pool

FILE = "sqlite:////tmp/never-opened.db"
POSTGRES = "postgresql+psycopg://web:s3cret@db.example/h"


def some_function(*args: Any) -> None:
    """Stand for any callable of the app."""


def load(url: Any = FILE, **settings: Any) -> PoolSettings:
    """Load the default pool with some `sqlalchemy.*` settings."""
    return load_pool({"sqlalchemy.url": url} | {f"sqlalchemy.{k}": v for k, v in settings.items()})


def refusal(settings: Mapping[str, Any], name: str = "default") -> str:
    """Return the message with which these settings are refused."""
    with pytest.raises(SettingsError) as caught:
        load_pool(settings, name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def refused(keyword: str, value: Any, url: str = FILE) -> str:
    """Return the message for one wrong value of a `sqlalchemy.*` key, which it must cite."""
    message = refusal({"sqlalchemy.url": url, f"sqlalchemy.{keyword}": value})
    assert f"sqlalchemy.{keyword}" in message
    return message
