"""Settings for databases; at the end nothing is checked out."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyramid_dbpool import dispose_engine, get_engine
from tests.support.webapp import database


@pytest.fixture
def count(any_url: str) -> Iterator[Callable[[], int]]:
    """What counts the rows of the database."""
    with database(any_url) as counter:
        yield counter


@pytest.fixture
def settings(any_url: str, count: Callable[[], int]) -> Iterator[dict[str, Any]]:
    """Settings for every database; at the end nothing is checked out."""
    made = {"sqlalchemy.url": any_url}
    yield made
    pool = get_engine(made).pool
    assert pool.checkedout() == 0  # type: ignore[attr-defined]
    dispose_engine(made)


@pytest.fixture
def pg_settings(postgres_url: str) -> Iterator[dict[str, Any]]:
    """Settings for PostgreSQL; at the end nothing is checked out."""
    made = {"sqlalchemy.url": postgres_url}
    with database(postgres_url):
        yield made
    pool = get_engine(made).pool
    assert pool.checkedout() == 0  # type: ignore[attr-defined]
    dispose_engine(made)
