"""What the pool says about itself."""

import dataclasses

import pytest

from pyramid_dbpool.pool.labels import holder_label

from .adapters.base import Feature
from .lab import Lab, release_all, until
from .stub import Failure


def test_books_follow_the_connections(lab: Lab) -> None:
    """Idle and in use are counted right while connections come and go."""
    pool = lab.pool(size=3)
    lab.warm(pool, 3)
    leases = [pool.checkout() for _ in range(2)]
    counts = pool.counts()
    assert (counts.idle, counts.in_use) == (1, 2)
    leases.pop().invalidate()
    release_all(leases)
    until(lambda: pool.counts().in_use == 0, "nothing is in use")


def test_line_is_counted(lab: Lab) -> None:
    """The number of those who wait is right, and nought when all are served."""
    pool = lab.pool(size=1)
    lease = pool.checkout()
    tasks = [lab.waiter(pool) for _ in range(3)]
    assert pool.waiting() == 3
    lease.release()
    for task in tasks:
        task.result().release()
    assert pool.waiting() == 0


def test_failed_connects_are_counted_by_reason(lab: Lab) -> None:
    """A wrong password and a refused caller each have a counter of their own."""
    lab.needs(Feature.REASONS)
    pool = lab.pool(size=1)
    lab.server.down = Failure.CONFIGURATION
    assert lab.run(pool.checkout).wait().error is not None
    numbers = pool.snapshot()
    assert sum(numbers.open_failed.values()) == 1
    assert list(numbers.open_failed) == ["configuration"]


def test_refused_callers_are_counted_by_reason(lab: Lab) -> None:
    """Who found the line full is told apart from who waited in vain."""
    lab.needs(Feature.REASONS)
    pool = lab.pool(size=1, max_waiting=1)
    lease = pool.checkout()
    waiter = lab.waiter(pool)
    assert lab.run(pool.checkout).wait().error is not None
    assert sum(pool.snapshot().refused.values()) == 1
    lease.release()
    waiter.result().release()


def test_durations_are_counted(lab: Lab) -> None:
    """Every checkout, return and connect is in its histogram."""
    lab.needs(Feature.REASONS)
    pool = lab.pool(size=2)
    for _ in range(5):
        lab.warm(pool, 2)
    numbers = pool.snapshot()
    assert (numbers.checkouts, numbers.returns, numbers.opened) == (10, 10, 2)
    assert (numbers.wait.count, numbers.hold.count, numbers.connect.count) == (10, 10, 2)


def test_snapshot_does_not_change(lab: Lab) -> None:
    """A snapshot is of one moment: it cannot be altered, and does not move on."""
    lab.needs(Feature.REASONS)
    pool = lab.pool(size=1)
    before = pool.snapshot()
    lab.warm(pool, 1)
    assert (before.checkouts, pool.snapshot().checkouts) == (0, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.checkouts = 5


def test_holder_is_named(lab: Lab) -> None:
    """Who holds a connection can be read, with the time since when."""
    lab.needs(Feature.LABELS)
    pool = lab.pool(size=1)
    with holder_label("GET /items"):
        lease = pool.checkout()
    (holder,) = pool.snapshot().holders
    assert holder.label == "GET /items"
    assert holder.held_seconds >= 0.0
    lease.release()
    assert pool.snapshot().holders == ()
