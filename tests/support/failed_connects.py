"""Connects that fail, on real servers, and what `connect_failures` says of them."""

from contextlib import ExitStack
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from pyramid_dbpool.drivers.connect_failures import (
    ConnectFailure,
    classify_connect_failure,
    connect_failure,
)

SATURATED, UNREACHABLE, CONFIGURATION = ConnectFailure


def engine_of(url: Any, **options: Any) -> Engine:
    return create_engine(url, poolclass=NullPool, **options)


def refused(url: Any, **connect_args: Any) -> ConnectFailure:
    """Classify the failure to connect to `url`."""
    engine = engine_of(url, connect_args=connect_args)
    with pytest.raises(Exception) as caught:
        engine.connect()
    return classified(engine, caught.value)


def classified(engine: Engine, error: Exception) -> ConnectFailure:
    """Say what an error means; the driver's and SQLAlchemy's agree."""
    failure = classify_connect_failure(engine.dialect, error)
    if isinstance(error, DBAPIError):
        assert error.orig
        assert classify_connect_failure(engine.dialect, error.orig) is failure
        assert connect_failure(engine.dialect, error) is failure
    return failure


def refused_when_full(url: Any) -> ConnectFailure:
    """Take every connection that the server gives; classify the failure of one more.

    Those who have left may be counted for a while: it is full when it refuses, not before.
    """
    engine = engine_of(url)
    with pytest.raises(DBAPIError) as caught, ExitStack() as taken:
        while True:
            taken.enter_context(engine.connect())
    return classified(engine, caught.value)
