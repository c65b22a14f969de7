"""The life of a pool and of its slots, from before its first use to after a dispose or a fork."""

import logging
import os
import threading
import weakref
from typing import Any

import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.engine.default import DefaultDialect

from pyramid_dbpool.errors import PoolTimeout
from pyramid_dbpool.pool import health, opener
from pyramid_dbpool.pool.deadlines import deadline
from pyramid_dbpool.pool.managed import ManagedPool
from tests.support.makers import PATIENCE, Maker, in_thread, wait_for, wait_until_gone


class Answering(DefaultDialect):
    """A dialect whose ping succeeds."""

    def do_ping(self, dbapi_connection: object) -> bool:
        """Answer."""
        return True


def test_checkouts_are_told_of_after_a_dispose_too(maker: Maker) -> None:
    """The pool that takes the other's place has the same to tell."""
    told: list[int] = []
    pool = ManagedPool(maker, 1, 0)
    pool.on_checkout = lambda _connection: told.append(1)
    pool.connect().close()
    pool.recreate().connect().close()
    assert len(told) == 2


def test_close_that_raises_keeps_no_other_connection(maker: Maker) -> None:
    """Every slot is free after a dispose whose listener raises."""
    pool = ManagedPool(maker, 3, 0)
    for lease in [pool.connect() for _ in range(3)]:
        lease.close()

    @event.listens_for(pool, "close")
    def refuse(*_: object) -> None:
        raise ValueError("not now")

    pool.dispose()
    numbers = pool.snapshot()
    assert (numbers.held, numbers.idle, numbers.leased) == (0, 0, 0)


