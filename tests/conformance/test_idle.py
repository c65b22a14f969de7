"""What is kept open, for how long, and when the server itself is full."""

import pytest

from .adapters.base import Feature, PoolUnderTest
from .lab import Lab, release_all, serve, until
from .stub_driver import StubConnection


def test_nothing_is_opened_before_first_use(lab: Lab) -> None:
    """Making a pool opens no connection."""
    lab.pool(size=5)
    assert lab.server.attempts == 0


def test_lifo_works_with_as_few_connections_as_it_can(lab: Lab) -> None:
    """With LIFO, one caller at a time is given the same connection again and again."""
    pool = lab.pool(size=5, lifo=True)
    lab.warm(pool, 5)
    used = set()
    for _ in range(10):
        lease = pool.checkout()
        used.add(id(lease.connection))
        lease.release()
    assert len(used) == 1


def test_overflow_lingers(lab: Lab) -> None:
    """Connections beyond the size are used again instead of being closed at return."""
    pool = lab.pool(size=1, overflow=3, overflow_linger=30.0)
    for _ in range(3):
        lab.warm(pool, 4)
    assert lab.server.connects == 4


@pytest.mark.slow
def test_idle_overflow_is_closed_after_its_linger(lab: Lab) -> None:
    """When the burst is over, only the size's connections stay open."""
    pool = lab.pool(size=1, overflow=3, overflow_linger=0.1)
    lab.warm(pool, 4)
    until(lambda: lab.server.open == 1, "one connection is left")


@pytest.mark.slow
def test_idle_connections_are_closed_down_to_the_minimum(lab: Lab) -> None:
    """What nobody has used for the idle time-out is closed, but for `min_idle`."""
    pool = lab.pool(size=4, idle_timeout=0.1, min_idle=1)
    lab.warm(pool, 4)
    until(lambda: lab.server.open == 1, "one connection is left")
    assert lab.server.closes >= 3
    serve(pool)
    assert lab.server.open == 1


def test_minimum_is_filled_up_again(lab: Lab) -> None:
    """A connection that broke is replaced up to `min_idle` before anybody asks."""
    pool = lab.pool(size=3, min_idle=2)
    leases = [pool.checkout() for _ in range(3)]
    for lease in leases:
        lease.invalidate()
    until(lambda: lab.server.open >= 2, "two connections are open again")


@pytest.mark.slow
def test_old_connection_is_replaced(lab: Lab) -> None:
    """A connection older than its maximum is not handed out any more."""
    pool = lab.pool(size=1, max_lifetime=0.2)
    lease = pool.checkout()
    old = lease.connection
    lease.release()
    until(lambda: aged(pool, old), "another connection is handed out")
    until(lambda: lab.server.open == 1, "the old one is closed")


def aged(pool: PoolUnderTest, old: StubConnection) -> bool:
    """Check a connection out and tell whether it is another one than `old`."""
    lease = pool.checkout()
    lease.release()
    return lease.connection is not old


def test_full_server_is_waited_for(lab: Lab) -> None:
    """When the server admits no more, a caller waits for one of the pool's own."""
    lab.needs(Feature.LINE)
    pool = lab.pool(size=5)
    lab.server.limit = 2
    leases = [pool.checkout() for _ in range(2)]
    task = lab.run(pool.checkout)
    until(lambda: lab.server.attempts >= 3, "the caller finds the server full")
    release_all(leases)
    task.result().release()


@pytest.mark.slow
def test_room_on_a_full_server_is_taken(lab: Lab) -> None:
    """When others leave the full server, the caller is served within its deadline."""
    lab.needs(Feature.LINE)
    pool = lab.pool(size=2)
    stranger = lab.server.connect()
    lab.server.limit = 1
    task = lab.run(pool.checkout)
    until(lambda: lab.server.attempts >= 2, "the caller finds the server full")
    stranger.close()
    task.result().release()


@pytest.mark.slow
def test_surplus_is_closed_though_each_connection_is_used_in_turn(lab: Lab) -> None:
    """One caller at a time needs one connection, also where FIFO uses them all in turn."""
    pool = lab.pool(size=5, idle_timeout=0.2, min_idle=1)
    lab.warm(pool, 5)

    def few_are_left() -> bool:
        serve(pool)
        return lab.server.open <= 2

    until(few_are_left, "the surplus is closed")


@pytest.mark.slow
def test_connections_do_not_grow_old_together(lab: Lab) -> None:
    """Connections that were opened at once are not all replaced at once."""
    pool = lab.pool(size=8, max_lifetime=2.0)
    lab.warm(pool, 8)

    def all_are_replaced() -> bool:
        lab.warm(pool, 8)
        return lab.server.connects >= 16

    until(all_are_replaced, "all are replaced")
    replaced = lab.server.attempt_times[8:16]
    assert replaced[-1] - replaced[0] > 0.015
