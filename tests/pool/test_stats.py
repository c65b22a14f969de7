"""What a pool counts."""

import dataclasses
import json
import pickle
from contextlib import closing

import pytest
from sqlalchemy import create_engine

from pyramid_dbpool.drivers.connect_failures import ConnectFailure
from pyramid_dbpool.pool import upkeep
from pyramid_dbpool.pool.managed import ManagedPool
from pyramid_dbpool.pool.stats import BOUNDS_SECONDS, Histogram, Stats
from tests.support.makers import Connection


def test_histogram_counts_by_upper_bound() -> None:
    """A duration belongs to the first bucket whose bound it does not exceed."""
    histogram = Histogram()
    for seconds in (0.0, BOUNDS_SECONDS[0], 0.0002, 99.0):
        histogram.observe(seconds)
    frozen = histogram.frozen()
    assert frozen.counts[0] == 2
    assert frozen.counts[1] == 1
    assert frozen.counts[-1] == 1
    assert frozen.count == 4
    assert frozen.sum_seconds == pytest.approx(99.0003)


def test_usual_hold_follows_the_last_few() -> None:
    """Long holds of the past do not hide the short ones of a spike."""
    stats = Stats()
    for _ in range(20):
        stats.hold.observe(1.0)
    assert stats.hold_time() == pytest.approx(1.0)
    for _ in range(20):
        stats.hold.observe(0.002)
    assert stats.hold_time() == pytest.approx(0.002)


def test_half_of_the_holds_were_so_long_or_longer() -> None:
    """A few that took long do not make all others long; nothing is said of fewer than four."""
    stats = Stats()
    for seconds in (0.3, 0.3, 0.3):
        stats.hold.observe(seconds)
    stats.hold_time()
    assert stats.hold_at_least == 0.0
    for seconds, count, at_least in ((0.002, 5, 0.001), (0.3, 4, 0.1), (0.00005, 4, 0.0)):
        for _ in range(count):
            stats.hold.observe(seconds)
        stats.hold_time()
        assert stats.hold_at_least == at_least


def test_snapshot_adds_up() -> None:
    """Every checkout is a wait, and every return a hold; the snapshot is a copy."""
    pool = ManagedPool(Connection, 2, 0, pool_name="main")
    first, second = pool.connect(), pool.connect()
    first.close()
    pool.connect().close()
    numbers = pool.snapshot()
    assert (numbers.name, numbers.leased, numbers.idle, numbers.opened) == ("main", 1, 1, 2)
    assert (numbers.checkouts, numbers.returns, numbers.waited) == (3, 2, 0)
    assert numbers.wait.count == 3
    assert numbers.hold.count == 2
    assert numbers.connect.count == 2
    assert len(numbers.holders) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        numbers.idle = 3  # type: ignore[misc]
    assert numbers.closed is not pool.snapshot().closed
    second.close()
    pool.dispose()


def test_a_snapshot_can_be_handed_on() -> None:
    """To another process, or as JSON."""
    pool = ManagedPool(Connection, 2, 0, timeout=0.0)
    with closing(pool.connect()) as lease:
        lease.invalidate()
    numbers = pool.snapshot()
    assert numbers.closed == {"invalidated": 1}
    assert pickle.loads(pickle.dumps(numbers)) == numbers
    assert json.loads(json.dumps(dataclasses.asdict(numbers)))["closed"] == numbers.closed
    pool.dispose()


def test_checkouts_include_leases_that_were_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A counter never goes back: not for a lost lease, nor for those out at a dispose."""
    monkeypatch.setattr(upkeep, "UNRECEIVED_AFTER", 0.0)
    pool = ManagedPool(Connection, 2, 0, timeout=0.0)
    lease = pool.connect()
    unreceived = pool._do_get()  # and nobody takes it on
    assert pool.snapshot().checkouts == 2
    other = pool.connect()
    numbers = pool.snapshot()
    assert (numbers.unreceived, numbers.checkouts, numbers.wait.count) == (1, 3, 3)
    pool.dispose()
    pool.recreate()
    numbers = pool.snapshot()
    assert (numbers.leased, numbers.disowned, numbers.checkouts) == (0, 2, 3)
    lease.close()
    other.close()
    unreceived.close()
    assert pool.snapshot().checkouts == 3


def test_no_counter_goes_back_when_the_engine_is_disposed_of() -> None:
    """Whoever asks at intervals takes that for a restart."""
    engine = create_engine("sqlite://", poolclass=ManagedPool)
    for _ in range(3):
        engine.connect().close()
    lease = engine.connect()
    before = engine.pool.snapshot()  # type: ignore[attr-defined]
    engine.dispose()
    after = engine.pool.snapshot()  # type: ignore[attr-defined]
    engine.connect().close()
    later = engine.pool.snapshot()  # type: ignore[attr-defined]
    lease.close()
    assert (before.checkouts, after.checkouts, later.checkouts) == (4, 4, 5)
    assert (before.opened, after.opened, later.opened) == (1, 1, 2)
    assert (after.hold.count, later.hold.count) == (3, 4)
    assert (after.idle, after.leased) == (0, 0)
    engine.dispose()


def test_an_outage_that_lasts_is_counted_on() -> None:
    """With its seconds so far, as one that is over."""
    pool = ManagedPool(Connection, 2, 0, background=True)
    openings = pool._core.opener.openings  # type: ignore[union-attr]
    now = pool._core.shared.clock()
    openings.away(ConnectFailure.UNREACHABLE, OSError("no route"), now - 10.0, now)
    pool.dispose()
    made = pool.recreate()
    numbers = made.snapshot()
    assert (numbers.outages, numbers.outage_seconds) == (1, None)
    assert numbers.outage_seconds_total >= 10.0
    made.dispose()


def test_what_is_estimated_begins_anew() -> None:
    """The server, or its address, may be another one."""
    former, stats = Stats(), Stats()
    for _ in range(8):
        former.hold.observe(0.002)
    stats.count_on_from(former)
    assert (stats.returns, stats.hold_time(), stats.hold_at_least) == (8, 0.0, 0.0)
    for _ in range(4):
        stats.hold.observe(7.0)
    assert stats.hold_time() == pytest.approx(7.0)
    assert stats.hold_at_least == 5.0
