"""Commands that come, or are killed, between any two steps of the pool's own work."""

import functools
import itertools
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from pyramid_dbpool.errors import PoolTimeout
from pyramid_dbpool.pool.managed import ManagedPool
from tests.pool.test_commands import BOTH, Asking, are_closed, give_back, waiting
from tests.support.makers import PATIENCE, Maker, wait_for
from tests.support.striking import in_a_thread_of_its_own, striking

# Each of their steps begins and ends threads.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def whole(pool: ManagedPool) -> bool:
    """Tell whether the books of a pool that nobody uses are right."""
    line = pool._core.line
    nobody = (line.leased, line.held, line.opening, line.waiting) == (0, 0, 0, 0)
    return nobody and line.total == len(line.idle) == len(line.members)


def everywhere(
    make: Callable[[], ManagedPool],
    run: Callable[[ManagedPool], object],
    act: Callable[[ManagedPool], object],
    check: Callable[[ManagedPool], object],
    where: Callable[[ManagedPool], bool] = lambda _pool: True,
) -> None:
    """Act between any two steps of what `run` does, as a signal's handler may, and check."""
    sys._getframe().f_trace_opcodes = True
    for step in itertools.count():
        pool, left = make(), [step]

        def strike(pool: ManagedPool, left: list[int]) -> None:
            # Now, for it may raise.
            left[0] = -1
            act(pool)

        sys.settrace(
            striking(functools.partial(strike, pool, left), left, functools.partial(where, pool))
        )
        try:
            with suppress(PoolTimeout, KeyboardInterrupt):
                run(pool)
        finally:
            sys.settrace(None)
        check(pool)
        pool.resume()
        pool.dispose()
        if left[0] >= 0:
            assert step > 20, "nothing was interrupted"
            return


ALL = pytest.mark.parametrize("first", [False, True], ids=["used", "fresh"])


@BOTH
@ALL
@in_a_thread_of_its_own
def test_a_pause_anywhere_in_a_checkout_or_return_leaves_nothing_open(
    maker: Maker, background: bool, first: bool
) -> None:
    """By a handler of a signal, in the pool's own work too; a caller waits, or goes on."""

    def make() -> ManagedPool:
        maker.forget()
        pool = ManagedPool(maker, 1, 1, timeout=PATIENCE, background=background, liveness=True)
        if not first:
            pool.connect().close()
        pool._core.shared.timeout = 0.002
        return pool

    def check(pool: ManagedPool) -> None:
        if pool.paused:
            wait_for(lambda: whole(pool) and pool._core.line.total == 0)
            assert all(are_closed(maker))
            pool.resume()
        pool._core.shared.timeout = PATIENCE
        pool.connect().close()
        wait_for(lambda: whole(pool))

    everywhere(make, lambda pool: pool.connect().close(), lambda pool: pool.pause(), check)


@BOTH
@ALL
@in_a_thread_of_its_own
def test_a_refresh_anywhere_in_a_checkout_or_return_leaves_nothing_old(
    maker: Maker, background: bool, first: bool
) -> None:
    """What was made before it is closed, without anybody's asking."""
    count = [0]

    def make() -> ManagedPool:
        maker.forget()
        count[0] = 0
        pool = ManagedPool(maker, 1, 0, timeout=PATIENCE, background=background, liveness=True)
        if not first:
            pool.connect().close()
        return pool

    def refresh(pool: ManagedPool) -> None:
        count[0] = len(maker.made)
        pool.refresh()

    def check(pool: ManagedPool) -> None:
        wait_for(lambda: all(are_closed(maker)[: count[0]]) and whole(pool))

    everywhere(make, lambda pool: pool.connect().close(), refresh, check)


def killed(_pool: ManagedPool) -> None:
    """Interrupt whoever calls this."""
    raise KeyboardInterrupt


COMMANDS: dict[str, Callable[[ManagedPool], None]] = {
    "refresh": lambda pool: pool.refresh(),
    "grow": lambda pool: pool.resize(4, 0),
    "shrink": lambda pool: pool.resize(1, 0),
    "pause": lambda pool: pool.pause(),
    "resume": lambda pool: pool.resume(),
}


@BOTH
@pytest.mark.parametrize("name", COMMANDS)
@in_a_thread_of_its_own
def test_a_command_that_is_killed_anywhere_is_done_by_the_next_one(
    maker: Maker, background: bool, name: str
) -> None:
    """And leaves the books right."""
    command, given = COMMANDS[name], list[Any]()

    def make() -> ManagedPool:
        give_back(*given)
        given.clear()
        maker.forget()
        pool = ManagedPool(maker, 3, 0, background=background)
        given.extend(pool.connect() for _ in range(3))
        if name == "resume":
            pool.pause()
        if name in {"grow", "resume"}:
            given.append(waiting(pool, 1))
        else:
            give_back(given.pop(), given.pop())
        return pool

    def check(pool: ManagedPool) -> None:
        command(pool)
        if isinstance(given[-1], Asking):
            asking = given.pop()
            if name == "resume":
                given.pop().close()
            asking.join()
            given.extend(asking.leases)
            assert asking.leases
        idle = {"refresh": 0, "shrink": 0, "pause": 0}.get(name, len(pool._core.line.idle))
        assert len(pool._core.line.idle) == idle
        give_back(*given)
        given.clear()
        wait_for(lambda: whole(pool))
        assert (pool.paused, pool.size()) == (
            name == "pause",
            {"grow": 4, "shrink": 1}.get(name, 3),
        )
        # The one whose closing was interrupted is the collector's.
        assert are_closed(maker).count(False) - pool._core.line.total in {0, 1}

    # Where the lock has just been taken, only a tracer can interrupt: it would stay taken.
    everywhere(make, command, killed, check, lambda pool: not pool._core.door.is_inside())
