"""A database that is in trouble inside COMMIT when it is told to."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from tests.support.webapp import database
from tests.web.retry.views import TROUBLE_IN_COMMIT, settings_for


@pytest.fixture
def count(psycopg_url: str) -> Iterator[Callable[[], int]]:
    """What counts the rows of the database."""
    with database(psycopg_url) as counter:
        engine = create_engine(psycopg_url, poolclass=NullPool)
        with engine.begin() as connection:
            connection.execute(text(TROUBLE_IN_COMMIT))
        yield counter


@pytest.fixture
def settings(psycopg_url: str, count: Callable[[], int]) -> dict[str, Any]:
    """Settings of an app on the database."""
    return settings_for(psycopg_url)
