"""An app with the toolbar, and what its panel shows."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import transaction

from tests.support.webapp import PARTS, View, WebApp, app, database

TOOLBAR = {
    "debugtoolbar.includes": "pyramid_dbpool.debugtoolbar",
    "tm.manager_hook": "pyramid_tm.explicit_manager",
}
HERE = {"REMOTE_ADDR": "127.0.0.1"}


class Shown:
    """An app whose requests the toolbar watches."""

    def __init__(self, web: WebApp) -> None:
        self.web = web

    def get(self, path: str = "/", **kwargs: Any) -> Any:
        return self.web.get(path, extra_environ=HERE, **kwargs)

    def panels(self) -> list[Any]:
        """Give the panel of each request so far, the last one first."""
        history = self.web.registry.pdtb_history
        return [
            next(panel for panel in toolbar.panels if panel.name == "dbpool")
            for _number, toolbar in history
        ]

    def data(self, number: int = 0) -> dict[str, Any]:
        """Give what the panel of one of the last requests shows."""
        shown: dict[str, Any] = self.panels()[number].render_vars(None)
        return shown

    def page(self, number: int = 0) -> str:
        """Give the text of the panel on the toolbar's page of one of the last requests."""
        identifier = list(self.web.registry.pdtb_history)[number][0]
        page = self.get(f"/_debug_toolbar/{identifier}").text
        panel = page.partition('<div id="pDebugPanel-dbpool-content"')[2].partition(">")[2]
        panel = panel.partition('<div id="pDebugPanel-')[0]
        return " ".join(html.unescape(re.sub("<[^>]*>", " ", panel)).split())


@pytest.fixture
def count(psycopg_url: str) -> Iterator[Callable[[], int]]:
    """What counts the rows of the database."""
    with database(psycopg_url) as counter:
        yield counter


@pytest.fixture
def settings(psycopg_url: str, count: Callable[[], int]) -> Iterator[dict[str, Any]]:
    """Settings of an app with the toolbar and its panel."""
    yield {"sqlalchemy.url": psycopg_url, **TOOLBAR}
    transaction.abort()


@pytest.fixture
def shown(settings: dict[str, Any]) -> Iterator[Callable[..., Shown]]:
    """Build apps with the toolbar, of more parts and of views by route name."""
    with ExitStack() as stack:

        def build(*parts: Any, **views: View) -> Shown:
            made = app(settings, "pyramid_debugtoolbar", *PARTS, *parts, **views)
            return Shown(stack.enter_context(made))

        yield build
