"""The app of h's shape, and who looks at its database from outside."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, select, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool
from webtest import TestApp

from pyramid_dbpool import dispose_engine
from tests.support.guests import CLOCKS, SOCKETS
from tests.support.h_shape.app import Annotation, Base, Note, User, create_app

IDLE = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND state LIKE 'idle in transaction%'"
)


class Outside:
    """Looks at the database by connections of its own."""

    def __init__(self, url: str) -> None:
        self.engine = create_engine(url, poolclass=NullPool)
        Base.metadata.create_all(self.engine, checkfirst=False)

    def __call__(self, column: Any) -> list[Any]:
        """Give all values of a column, in order."""
        with Session(self.engine) as session:
            return sorted(session.scalars(select(column)))

    @property
    def users(self) -> list[str]:
        return self(User.name)

    @property
    def annotations(self) -> list[str]:
        return self(Annotation.text)

    @property
    def notes(self) -> list[str]:
        return self(Note.by)

    def idle_in_transaction(self) -> int:
        """Count the connections that keep a transaction open, and do nothing with it."""
        with self.engine.connect() as connection:
            return connection.scalar(IDLE) or 0


@pytest.fixture
def outside(psycopg_url: str) -> Outside:
    """Give who looks at the tables of the app."""
    return Outside(psycopg_url)


@pytest.fixture
def settings(psycopg_url: str, outside: Outside) -> Iterator[dict[str, Any]]:
    """Give the app's settings."""
    settings = {"sqlalchemy.url": psycopg_url}
    yield settings
    dispose_engine(settings)


@pytest.fixture
def ini(tmp_path: Path, settings: dict[str, Any]) -> str:
    """Give the path of the app's ini file."""
    path = tmp_path / "app.ini"
    lines = ["[app:main]", "use = call:tests.support.h_shape.app:create_app"]
    # ConfigParser would take a % for its own.
    lines += [f"{key} = {value}".replace("%", "%%") for key, value in settings.items()]
    path.write_text("\n".join(lines))
    return str(path)


@pytest.fixture(params=["plain", "with-tools"])
def tools(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have what h's own tests have at work: httpretty, and a clock that stands still."""
    with ExitStack() as stack:
        if request.param == "with-tools":
            stack.enter_context(SOCKETS["httpretty-alone"]())
            stack.enter_context(CLOCKS["long-ago"]())
        yield


@pytest.fixture(autouse=True)
def said(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Give what the test expects in the log; nothing else of what h does is worth a warning."""
    expected: list[str] = []
    yield expected
    ours = [each for each in caplog.get_records("call") if each.name.startswith("pyramid_dbpool")]
    unexpected = [
        text
        for text in (each.getMessage() for each in ours if each.levelno >= logging.WARNING)
        if not any(words in text for words in expected)
    ]
    assert not unexpected


@pytest.fixture
def web(settings: dict[str, Any], tools: None) -> TestApp:
    """Give the app."""
    return TestApp(create_app({}, **settings))
