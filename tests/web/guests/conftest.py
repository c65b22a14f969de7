"""The settings of an app on a database."""

from typing import Any

import pytest


@pytest.fixture
def settings(psycopg_url: str) -> dict[str, Any]:
    """Give the settings of an app on an empty database."""
    return {"sqlalchemy.url": psycopg_url}
