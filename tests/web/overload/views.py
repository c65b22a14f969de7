"""An app that asks its database, and a pool that is full."""

from contextlib import ExitStack

import pytest
from pyramid.request import Request
from sqlalchemy import Engine, select

from pyramid_dbpool import warm
from pyramid_dbpool.pool.labels import holder_label
from pyramid_dbpool.web import incidents

attempts: list[int | None] = []


def asks(request: Request) -> str:
    attempts.append(request.environ.get("retry.attempt"))
    return str(request.db.scalar(select(1)))


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """List what the log has said of requests that were refused, or whose write is in doubt."""
    return [r.getMessage() for r in caplog.records if r.name == incidents.__name__]


def fill(engine: Engine) -> ExitStack:
    """Hold both connections of a pool."""
    held = ExitStack()
    warm(engine)
    for label in ("GET route 'slow'", "GET route 'slower'"):
        with holder_label(label):
            held.enter_context(engine.connect())
    return held
