"""Connections that lead to where nobody wants to be any more are replaced."""

import pytest

from pyramid_dbpool.pool.managed import ManagedPool, is_condemned
from tests.support.makers import Maker, in_thread, wait_for


def test_idle_is_closed_at_once(maker: Maker) -> None:
    """Nobody has to ask for one first."""
    pool = ManagedPool(maker, 3, 0, liveness=True, background=True, use_lifo=True)
    leases = [pool.connect() for _ in range(3)]
    for lease in leases[:2]:
        lease.close()
    pool.retire_all()
    wait_for(lambda: sum(each.closed for each in maker.made) == 2)
    assert is_condemned(leases[2])
    leases[2].close()
    wait_for(lambda: all(each.closed for each in maker.made))
    assert pool.snapshot().closed == {"retired": 3}
    with_new = pool.connect()
    assert not is_condemned(with_new)
    with_new.close()
    pool.dispose()


@pytest.mark.parametrize("background", [True, False])
def test_what_is_being_opened_counts_as_older(maker: Maker, *, background: bool) -> None:
    """Where it leads was decided before."""
    pool = ManagedPool(maker, 1, 0, liveness=True, background=background)
    maker.before = pool.retire_all
    first: list[object] = []
    thread = in_thread(lambda: first.append(pool.connect()))
    wait_for(lambda: first or len(maker.made) > 1)
    maker.before = lambda: None
    thread.join()
    first.pop().close()  # type: ignore[attr-defined]
    pool.connect().close()
    assert maker.made[0].closed
    assert [each.closed for each in maker.made].count(0) == 1
    pool.dispose()


def test_those_who_wait_get_new_ones(maker: Maker) -> None:
    """The slot of what comes back is theirs."""
    pool = ManagedPool(maker, 1, 0, liveness=True, background=True)
    lease, served = pool.connect(), list[object]()
    thread = in_thread(lambda: served.append(pool.connect()))
    wait_for(lambda: pool.snapshot().waiting == 1)
    pool.retire_all()
    lease.close()
    thread.join()
    assert maker.made[0].closed and len(maker.made) == 2
    served.pop().close()  # type: ignore[attr-defined]
    pool.dispose()


def test_in_a_bare_pool_the_next_caller_replaces_them(maker: Maker) -> None:
    """As QueuePool does with what was invalidated."""
    pool = ManagedPool(maker, 2, 0)
    leases = [pool.connect(), pool.connect()]
    leases[0].close()
    pool.retire_all()
    leases[1].close()
    leases = [pool.connect(), pool.connect()]
    assert [each.closed for each in maker.made] == [1, 1, 0, 0]
    for lease in leases:
        lease.close()
    pool.dispose()