def test_opening_that_hangs_does_not_stop_the_others(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connect that never ends is left aside after a while."""
    monkeypatch.setattr(opener, "HANGS_AFTER", 0.02)
    monkeypatch.setattr(opener, "HANGS_AFTER_CONNECTS", 0)
    over, calls = threading.Event(), list[int]()

    def first_hangs() -> None:
        calls.append(1)
        if len(calls) == 1:
            over.wait(30)

    maker.before = first_hangs
    pool = ManagedPool(maker, 2, 0, timeout=20.0, background=True)
    pool.connect().close()
    over.set()
    assert len(calls) == 2
    wait_for(lambda: pool.snapshot().opening == 0)


def test_connection_that_cannot_be_prepared_is_closed(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt that fails late leaves nothing open."""

    def fail(*_: object) -> None:
        raise OSError("too many open files")

    monkeypatch.setattr(health, "Look", fail)
    pool = ManagedPool(maker, 1, 0, liveness=True)
    with pytest.raises(OSError, match="too many"):
        pool.connect()
    assert [each.closed for each in maker.made] == [1]
    assert pool.snapshot().opening == 0


def test_warm_opens_the_minimum(maker: Maker) -> None:
    """`warm` opens what `min_idle` says, and no more."""
    pool = ManagedPool(maker, 5, 0, min_idle=3)
    pool.warm()
    assert (len(maker.made), pool.checkedin()) == (3, 3)


def test_checkouts_are_logged_where_sqlalchemy_logs_them(
    maker: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    """So an app that logs at DEBUG has no lines for them, unless it asks for them."""
    caplog.set_level(logging.DEBUG)
    ManagedPool(maker).connect().close()
    assert not caplog.records
    caplog.set_level(logging.DEBUG, "sqlalchemy.pool")
    ManagedPool(maker).connect().close()
    assert {record.name for record in caplog.records} == {"sqlalchemy.pool.ManagedPool"}


def test_pool_that_is_not_used_starts_nothing(maker: Maker) -> None:
    """No thread and no connection before first use, with everything on."""
    before = set(threading.enumerate())
    engine = create_engine(
        "sqlite://", poolclass=ManagedPool, creator=maker, **ManagedPool.plugin_arguments()
    )
    engine.dispose()
    assert set(threading.enumerate()) <= before
    assert not maker.made


@pytest.mark.parametrize("more", [{}, {"pre_ping": True}, {"liveness": False}])
def test_connection_is_young_enough_for_its_first_caller(maker: Maker, more: Any) -> None:
    """With a recycle time of 0 too: else it would be replaced until the caller's time is over."""
    arguments = {"liveness": True, "background": True, "dialect": Answering(), **more}
    pool = ManagedPool(maker, 1, 0, recycle=0, **arguments)
    pool.connect().close()
    assert len(maker.made) == 1
    pool.dispose()


def test_recycle_time_can_be_set_on_a_pool_at_work(maker: Maker) -> None:
    """What was opened before it is judged by it too, as in a `QueuePool`."""
    pool = ManagedPool(maker, 1, 0)
    pool.connect().close()
    pool._recycle = 0
    pool.connect().close()
    assert len(maker.made) == 2


def test_who_waits_is_not_handed_what_is_too_old(maker: Maker) -> None:
    """What comes back to the line is judged by a recycle time that was set meanwhile."""
    pool = ManagedPool(maker, 1, 0)
    lease = pool.connect()
    waiter = in_thread(lambda: pool.connect().close())
    wait_for(lambda: pool.snapshot().waiting)
    pool._recycle = 0
    lease.close()
    waiter.join(PATIENCE)
    assert len(maker.made) == 2


def test_warming_a_pool_that_is_over_ends(maker: Maker) -> None:
    """It keeps nothing, so the minimum is never there."""
    pool = ManagedPool(maker, 1, 0, min_idle=1, background=True)
    pool.dispose()
    pool.recreate()
    pool.warm()
    assert not maker.made


def test_pool_dies_with_its_engine(maker: Maker) -> None:
    """The housekeeper keeps no pool alive."""
    pool = ManagedPool(maker, 2, 0, idle_timeout=60.0, keepalive=30.0, background=True)
    pool.connect().close()
    known = weakref.ref(pool)
    del pool
    wait_until_gone(known)


@pytest.mark.parametrize("background", [False, True], ids=["inline", "background"])
def test_what_comes_back_after_a_dispose_leaves_no_descriptor(
    maker: Maker, background: bool
) -> None:
    """At once: an app may have switched the collector off."""
    pool = ManagedPool(maker, 2, 0, liveness=True, background=background)
    leases = [pool.connect(), pool.connect()]
    entries = list(pool._core.line.members)
    pool.dispose()
    pool.recreate()
    for lease in leases:
        lease.close()
    assert [each.closed for each in maker.made] == [1, 1]
    assert all(each.look is None for each in entries)


def test_waiter_of_a_disposed_pool_gets_a_fresh_connection(maker: Maker) -> None:
    """After dispose and recreate it need not wait for what was checked out before."""
    pool = ManagedPool(maker, 1, 0, timeout=PATIENCE)
    held = pool.connect()
    leases: list[Any] = []
    thread = in_thread(lambda: leases.append(pool.connect()))
    wait_for(lambda: pool.snapshot().waiting == 1)
    pool.dispose()
    pool.recreate()
    thread.join(PATIENCE)
    assert leases[0].dbapi_connection is maker.made[1]
    held.close()
    leases[0].close()
    assert [each.closed for each in maker.made] == [1, 1], "closed on return"
    assert (pool.checkedout(), pool.checkedin()) == (0, 0)


def test_opening_that_ends_after_a_dispose_keeps_nothing(maker: Maker) -> None:
    """Who asked for it has given up, and nobody uses that pool any more."""
    answer = threading.Event()
    maker.before = lambda: answer.wait(20)
    pool = ManagedPool(maker, 1, 0, background=True)
    with deadline(0.02), pytest.raises(PoolTimeout):
        pool.connect()
    pool.dispose()
    pool.recreate()
    answer.set()
    wait_for(lambda: maker.made and maker.made[0].closed)
    assert pool.snapshot().idle == 0


def test_child_leaves_its_parents_connections_alone(maker: Maker) -> None:
    """A forked child opens its own; not a byte goes over what it inherited."""
    pool = ManagedPool(maker, 2, 0)
    idle, lease = pool.connect(), pool.connect()
    idle.close()
    child = os.fork()
    if child == 0:
        lease.close()
        fresh = pool.connect()
        mine: Any = fresh.dbapi_connection
        fine = mine is maker.made[-1] and len(maker.made) == 3
        untouched = not any(each.closed for each in maker.made[:2])
        os._exit(0 if fine and untouched and pool.checkedout() == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert pool.checkedin() == 1
    lease.close()


def test_a_pool_that_is_disposed_of_opens_no_minimum(maker: Maker) -> None:
    """Each connection that is closed would be replaced at once."""
    pool = ManagedPool(maker, 1, 0, background=True, min_idle=1)
    pool.connect().close()
    pool.dispose()
    assert pool._core.line.total == 0
    assert len(maker.made) == 1


def test_what_is_pinged_while_its_pool_is_replaced_is_closed(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Put back, it would be idle in a pool that nobody uses any more."""
    pool = ManagedPool(maker, 1, 0, background=True, liveness=True)
    pool.connect().close()
    core = pool._core
    (entry,) = core.line.idle

    def ping(_record: object) -> bool:
        core.make_way()
        return True

    monkeypatch.setattr(core.source, "ping", ping)
    core.health.examine(entry)
    assert (core.line.total, maker.made[0].closed) == (0, 1)
