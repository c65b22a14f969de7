"""What the example app's tests share: a database with its tables, a broker, an app."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from example_app.broker import Inbox
from example_app.initialize_db import create_tables
from pyramid.request import Request
from webtest import TestApp

from example_app import main
from pyramid_dbpool import dispose_engine


@pytest.fixture
def settings(psycopg_url: str, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Give the app's settings, on a database with its tables and a broker made of files."""
    made = {
        "sqlalchemy.url": psycopg_url,
        "tm.manager_hook": "pyramid_tm.explicit_manager",
        "broker.url": "filesystem://",
        "broker.folder": str(tmp_path / "broker"),
        # kombu remembers for the whole process which queues of files it has made.
        "broker.queue": f"streamer_{uuid4().hex}",
    }
    create_tables(made)
    yield made
    dispose_engine(made)


@pytest.fixture
def app(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> TestApp:
    """Give the web app."""
    # WebOb leaves the temporary files of longer bodies to the garbage collector.
    monkeypatch.setattr(Request, "request_body_tempfile_limit", 1_000_000)
    return TestApp(main({}, **settings))


@pytest.fixture
def inbox(settings: dict[str, Any]) -> Iterator[Inbox]:
    """Give the streamer's queue, bound to the broker."""
    with Inbox(settings) as queue:
        queue.listen()
        yield queue
