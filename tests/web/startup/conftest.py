"""Apps on a database that is there, and on one that is not."""

from typing import Any

import pytest
from sqlalchemy import make_url

from tests.support.servers.ports import deaf_port


@pytest.fixture
def settings(psycopg_url: str) -> dict[str, Any]:
    """Settings of an app on a database that is there."""
    return {"sqlalchemy.url": psycopg_url}


@pytest.fixture
def away(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of an app on a server that is not there."""
    url = make_url(settings["sqlalchemy.url"]).set(port=deaf_port(), password="geheim")
    return {"sqlalchemy.url": url.render_as_string(hide_password=False)}
