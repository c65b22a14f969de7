"""Connections that lead to where nobody wants to be any more are replaced."""

import functools
import itertools
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pyramid_dbpool.pool.managed import ManagedPool, is_condemned
from tests.support.makers import Maker, in_thread, wait_for
from tests.support.striking import striking


def is_outside(pool: ManagedPool) -> bool:
    """Tell whether another thread could be at it."""
    return not pool._core.door.is_inside()


def retire_all(pool: ManagedPool, before: Callable[[], object]) -> None:
    """Retire what there is, and wait until what is idle has been closed for it."""
    before()
    pool.retire_all()
    wait_for(lambda: all(each.name != "dbpool-upkeep" for each in threading.enumerate()))


def retired_everywhere(
    make: Callable[[], ManagedPool],
    run: Callable[[ManagedPool], None],
    check: Callable[[], None],
    before: Callable[[], object] = lambda: None,
) -> None:
    """Retire what there is between any two steps of what `run` does, and check."""
    sys._getframe().f_trace_opcodes = True
    for step in itertools.count():
        pool, left = make(), [step]
        trace = striking(
            functools.partial(retire_all, pool, before), left, functools.partial(is_outside, pool)
        )
        sys.settrace(trace)
        try:
            run(pool)
        finally:
            sys.settrace(None)
        if left[0] >= 0:
            assert step > 20, "nothing was interrupted"
            pool.dispose()
            return
        check()
        pool.dispose()


@pytest.mark.slow
def test_what_is_being_returned_is_closed(maker: Maker) -> None:
    """Wherever its holder is in giving it back: nobody has to ask for it first."""
    leases = list[Any]()

    def make() -> ManagedPool:
        maker.forget()
        pool = ManagedPool(maker, 1, 0, liveness=True, background=True)
        # The first return of all has upkeep come.
        pool.connect().close()
        leases.append(pool.connect())
        return pool

    retired_everywhere(
        make,
        lambda _pool: leases.pop().close(),
        lambda: wait_for(lambda: maker.made[0].closed),
    )


@pytest.mark.slow
def test_what_was_just_opened_is_closed_when_it_comes_back(maker: Maker) -> None:
    """Wherever its opener is on his way from the server to the caller."""
    seen = list[int]()

    def make() -> ManagedPool:
        maker.forget()
        return ManagedPool(maker, 1, 0, timeout=0.0, liveness=True, background=True)

    retired_everywhere(
        make,
        lambda pool: pool.connect().close(),
        lambda: wait_for(lambda: maker.made[0].closed or not seen[-1]),
        before=lambda: seen.append(len(maker.made)),
    )
    assert set(seen) == {0, 1}


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
