"""Random use of a whole pool by threads and greenlets, and what must hold at the end.

`DBPOOL_STRESS_SECONDS` sets how long each history lasts (default: 2).
"""

# mypy: ignore-errors

import gc
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress

import pytest
from sqlalchemy import exc

from pyramid_dbpool.pool.deadlines import deadline
from pyramid_dbpool.pool.managed import ManagedPool

SECONDS = float(os.environ.get("DBPOOL_STRESS_SECONDS", "2"))

EVERYTHING = {
    "use_lifo": True,
    "idle_timeout": 0.2,
    "overflow_linger": 0.05,
    "min_idle": 1,
    "max_lifetime": 0.5,
    "liveness": True,
    "keepalive": 0.1,
    "background": True,
    "outage_grace": 0.2,
}


class Server:
    """Counts connections, fails at random, and knows who uses which connection."""

    def __init__(self):
        self.lock = threading.Lock()
        self.open = self.peak = 0
        self.failing = False
        self.connections = []

    def connect(self):
        """Open a connection, or fail while the server is failing."""
        time.sleep(random.random() * 0.004)
        if self.failing or random.random() < 0.02:
            raise ConnectionError("the server is away")
        return Connection(self)


class Connection:
    """A connection with a real socket, that notices a second user."""

    def __init__(self, server):
        self.near, self.far = socket.socketpair()
        self.server, self.users, self.closed = server, 0, False
        with server.lock:
            server.open += 1
            server.peak = max(server.peak, server.open)
            server.connections.append(self)

    def fileno(self):
        """Return the descriptor of our end."""
        return self.near.fileno()

    def rollback(self):
        """Do nothing."""

    def close(self):
        """Close both ends, once."""
        with self.server.lock:
            assert not self.closed, "closed twice"
            self.closed = True
            self.server.open -= 1
            self.server.connections.remove(self)
        self.near.close()
        self.far.close()


class Crowd:
    """Callers that do one random thing after another until the time is over."""

    def __init__(self, pool, server, seconds):
        self.pool, self.server = pool, server
        self.until = time.monotonic() + seconds
        self.did = Counter()
        self.faults = []

    def run(self, seed):
        """Be one caller."""
        rng = random.Random(seed)
        while time.monotonic() < self.until:
            try:
                self.act(rng)
            except (exc.TimeoutError, exc.OperationalError, ConnectionError) as error:
                self.did[type(error).__name__] += 1
                # Who is refused at once must not keep the others from running.
                time.sleep(0.001)
            except BaseException as error:
                self.faults.append(error)
                raise

    def act(self, rng):
        """Check out within a random deadline, and do something with the connection."""
        with deadline(rng.choice((0.0005, 0.01, 0.2, 5.0))):
            lease = self.pool.connect()
        connection = lease.dbapi_connection
        connection.users += 1
        try:
            assert connection.users == 1, "two users"
            assert not connection.closed, "handed out closed"
            time.sleep(rng.choice((0, 0, 0.0005, 0.002)))
        finally:
            connection.users -= 1
        deed = rng.choice(("close",) * 12 + ("kill", "invalidate", "detach", "collect", "soft"))
        self.did[deed] += 1
        if deed == "kill":
            with suppress(OSError):
                connection.far.shutdown(socket.SHUT_RDWR)
        if deed == "invalidate":
            lease.invalidate()
        elif deed == "soft":
            lease.invalidate(soft=True)
        elif deed == "detach":
            lease.detach()
        if deed == "collect":
            lease.cycle = lease  # given back by the collector, in any thread
            del lease
            # At once: those who wait allocate nothing, and so the collector would not come.
            gc.collect()
        else:
            lease.close()


def chaos(pool, server, until):
    """Disturb: outages, disposals."""
    rng = random.Random(7)
    while time.monotonic() < until:
        time.sleep(rng.random() * 0.2)
        deed = rng.choice(("outage", "dispose", "suspect"))
        if deed == "outage":
            server.failing = True
            time.sleep(rng.random() * 0.3)
            server.failing = False
        elif deed == "dispose":
            pool.dispose()
        else:
            for connection in list(server.connections):
                if rng.random() < 0.3:
                    with suppress(OSError):
                        connection.far.shutdown(socket.SHUT_RDWR)


