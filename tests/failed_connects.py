"""Connects that fail, on real servers, and what `connect_failures` says of them."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from pyramid_dbpool.connect_failures import (
    ConnectFailure,
    classify_connect_failure,
    connect_failure,
)

SATURATED, UNREACHABLE, CONFIGURATION = ConnectFailure


def engine_of(url: Any, **options: Any) -> Engine:
    return create_engine(url, poolclass=NullPool, **options)


def refused(url: Any, **connect_args: Any) -> ConnectFailure:
    """Classify the failure to connect to `url`; the driver's error and SQLAlchemy's agree."""
    engine = engine_of(url, connect_args=connect_args)
    with pytest.raises(Exception) as caught:
        engine.connect()
    failure = classify_connect_failure(engine.dialect, caught.value)
    if isinstance(caught.value, DBAPIError):
        assert caught.value.orig
        assert classify_connect_failure(engine.dialect, caught.value.orig) is failure
        assert connect_failure(engine.dialect, caught.value) is failure
    return failure


@contextmanager
def filled(url: str) -> Iterator[None]:
    """Take every connection that the server gives."""
    engine = engine_of(url)
    taken: list[Connection] = []
    with suppress(DBAPIError):
        while True:
            taken.append(engine.connect())
    yield
    for connection in taken:
        connection.close()
