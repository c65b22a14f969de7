"""Random commands to a pool that threads or greenlets use, and what must hold at the end."""

# mypy: ignore-errors

import functools
import gc
import os
import random
import signal
import subprocess
import sys
import threading
import traceback
from contextlib import suppress

import pytest
from sqlalchemy import exc

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
        name = rng.choice((*("refresh", "resize", "pause", "resume") * 2, "failing", "view"))
        if name == "view":
            pool.view()
        elif name == "resize":
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

    def fork(self):
        """Fork in the middle of it all, and have the child use a pool of its own."""
        if child := os.fork():
            assert os.waitpid(child, 0)[1] == 0, "a child failed"
            return
        signal.alarm(int(PATIENCE))
        try:
            self.serve_in_child()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(1)

    def serve_in_child(self):
        """Be served by the pool of a child, and leave the parent's connections alone."""
        # Another thread of the parent's may have it.
        self.server.lock, self.server.failing = threading.Lock(), False
        theirs = [each for each in self.server.connections if not each.closed]
        pool = self.pools[-1]
        pool.resize(2, 0)
        pool.resume()
        served = 0
        while not served:
            with suppress(exc.TimeoutError, exc.OperationalError, ConnectionError):
                pool.connect().close()
                served += 1
        pool.pause()
        gc.collect()
        wait_for(lambda: not pool._core.line.total)
        assert not any(each.closed for each in theirs)

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


def under_load(commands, forks=0, **arguments):
    """Give so many commands to a pool in use."""
    load = Load(commands, **arguments)
    for number in range(commands):
        load.command()
        if forks and number % (commands // forks) == 0:
            load.fork()
        # Not all of them before the callers have begun.
        done = load.crowd.did.total()
        wait_for(lambda: load.pools[-1].paused or load.crowd.did.total() != done)  # noqa: B023
    load.end()


# Python 3.12 and later warn of each, for there are the threads of the callers.
FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
SETTINGS = pytest.mark.parametrize(
    "arguments", [{}, {"use_lifo": True, "liveness": True}, EVERYTHING]
)


@FORKS
@SETTINGS
def test_a_few_commands_to_a_pool_in_use(arguments):
    """The books are right, and nobody hangs."""
    under_load(30, forks=2, **arguments)


@pytest.mark.slow
@pytest.mark.timeout(300)
@FORKS
@SETTINGS
def test_a_thousand_commands_to_a_pool_in_use(arguments):
    """The books are right, and nobody hangs."""
    under_load(1000, forks=40, **arguments)


GREENLETS = """
import gevent.monkey; gevent.monkey.patch_all()
import gevent, sys
from tests.pool import test_commands_stress as stress

class Killed(BaseException): pass

class Load(stress.Load):
    def command(self):
        # In the middle of what it does, or of what it waits for.
        command = gevent.spawn(super().command)
        if self.rng.random() < 0.5:
            gevent.sleep(self.rng.choice((0, 0, 0.0001, 0.001)))
            command.kill(Killed)
        else:
            command.get()

stress.Load = Load
stress.under_load(int(sys.argv[1]), **(stress.EVERYTHING if sys.argv[2] == "all" else {}))
print("at rest")
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["bare", "all"])
def test_many_commands_that_are_killed_among_greenlets(how):
    """The books are right, and nobody hangs."""
    pytest.importorskip("gevent")
    command = [sys.executable, "-c", GREENLETS, "500", how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert "at rest" in done.stdout, done.stdout + done.stderr
