"""An app on a database, with each kind of transaction manager."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import transaction

from tests.support.webapp import database
from tests.web.request.views import EXPLICIT


@pytest.fixture(params=[{}, EXPLICIT], ids=["default-manager", "explicit-manager"])
def manager(request: pytest.FixtureRequest) -> dict[str, str]:
    """Settings for each kind of transaction manager."""
    return dict(request.param)


@pytest.fixture
def count(psycopg_url: str) -> Iterator[Callable[[], int]]:
    """What counts the rows of the database."""
    with database(psycopg_url) as counter:
        yield counter


@pytest.fixture
def settings(
    psycopg_url: str, manager: dict[str, str], count: Callable[[], int]
) -> Iterator[dict[str, Any]]:
    """Settings of an app on the database; at the end no pool has anything checked out."""
    yield {"sqlalchemy.url": psycopg_url, **manager}
    transaction.abort()
