"""Random commands to a pool that threads use, and what must hold at the end."""

# mypy: ignore-errors

import functools
import gc
import random

import pytest

from pyramid_dbpool.pool.managed import ManagedPool
from tests.pool.test_commands_anywhere import whole
from tests.pool.test_stress import EVERYTHING, Crowd, Server, Tame
from tests.support.makers import PATIENCE, in_thread, wait_for


class Load:
    """Callers on a pool that is told one thing after another."""

    def __init__(self, seed, **arguments):
        self.rng, self.server = random.Random(seed), Server()
        self.pools = [
            ManagedPool(self.server.connect, 3, 3, timeout=5.0, max_waiting=50, **arguments)
        ]
        self.crowd = Crowd(self.pools[0], self.server, 3600.0)
        # A detached connection is none of the pool's any more.
        self.crowd.act = lambda rng: Crowd.act(self.crowd, Tame(rng))
        self.callers = [in_thread(functools.partial(self.crowd.run, n)) for n in range(12)]

    def command(self):
        """Tell the pool anything."""
        rng, pool = self.rng, self.pools[-1]
        name = rng.choice(("refresh", "resize", "resize", "pause", "resume", "resume", "failing"))
        if name == "resize":
            pool.resize(rng.randint(1, 6), rng.randint(0, 3), by="the test")
        elif name == "failing":
            self.server.failing = not self.server.failing and rng.random() < 0.3
        elif name == "pause" and rng.random() < 0.1:
            pool.pause()
            wait_for(self.is_closed)
            assert not pool._core.line.members
        elif name == "pause" and rng.random() < 0.1:
            self.replace()
        else:
            getattr(pool, name)("the test")

    def is_closed(self):
        """Tell whether the pool holds nothing."""
        # What a caller has dropped while another one's collection ran is still out, and all wait.
        gc.collect()
        *former, last = [each._core.line for each in self.pools]
        # In a pool that is over, one that somebody has asked too late stays, as in a `QueuePool`.
        return last.total == 0 and self.server.open == sum(len(each.idle) for each in former)

    def replace(self):
        """Dispose of the pool, as an engine does."""
        self.pools[-1].dispose()
        self.pools.append(self.pools[-1].recreate())
        self.crowd.pool = self.pools[-1]

    def end(self):
        """Let all go home, and check the books."""
        self.server.failing = False
        self.pools[-1].resize(2, 2)
        self.pools[-1].resume()
        done = self.crowd.did["close"]
        wait_for(lambda: self.crowd.did["close"] > done + 100)
        self.crowd.until = 0.0
        for each in self.callers:
            each.join(PATIENCE)
            assert not each.is_alive(), "a caller hangs"
        assert not self.crowd.faults
        gc.collect()
        wait_for(lambda: all(map(whole, self.pools)))
        totals = [each._core.line.total for each in self.pools]
        assert self.server.open == sum(totals)
        assert totals[-1] <= 4
        self.pools[-1].pause()
        wait_for(self.is_closed)
        for each in self.pools:
            each.dispose()
        assert not self.server.open


def under_load(commands, **arguments):
    """Give so many commands to a pool in use."""
    load = Load(commands, **arguments)
    for _ in range(commands):
        load.command()
        # Not all of them before the callers have begun.
        done = load.crowd.did.total()
        wait_for(lambda: load.pools[-1].paused or load.crowd.did.total() != done)  # noqa: B023
    load.end()


SETTINGS = pytest.mark.parametrize(
    "arguments", [{}, {"use_lifo": True, "liveness": True}, EVERYTHING]
)


@SETTINGS
def test_a_few_commands_to_a_pool_in_use(arguments):
    """The books are right, and nobody hangs."""
    under_load(30, **arguments)


@pytest.mark.slow
@pytest.mark.timeout(300)
@SETTINGS
def test_a_thousand_commands_to_a_pool_in_use(arguments):
    """The books are right, and nobody hangs."""
    under_load(1000, **arguments)
