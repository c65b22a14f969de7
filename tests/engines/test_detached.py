"""A connection that its holder has detached is his: nobody else keeps it open."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from pyramid_dbpool import get_engine
from pyramid_dbpool.pool.managed import ManagedPool
from tests.support.makers import Maker, wait_for, wait_until_gone
from tests.support.servers.fixtures import MARIADB, POSTGRES

SESSIONS = {
    "postgresql": (
        "SELECT pg_backend_pid()",
        "SELECT count(*) FROM pg_stat_activity WHERE pid = :id",
    ),
    "mysql": (
        "SELECT CONNECTION_ID()",
        "SELECT count(*) FROM information_schema.processlist WHERE id = :id",
    ),
}


def from_engine(engine: Engine) -> tuple[Any, Any]:
    """Detach a connection of the engine's."""
    connection = engine.connect()
    return connection, connection


def from_session(engine: Engine) -> tuple[Any, Any]:
    """Detach the connection of a session."""
    session = Session(engine)
    return session, session.connection()


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("take", [from_engine, from_session])
@pytest.mark.parametrize("driver", [*POSTGRES, *MARIADB])
def test_who_drops_a_detached_connection_ends_its_session(
    driver: str, new_database: Callable[[str], str], take: Callable[[Engine], tuple[Any, Any]]
) -> None:
    """Also without a `close()`: the server keeps nothing of eight of them."""
    url = new_database(driver)
    engine = get_engine({"sqlalchemy.url": url, "sqlalchemy.pool_size": "8"})
    mine, there = SESSIONS[engine.dialect.name.replace("mariadb", "mysql")]
    taken = [take(engine) for _ in range(8)]
    ids = [connection.scalar(text(mine)) for _, connection in taken]
    for _holder, connection in taken:
        connection.detach()
    del taken, connection, _holder
    gc.collect()
    # A transaction would see the sessions of its first look all the time.
    outside = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with outside.connect() as looking:

        def left() -> int:
            return sum(looking.scalar(text(there), {"id": each}) for each in ids)

        wait_for(lambda: left() == 0)
    pool = engine.pool
    assert isinstance(pool, ManagedPool)
    assert pool.checkedout() == 0


@pytest.mark.parametrize("liveness", [False, True])
def test_the_pool_keeps_nothing_of_what_was_detached(maker: Maker, liveness: bool) -> None:
    """Neither the connection nor what looks at it."""
    pool = ManagedPool(maker, 1, 0, liveness=liveness)
    lease = pool.connect()
    made = maker.made.pop()
    known, ends = weakref.ref(made), (made.near, made.far)
    del made
    lease.detach()
    del lease
    wait_until_gone(known)
    for each in ends:
        each.close()
    pool.connect().close()
    pool.dispose()
