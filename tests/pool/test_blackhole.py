"""A network that drops silently: nobody waits for minutes."""

import socket
import sys
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from pyramid_dbpool import DatabaseUnavailable, dispose_engine, get_engine
from pyramid_dbpool.drivers.sockets import socket_of
from pyramid_dbpool.errors import PoolError, PoolTimeout
from tests.support.pool_load import managed, unit
from tests.support.servers.fixtures import NewDatabase, NewProxy
from tests.support.servers.proxy import FaultProxy, Newcomers

Hole = tuple[FaultProxy, Engine]

# What the design promises: the first statement fails within 15 s.
LIMIT = 15.0
BACKENDS = ("postgresql+psycopg", "postgresql+psycopg2", "mysql+pymysql", "mysql+mysqldb")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's socket filters")


@pytest.fixture(params=BACKENDS)
def hole(
    request: pytest.FixtureRequest, new_database: NewDatabase, new_proxy: NewProxy
) -> Iterator[Hole]:
    """Give an engine of the plugin whose server stands behind a network that can swallow."""
    url = new_database(request.param)
    between = new_proxy(url)
    settings = {
        "sqlalchemy.url": between.url(url),
        # So short that a connection can be made to have been silent for longer.
        "dbpool.ping_after": "200ms",
    }
    yield between, get_engine(settings)
    dispose_engine(settings)


def test_silence_on_tcp_is_guarded(hole: Hole) -> None:
    """The kernel has its orders on each connection of the pool, whatever the driver."""
    _, engine = hole
    with engine.connect() as connection:
        fd = socket_of(connection.connection.dbapi_connection)
        assert fd is not None
        with socket.fromfd(fd, socket.AF_INET, socket.SOCK_STREAM) as ours:
            user_timeout = ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            probes = (
                ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
                ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
            )
    assert 0 < user_timeout / 1000 < LIMIT
    assert probes == (1, 5, 3)


@pytest.mark.slow
def test_statement_on_a_fresh_connection_fails_in_time(hole: Hole) -> None:
    """The network goes down under a connection in use: its statement fails within 15 s."""
    between, engine = hole
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        between.meet(Newcomers.DROP)
        between.swallow()
        began = time.monotonic()
        with pytest.raises(DBAPIError) as caught:
            connection.execute(text("SELECT 1"))
        took = time.monotonic() - began
    print(f"failed after {took:.1f} s")
    assert took < LIMIT
    assert caught.value.connection_invalidated


@pytest.mark.slow
def test_connection_that_was_silent_is_replaced_in_time(hole: Hole) -> None:
    """Flows were forgotten, the server is there: the next caller gets a new connection."""
    between, engine = hole
    unit(engine)
    between.swallow()
    time.sleep(0.3)
    began = time.monotonic()
    unit(engine)
    took = time.monotonic() - began
    print(f"replaced after {took:.1f} s")
    assert took < LIMIT
    assert managed(engine).snapshot().closed["dead"] == 1


@pytest.mark.slow
def test_caller_is_told_in_time_that_the_network_is_gone(hole: Hole) -> None:
    """Neither old nor new connections pass: the caller learns it, and is served afterwards."""
    between, engine = hole
    unit(engine)
    between.meet(Newcomers.DROP)
    between.swallow()
    time.sleep(0.3)
    began = time.monotonic()
    with pytest.raises((DatabaseUnavailable, PoolTimeout)) as caught:
        unit(engine)
    took = time.monotonic() - began
    print(f"told after {took:.1f} s: {caught.value!r}")
    assert took < LIMIT
    assert "QueuePool limit" not in str(caught.value)
    between.meet(Newcomers.PASS)
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            unit(engine)
            break
        except PoolError:
            assert time.monotonic() < deadline
