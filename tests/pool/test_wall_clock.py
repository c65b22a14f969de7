"""What SQLAlchemy tells by the wall clock, where that is set, or frozen by an app's test."""

from collections.abc import Callable

import pytest
from sqlalchemy import event, exc

from pyramid_dbpool import ManagedPool
from tests.support.guests import CLOCKS
from tests.support.makers import Maker

PAST, FUTURE = CLOCKS["long-ago"], CLOCKS["far-ahead"]


@pytest.fixture(params=[False, True], ids=["inline", "background"])
def make(request: pytest.FixtureRequest, maker: Maker) -> Callable[..., ManagedPool]:
    """Make pools of one connection."""

    def made(**options: object) -> ManagedPool:
        return ManagedPool(maker, 1, 0, background=request.param, **options)  # type: ignore[arg-type]

    return made


def used(pool: ManagedPool) -> object:
    """Give the driver's connection that the next caller gets."""
    lease = pool.connect()
    connection = lease.dbapi_connection
    lease.close()
    return connection


def invalidate_softly(pool: ManagedPool) -> None:
    lease = pool.connect()
    lease.invalidate(soft=True)
    lease.close()


def lose(pool: ManagedPool) -> None:
    """Do what SQLAlchemy does when a statement meets a lost connection."""
    lease = pool.connect()
    pool._invalidate(lease, OSError("lost"))
    lease.close()


@pytest.mark.parametrize("condemn", [invalidate_softly, lose])
def test_what_was_condemned_is_replaced_once(
    make: Callable[..., ManagedPool], condemn: Callable[[ManagedPool], None]
) -> None:
    """Whatever the time was when it was condemned, and is now."""
    pool = make(recycle=3600)
    before = used(pool)
    with PAST():
        condemn(pool)
        middle = used(pool)
        assert middle is not before
        assert used(pool) is middle
    with FUTURE():
        condemn(pool)
    after = used(pool)
    assert after is not middle
    assert used(pool) is after


def test_others_are_condemned_with_a_lost_one(maker: Maker) -> None:
    """As SQLAlchemy has it without our look at sockets, but at the same time of the clock too."""
    pool = ManagedPool(maker, 2, 0)
    with PAST():
        lost, other = pool.connect(), pool.connect()
        connection = other.dbapi_connection
        pool._invalidate(lost, OSError("lost"))
        other.close()
        assert used(pool) is not connection
        lost.close()


def test_a_clock_that_was_set_tells_no_age(maker: Maker) -> None:
    """A connection from the future is replaced, once, and none is kept for a hundred years."""
    pool = ManagedPool(maker, 1, 0, recycle=3600)
    with FUTURE():
        future = used(pool)
        assert used(pool) is future
    now = used(pool)
    assert now is not future
    assert used(pool) is now


def test_a_reconnection_is_seen_while_time_stands_still(maker: Maker) -> None:
    """The look goes to the socket of the connection that is there now."""
    pool = ManagedPool(maker, 1, 0, liveness=True)

    @event.listens_for(pool, "checkout")
    def refuse_the_first(connection: object, *_: object) -> None:
        if connection is maker.made[0]:
            raise exc.DisconnectionError

    with PAST():
        second = used(pool)
        assert second is maker.made[1]
        assert used(pool) is second
        maker.made[1].far.close()
        assert used(pool) is maker.made[2]
