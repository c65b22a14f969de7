"""What the pool asks of a driver to know that a connection lives, and what it counts of it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.engine.default import DefaultDialect

from pyramid_dbpool.pool import health
from pyramid_dbpool.pool.entry import LOOK_STANDS
from pyramid_dbpool.pool.managed import ManagedPool
from tests.support.makers import Connection, Maker, wait_for
from tests.support.pool_load import managed, plugin_engine, unit

NewDatabase = Callable[[str], str]
SHOWN = ("postgresql+psycopg", "postgresql+psycopg2", "mysql+pymysql", "mysql+mysqldb")


@pytest.fixture(params=SHOWN)
def engine(request: pytest.FixtureRequest, new_database: NewDatabase) -> Iterator[Engine]:
    """Give an engine with the plugin's defaults, once for each driver that shows its socket."""
    made = plugin_engine(new_database(request.param), 1, 0)
    yield made
    made.dispose()


def test_connection_that_the_driver_closed_is_replaced(engine: Engine) -> None:
    """Somebody closed the driver's connection: its socket would only tell of another file."""
    with engine.connect() as connection:
        driver = connection.connection.dbapi_connection
    assert driver is not None
    driver.close()
    unit(engine)
    numbers = managed(engine).snapshot()
    assert numbers.closed["closed"] == 1
    assert "dead" not in numbers.closed


def test_look_costs_no_ping(engine: Engine) -> None:
    """A healthy connection is handed out without a round trip."""
    for _ in range(5):
        unit(engine)
    assert managed(engine).snapshot().pings == 0


def test_ping_at_a_checkout_is_counted(new_database: NewDatabase) -> None:
    """A connection that was idle for longer than `ping_after` is pinged, once."""
    engine = plugin_engine(new_database("postgresql+psycopg"), 1, 0, ping_after=0.0)
    unit(engine)
    before = managed(engine).snapshot().pings
    for _ in range(2):
        unit(engine)
    numbers = managed(engine).snapshot()
    assert (numbers.pings - before, numbers.fallback_pings) == (2, 0)
    engine.dispose()


def test_fall_back_to_the_ping_is_counted(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a driver shows no socket, as mysql-connector's C extension, the look is a ping."""
    monkeypatch.setattr(health, "NO_SOCKET_BYPASS", 0.0)
    monkeypatch.setattr(health, "socket_of", lambda connection: None)
    engine = plugin_engine(new_database("postgresql+psycopg"), 1, 0)
    for _ in range(3):
        unit(engine)
    numbers = managed(engine).snapshot()
    assert numbers.pings == numbers.fallback_pings >= 2
    engine.dispose()


def test_closed_connection_condemns_no_other() -> None:
    """One that was closed on this side says nothing about the server."""
    pool = ManagedPool(Connection, 2, 0, liveness=True)
    leases = [pool.connect(), pool.connect()]
    drivers = [lease.dbapi_connection for lease in leases]
    for lease in leases:
        lease.close()
    first = drivers[0]
    assert isinstance(first, Connection)
    first.close()
    leases = [pool.connect(), pool.connect()]
    assert first not in [lease.dbapi_connection for lease in leases]
    assert pool.snapshot().suspicions == 0
    for lease in leases:
        lease.close()
    pool.dispose()


class Unanswering(DefaultDialect):
    """A dialect whose ping raises."""

    def do_ping(self, dbapi_connection: object) -> bool:
        """Raise."""
        raise ConnectionResetError("gone")


def test_keepalive_that_raises_frees_the_slot(maker: Maker) -> None:
    """Also without liveness, where a checkout's own ping would raise to its caller."""
    pool = ManagedPool(maker, 1, 0, keepalive=0.01, timeout=5.0, dialect=Unanswering())
    pool.connect().close()
    wait_for(lambda: pool.snapshot().closed.get("dead") == 1)
    pool.connect().close()
    wait_for(lambda: pool.snapshot().held == 0)
    pool.dispose()


def test_dead_idle_connections_are_not_handed_out(maker: Maker) -> None:
    """All of a server's closed connections are found without one wait or ping."""
    pool = ManagedPool(maker, 4, 0, liveness=True, background=True)
    for lease in [pool.connect() for _ in range(4)]:
        lease.close()
    for connection in maker.made:
        connection.far.close()
    lease = pool.connect()
    assert lease.dbapi_connection is maker.made[4]  # type: ignore[comparison-overlap]
    lease.close()
    # Some of them by those who look at the suspects meanwhile.
    wait_for(lambda: pool.snapshot().closed["dead"] == 4)


class Looks:
    """A socket that is looked at, and says nothing until it is told to."""

    def __init__(self) -> None:
        self.count, self.answer = 0, False

    def speaks(self) -> bool:
        """Count a look."""
        self.count += 1
        return self.answer


def test_from_hand_to_hand_a_look_stands_for_a_moment(maker: Maker) -> None:
    """For a moment only; and what the driver has closed, or is in doubt, is not handed on."""
    pool = ManagedPool(maker)
    lease: Any = pool.connect()
    entry, looks = lease._connection_record.dbpool_entry, Looks()
    closed, moment = False, LOOK_STANDS / 2
    entry.look, entry.closed = looks, lambda: closed
    assert [entry.passes_on(at) for at in (1.0, 1.0 + moment)] == [True, True]
    assert looks.count == 1
    looks.answer = True
    assert not entry.passes_on(1.0 + 3 * moment)
    looks.answer = False
    assert entry.passes_on(2.0)
    closed = True
    assert not entry.passes_on(2.0 + moment)
    closed = False
    entry.doubt()
    assert not entry.passes_on(2.0 + moment)
    entry.look = None
    lease.close()
