"""A database, and the settings of an app on it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.webapp import database


@pytest.fixture
def count(any_url: str) -> Iterator[Callable[[], int]]:
    """Count the rows of the database."""
    with database(any_url) as counter:
        yield counter


@pytest.fixture
def settings(any_url: str, count: Callable[[], int]) -> dict[str, Any]:
    """Give the settings of an app on the database."""
    return {"sqlalchemy.url": any_url, "tm.manager_hook": "pyramid_tm.explicit_manager"}
