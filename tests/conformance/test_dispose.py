"""Closing all connections and going on; ends and new processes."""

import gc
import os
import subprocess
import sys
import threading

import pytest

from .adapters.base import Feature
from .lab import Lab, serve, until


def test_dispose_closes_what_is_idle(lab: Lab) -> None:
    """After a dispose, none of the connections that were idle is open."""
    lab.needs(Feature.DISPOSE)
    pool = lab.pool(size=3)
    lab.warm(pool, 3)
    before = list(lab.server.connections)
    pool.dispose()
    assert all(connection.closed for connection in before)
    lab.run(lambda: serve(pool)).result()


def test_waiter_is_served_after_a_dispose(lab: Lab) -> None:
    """A caller who waits while the pool is disposed of gets a fresh connection."""
    lab.needs(Feature.RECREATE)
    pool = lab.pool(size=1)
    lease = pool.checkout()
    task = lab.waiter(pool)
    pool.dispose()
    fresh = task.result()
    assert fresh.connection is not lease.connection
    fresh.release()
    lease.release()


def test_connection_from_before_a_dispose_closes_at_return(lab: Lab) -> None:
    """What was out when the pool was disposed of is closed, not kept, at return."""
    lab.needs(Feature.DISPOSE)
    pool = lab.pool(size=2)
    lease = pool.checkout()
    pool.dispose()
    lease.release()
    until(lambda: lease.connection.closed, "the old connection is closed")


def test_counters_stay_sane_over_a_dispose(lab: Lab) -> None:
    """No count is negative, whatever was out when the pool was disposed of."""
    lab.needs(Feature.RECREATE)
    pool = lab.pool(size=2)
    leases = [pool.checkout() for _ in range(2)]
    old = pool.books()
    pool.dispose()
    for lease in leases:
        assert min(old()) >= 0, f"the books say {old()}"
        lease.release()
    assert min(old()) >= 0, f"the books say {old()}"


def test_disposed_pool_leaves_no_thread(lab: Lab) -> None:
    """The threads that a pool started end with it."""
    before = set(threading.enumerate())
    use_and_close(lab)
    gc.collect()
    until(lambda: set(threading.enumerate()) <= before, "all threads are gone")


def use_and_close(lab: Lab) -> None:
    """Serve one caller from a pool, close it, and leave no reference to it."""
    pool = lab.pool(size=2)
    lab.run(lambda: serve(pool)).result()
    pool.close()
    lab.forget_pools()


def test_no_thread_before_first_use(lab: Lab) -> None:
    """Making a pool starts no thread, so that a server may still fork."""
    before = set(threading.enumerate())
    pool = lab.pool(size=2)
    assert set(threading.enumerate()) <= before
    assert pool is not None


def test_forked_child_opens_its_own_connections(lab: Lab) -> None:
    """A child process never uses a connection that its parent opened."""
    pool = lab.pool(size=2)
    lab.warm(pool, 1)
    child = os.fork()
    if child == 0:
        code = 2
        try:
            code = 0 if pool.checkout().connection.pid == os.getpid() else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    lease = pool.checkout()
    lease.query()
    lease.release()


PROGRAM = """
from tests.conformance.adapters import load
from tests.conformance.lab import Lab, serve
lab = Lab(load({name!r}))
pool = lab.pool(size=2)
serve(pool)
print("done", flush=True)
"""


@pytest.mark.slow
def test_open_pool_does_not_keep_the_process_alive(lab: Lab) -> None:
    """A program that ends with its pool open ends at once."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(name=lab.adapter.name)],
        timeout=60.0,
        capture_output=True,
        check=True,
        text=True,
    )
    assert done.stdout == "done\n"
