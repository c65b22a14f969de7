"""The bench on which a scenario runs: one pool, one stub server, some threads."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from .adapters.base import Adapter, Feature, Lease, NotOffered, Options, PoolUnderTest
from .stub import StubServer

__all__ = [
    "Lab",
    "Load",
    "Task",
    "assert_whole",
    "pause",
    "release_all",
    "serve",
    "timed",
    "until",
]

T = TypeVar("T")

PATIENCE = 15.0
"""Seconds after which something that should happen counts as never, on a busy machine too."""


def until(condition: Callable[[], bool], what: str, within: float = PATIENCE) -> None:
    """Return as soon as the condition holds; fail after `within` seconds."""
    deadline = time.monotonic() + within
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s: {what}")
        pause.wait(0.001)


def pause(seconds: float) -> None:
    """Let time pass; only for scenarios that are about time, and marked slow."""
    threading.Event().wait(seconds)


class Task(Generic[T]):
    """A call in a thread of its own, whose result can be waited for."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._over = threading.Event()
        self._value: T
        self.error: BaseException | None = None
        self.seconds = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Task {'over' if self.over else 'running'}, error {self.error!r}>"

    def _run(self) -> None:
        started = time.monotonic()
        try:
            self._value = self._function()
        except BaseException as error:  # a scenario wants to see what a caller sees
            self.error = error
        self.seconds = time.monotonic() - started
        self._over.set()

    @property
    def over(self) -> bool:
        """True once the call has returned or raised."""
        return self._over.is_set()

    def wait(self, within: float = PATIENCE) -> "Task[T]":
        """Wait until the call is over, however it ended."""
        if not self._over.wait(within):
            raise AssertionError(f"a caller was still waiting after {within:g} s")
        return self

    def result(self, within: float = PATIENCE) -> T:
        """Return what the call returned; raise what it raised."""
        self.wait(within)
        if self.error is not None:
            raise self.error
        return self._value


class Lab:
    """What a scenario works with: `lab.pool(...)` makes the pool under test."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.server = StubServer()
        self._pools: list[PoolUnderTest] = []

    def __repr__(self) -> str:
        return f"<Lab {self.adapter.name}, {self.server!r}>"

    def needs(self, *features: Feature) -> None:
        """End the scenario as "not offered" unless the pool has these features."""
        for feature in features:
            if feature not in self.adapter.offers:
                raise NotOffered(feature.value)

    def pool(self, **options: Any) -> PoolUnderTest:
        """Make the pool under test; options that it lacks end the scenario."""
        wanted = Options(**options)
        self.needs(*wanted.features())
        pool = self.adapter.make(self.server, wanted)
        self._pools.append(pool)
        return pool

    def warm(self, pool: PoolUnderTest, count: int) -> None:
        """Open `count` connections and leave them idle."""
        release_all([pool.checkout() for _ in range(count)])

    def run(self, function: Callable[[], T]) -> Task[T]:
        """Call a function in a thread."""
        return Task(function)

    def waiter(self, pool: PoolUnderTest, timeout: float | None = None) -> Task[Lease]:
        """Start a checkout in a thread and return once it stands in line."""
        self.needs(Feature.LINE)
        before = pool.waiting()
        task = self.run(lambda: pool.checkout(timeout))
        until(lambda: pool.waiting() > before or task.over, "the caller stands in line")
        return task

    def unit(self, pool: PoolUnderTest, hold: float = 0.0) -> None:
        """Do one unit of work: check out, run a statement, hold, give back."""
        lease = pool.checkout()
        try:
            lease.query()
            if hold:
                time.sleep(hold)
            lease.connection.commit()
        except Exception:
            lease.invalidate()
            raise
        lease.release()

    def crowd(self, count: int, function: Callable[[], T]) -> list[Task[T]]:
        """Call a function in `count` threads that start together."""
        barrier = threading.Barrier(count)

        def together() -> T:
            barrier.wait(PATIENCE)
            return function()

        return [self.run(together) for _ in range(count)]

    def forget_pools(self) -> None:
        """Drop the references to the pools."""
        self._pools.clear()

    def close(self) -> None:
        """Close the pools, so that no thread outlives the scenario."""
        for pool in self._pools:
            with contextlib.suppress(Exception):
                pool.close()
        self.server.shut_down()


def release_all(leases: list[Lease]) -> None:
    """Give every one of these connections back."""
    for lease in leases:
        lease.release()


def serve(pool: PoolUnderTest) -> None:
    """Check a connection out and give it back."""
    pool.checkout().release()


def assert_whole(lab: Lab, pool: PoolUnderTest, capacity: int) -> None:
    """Check out as many connections as the pool has, and give them back."""
    tasks = [lab.run(pool.checkout) for _ in range(capacity)]
    leases = [task.result() for task in tasks]
    assert len({id(lease.connection) for lease in leases}) == capacity
    assert lab.server.open <= capacity
    release_all(leases)


@contextlib.contextmanager
def timed(limit: float, what: str) -> Iterator[None]:
    """Fail if the block takes longer than `limit` seconds."""
    started = time.monotonic()
    yield
    took = time.monotonic() - started
    if took > limit:
        raise AssertionError(f"{what} took {took:.3f} s, the limit is {limit:g} s")


class Load:
    """Threads that do units without end, and how these went."""

    def __init__(self, lab: Lab, pool: PoolUnderTest, threads: int, hold: float) -> None:
        self.done = 0
        self.errors: list[Exception] = []
        self._lab, self._pool, self._hold = lab, pool, hold
        self._stop = threading.Event()
        self._tasks = lab.crowd(threads, self._work)

    def __repr__(self) -> str:
        return f"<Load {self.done} done, {len(self.errors)} failed>"

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                self._lab.unit(self._pool, self._hold)
                self.done += 1
            except Exception as error:
                self.errors.append(error)
                # A web server that failed answers somebody, and then the next one asks.
                self._stop.wait(0.005)

    def stop(self) -> None:
        """End the threads."""
        self._stop.set()
        for task in self._tasks:
            task.wait(30.0)