def all_given_back(pool, server):
    """Check what must hold when everybody has gone."""
    gc.collect()
    wait_until(lambda: pool.snapshot().opening == 0 and pool.snapshot().held == 0)
    gc.collect()
    numbers = pool.snapshot()
    assert (numbers.leased, numbers.waiting) == (0, 0), numbers
    line = pool._core.line
    # An opening for `min_idle` may begin at any moment.
    wait_until(lambda: len(line.members) == len(line.idle) == line.total)
    pool.dispose()
    wait_until(lambda: pool.snapshot().opening == 0)
    pool.recreate()
    wait_until(lambda: server.open == 0)
    assert pool.checkedout() == 0
    assert pool._overflow >= -pool.size()


def wait_until(condition):
    """Give background work up to ten seconds."""
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until, "never came to rest"
        time.sleep(0.01)


def stress(callers, make_caller, **arguments):
    """Let callers loose on a pool of 3 + 3, disturb them, and check the end."""
    server = Server()
    pool = ManagedPool(server.connect, pool_size=3, max_overflow=3, timeout=3.0, **arguments)
    crowd = Crowd(pool, server, SECONDS)
    running = [make_caller(crowd.run, seed) for seed in range(callers)]
    chaos(pool, server, crowd.until)
    for each in running:
        each.join(20)
        assert not getattr(each, "is_alive", lambda: False)(), "a caller hangs"
    assert not crowd.faults, crowd.faults
    # Greenlets that are killed again and again get less done than threads.
    least = callers if make_caller is thread else 0
    assert crowd.did["close"] > least, f"hardly anybody got through: {crowd.did}"
    # Detached connections leave the pool's count while they are still open.
    all_given_back(pool, server)
    return crowd


def thread(run, seed):
    """Start a caller as a thread."""
    made = threading.Thread(target=run, args=(seed,), daemon=True)
    made.start()
    return made


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [{}, {"use_lifo": True, "liveness": True}, EVERYTHING])
def test_nothing_is_lost_among_threads(arguments):
    """Whatever threads do and whatever befalls them, everything is given back at the end."""
    stress(24, thread, **arguments)


@pytest.mark.slow
def test_capacity_is_never_exceeded():
    """At no moment are more connections open than the pool may have."""
    server = Server()
    pool = ManagedPool(server.connect, pool_size=2, max_overflow=2, timeout=3.0, **EVERYTHING)
    crowd = Crowd(pool, server, SECONDS)
    crowd.act = lambda rng: Crowd.act(crowd, Tame(rng))
    running = [thread(crowd.run, seed) for seed in range(16)]
    for each in running:
        each.join(20)
    assert not crowd.faults, crowd.faults
    assert server.peak <= 4
    all_given_back(pool, server)


class Tame:
    """A source of chance that never detaches: a detached connection is no longer the pool's."""

    def __init__(self, rng):
        self._rng = rng
        self.random = rng.random

    def choice(self, options):
        """Choose anything but to detach."""
        return self._rng.choice([each for each in options if each != "detach"])


GREENLETS = """
import gevent.monkey; gevent.monkey.patch_all()
import gevent, random, sys
from tests.pool import test_stress as stress

class Killed(BaseException): pass

def caller(run, seed):
    def forever():
        rng = random.Random(seed)
        while True:
            try:
                with gevent.Timeout(rng.choice((0.001, 0.01, 0.1, 100)), Killed()):
                    return run(seed)
            except Killed:
                pass
    return gevent.spawn(forever)

def faultless(crowd_run):
    return crowd_run

class Tolerant(stress.Crowd):
    def run(self, seed):
        rng = random.Random(seed)
        while stress.time.monotonic() < self.until:
            try:
                self.act(rng)
            except (stress.exc.TimeoutError, stress.exc.OperationalError, ConnectionError):
                gevent.sleep(0.001)

stress.Crowd = Tolerant
stress.stress(40, caller, **(stress.EVERYTHING if sys.argv[1] == "all" else {}))
print("at rest")
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["bare", "all"])
def test_nothing_is_lost_among_greenlets_that_are_killed(how):
    """Greenlets killed anywhere in a checkout or return lose nothing."""
    pytest.importorskip("gevent")
    done = subprocess.run(
        [sys.executable, "-c", GREENLETS, how],
        capture_output=True,
        text=True,
        timeout=60 + 10 * SECONDS,
        check=False,
    )
    assert "at rest" in done.stdout, done.stdout + done.stderr
