"""Apps on a pool that is full, and on a server that is not there."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from sqlalchemy import make_url

from tests.support.servers.ports import deaf_port
from tests.support.webapp import PARTS, WebApp, app
from tests.web.overload.views import asks, attempts, fill


@pytest.fixture
def settings(psycopg_url: str) -> dict[str, Any]:
    """Settings of an app whose pool has two connections, and requests little patience."""
    return {
        "sqlalchemy.url": psycopg_url,
        "sqlalchemy.pool_size": "2",
        "sqlalchemy.max_overflow": "0",
        "sqlalchemy.pool_timeout": "60",
        "dbpool.request_timeout": "50ms",
        "tm.manager_hook": "pyramid_tm.explicit_manager",
    }


@pytest.fixture
def away(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of an app whose database is not there, and is not waited for."""
    url = make_url(settings["sqlalchemy.url"]).set(port=deaf_port())
    settings["sqlalchemy.url"] = url.render_as_string(hide_password=False)
    settings["dbpool.outage_grace"] = "0"
    del settings["dbpool.request_timeout"]
    return settings


@pytest.fixture(autouse=True)
def no_attempts() -> None:
    """Count each test's attempts."""
    attempts.clear()


@pytest.fixture
def full(settings: dict[str, Any]) -> Iterator[Callable[..., WebApp]]:
    """Build an app whose pool is full."""
    with ExitStack() as stack:

        def build(*parts: Any) -> WebApp:
            web = stack.enter_context(app(settings, *PARTS, *parts, index=asks))
            stack.enter_context(fill(web.engine))
            return web

        yield build
