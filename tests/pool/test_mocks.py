"""What an app's tests replace with a mock for the sake of their own code."""

import random
from typing import Any
from unittest import mock

import pytest

from pyramid_dbpool import ManagedPool
from tests.support.makers import Maker
from tests.support.programs import run_program

EVERYTHING: dict[str, Any] = {**ManagedPool.plugin_arguments(2, 0), "pool_timeout": 5.0}


def plugins(maker: Maker) -> ManagedPool:
    """Make a pool with everything on."""
    given = {key.removeprefix("pool_"): value for key, value in EVERYTHING.items()}
    return ManagedPool(maker, given.pop("size"), **given)


@pytest.mark.parametrize("name", ["threading.Thread", "random.random", "time.time", "os.getpid"])
@pytest.mark.parametrize("autospec", [None, True])
def test_connections_are_opened(maker: Maker, name: str, autospec: bool | None) -> None:
    """Nothing that a pool needs is behind a name which is the app's to replace."""
    with mock.patch(name, autospec=autospec):
        pool = plugins(maker)
        first, second = pool.connect(), pool.connect()
        first.close()
        second.close()
    assert len(maker.made) == 2


def test_a_process_with_a_made_up_number_is_not_taken_for_a_child(maker: Maker) -> None:
    """What was opened meanwhile is no parent's: its slot would be lost."""
    pool = ManagedPool(maker, 1, 0, timeout=0.2)
    with mock.patch("os.getpid", return_value=1):
        lease = pool.connect()
    lease.invalidate()
    lease.close()
    pool.connect().close()


def test_chance_is_left_to_those_who_seed_it(maker: Maker) -> None:
    """A test that seeds the generator gets its own numbers, whatever is opened beside it."""
    random.seed(7)
    expected = [random.random(), random.random()]
    random.seed(7)
    seen = [random.random()]
    plugins(maker).connect().close()
    assert [*seen, random.random()] == expected


def test_greenlets_are_told_apart_though_gevent_patches_late() -> None:
    """One that waits beside what it holds is known, if the pool was made after the patch."""
    program = """
from pyramid_dbpool import ManagedPool, PoolTimeout
from gevent import monkey
monkey.patch_all()
import gevent, socket

class Connection:
    def __init__(self):
        self.near, self.far = socket.socketpair()
    def fileno(self):
        return self.near.fileno()
    def rollback(self):
        pass
    close = rollback

pool = ManagedPool(Connection, 1, 0, timeout=0.3, hold_warning=60)
pool.connect().close()

def twice():
    mine = pool.connect()
    try:
        pool.connect()
    except PoolTimeout as error:
        print(error)
    mine.close()

gevent.spawn(twice).get()
"""
    done = run_program(program)
    assert "already" in done.stdout, (done.stdout, done.stderr)
