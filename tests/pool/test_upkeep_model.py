"""What is open stays open for as long as its settings say, on a clock of its own."""

import heapq
import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from pyramid_dbpool.pool import core, examiners, health, managed, upkeep
from pyramid_dbpool.pool.housekeeper import Task
from pyramid_dbpool.pool.managed import ManagedPool
from pyramid_dbpool.pool.opener import BackgroundOpener

EPSILON = 2 * upkeep.PRECISION


class World:
    """A clock that jumps from one thing that is due to the next, and the server on it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.runs = True
        self.open: list[Server] = []
        self.demand: list[tuple[float, int]] = [(self.now, 0)]
        # How many were closed because they were idle, and how many of them too early.
        self.closed_idle = self.too_early = 0
        self.pool: ManagedPool
        self._tasks: list[tuple[float, int, Task]] = []
        self._serial = itertools.count()

    def call_at(self, due: float, run: Callable[[], object]) -> Task:
        """Call `run` at `due`."""
        task = Task(run)
        heapq.heappush(self._tasks, (due, next(self._serial), task))
        return task

    def call_off(self, task: Task) -> None:
        """Forget a task."""
        task.cancel()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and have the world looked at when something was due, and at the end."""
        end = self.now + seconds
        while self._tasks and self._tasks[0][0] <= end:
            due, _, task = heapq.heappop(self._tasks)
            if task.run is not None:
                # Only what was late already is looked at where it comes.
                self.now = max(self.now, due)
                task.run()
                self.check()
        self.now = end
        self.check()

    def take(self) -> Any:
        """Take a connection."""
        lease = self.pool.connect()
        server: Any = lease.dbapi_connection
        server.leased = True
        self.note()
        return lease

    def give(self, lease: Any, *, invalidate: bool = False) -> None:
        """Return a connection, or report it dead."""
        server = lease.dbapi_connection
        server.leased, server.seen = False, self.now
        (lease.invalidate if invalidate else lease.close)()
        self.note()

    def note(self, more: int = 0) -> None:
        """Note how many connections are needed now."""
        self.demand.append((self.now, sum(each.leased for each in self.open) + more))

    def needed(self, seconds: float) -> int:
        """Say how many were needed at once, at most, in the last so many seconds."""
        since = self.now - seconds
        before = [count for at, count in self.demand if at < since][-1:]
        return max(before + [count for at, count in self.demand if at >= since])

    def limit(self, margin: float) -> float:
        """Say how many may be open, with so many seconds of grace."""
        options, size = self.pool._options, self.pool.size()
        limits = []
        if options.idle_timeout is not None:
            limits.append(self.needed(options.idle_timeout + margin))
        limits.append(size + self.needed(options.overflow_linger + margin))
        return max(options.min_idle, min(limits))

    def check(self) -> None:
        """See that nothing is open for longer than it may be."""
        options = self.pool._options
        assert not self.too_early
        assert len(self.open) <= self.limit(EPSILON), "idle for too long"
        ages = [options.max_lifetime, self.pool._recycle if self.pool._recycle > -1 else None]
        for each in self.open:
            if not each.leased:
                for age in ages:
                    assert age is None or self.now - each.opened <= age + EPSILON, "too old"
                silence = options.keepalive
                assert silence is None or self.now - each.seen <= silence + EPSILON, "silent"


class Server:
    """A connection without a socket, as its server sees it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.opened = self.seen = world.now
        self.leased = False
        world.note(more=1)
        world.open.append(self)

    def rollback(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """See that it was not closed too early."""
        world = self._world
        closed = world.pool._core.stats.closed["idle"]
        if closed > world.closed_idle:
            world.closed_idle = closed
            world.too_early += len(world.open) <= world.limit(-EPSILON)
        world.open.remove(self)


def here(_name: str, run: Callable[[], object]) -> None:
    """Run what would run in a thread."""
    run()


class OpenerHere(BackgroundOpener):
    """Opens without a thread."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args, start=here)


@contextmanager
def made_world(**arguments: Any) -> Iterator[World]:
    """Make a pool in a world of its own."""
    world = World()
    with ExitStack() as patched:
        for module, name, value in (
            (core, "monotonic", lambda: world.now),
            (managed, "monotonic", lambda: world.now),
            (core, "housekeeper", lambda: world),
            (core, "BackgroundOpener", OpenerHere),
            (health, "Examiners", partial(examiners.Examiners, start=here)),
            (health, "by_chance", lambda: 0.0),
            (upkeep, "start_thread", here),
        ):
            patched.enter_context(mock.patch.object(module, name, value))
        world.pool = ManagedPool(partial(Server, world), **arguments)
        source = world.pool._core.source

        def ping(record: Any) -> bool:
            record.dbapi_connection.seen = world.now
            return True

        patched.enter_context(mock.patch.object(source, "ping", ping))
        yield world


# Off more often than not: what comes often for one thing would hide that another one is forgotten.
durations = [0.5, 1.0, 3.0, 7.0, 20.0]
maybe = st.sampled_from([None] * 10 + durations)

arguments = st.fixed_dictionaries(
    {
        "pool_size": st.integers(1, 3),
        "max_overflow": st.integers(0, 3),
        "use_lifo": st.booleans(),
        "idle_timeout": maybe,
        "overflow_linger": st.sampled_from([0.0, *durations]),
        "min_idle": st.integers(0, 1),
        "max_lifetime": maybe,
        "recycle": st.sampled_from([-1] * 6 + [2, 9]),
        "keepalive": maybe,
        "background": st.booleans(),
        # A recycle time is the pool's own rule only with it, or in the background.
        "liveness": st.just(True),
    }
)
deeds = st.lists(
    st.tuples(
        st.sampled_from(["take", "give", "invalidate", "pass", "pass"]),
        st.integers(1, 3),
        st.integers(0, 5),
        st.sampled_from([0.1, 0.4, 0.9, 1.9, 2.1, 5.0, 30.0]),
    ),
    min_size=5,
    max_size=40,
)


@given(arguments, deeds)
@settings(max_examples=300, deadline=None)
def test_nothing_is_open_for_longer_than_it_may_be(
    arguments: dict[str, Any], deeds: list[tuple[str, int, int, float]]
) -> None:
    """Whatever can be due, together with whatever else, and whoever comes in between.

    Nor is what is idle closed before its time.
    """
    with made_world(**arguments) as world:
        capacity, leases = arguments["pool_size"] + arguments["max_overflow"], list[Any]()
        for deed, count, which, seconds in deeds:
            if deed == "pass":
                world.pass_time(seconds)
            for _ in range(count):
                if deed == "take" and len(leases) < capacity:
                    leases.append(world.take())
                elif deed in ("give", "invalidate") and leases:
                    world.give(leases.pop(which % len(leases)), invalidate=deed == "invalidate")
        world.pass_time(100.0)
        world.pool.dispose()


def test_a_second_burst_is_closed_in_time_too() -> None:
    """With an idle time of two seconds, and nothing due before half an hour otherwise."""
    with made_world(
        pool_size=8, max_overflow=0, idle_timeout=2.0, max_lifetime=1800.0, liveness=True
    ) as world:
        for _ in range(2):
            for lease in [world.take() for _ in range(8)]:
                world.give(lease)
            assert len(world.open) == 8
            world.pass_time(2.0 + EPSILON)
            assert not world.open


def test_what_nobody_has_used_is_visited_too() -> None:
    """What was opened for `min_idle` while the only caller holds on to his."""
    with made_world(
        pool_size=2, max_overflow=0, min_idle=2, keepalive=5.0, background=True, liveness=True
    ) as world:
        lease = world.take()
        assert len(world.open) == 2
        world.pass_time(60.0)
        world.give(lease)


def test_nobody_is_visited_for_nothing() -> None:
    """Below `min_idle` nothing is ever due, and returns plan nothing."""
    with made_world(pool_size=2, max_overflow=0, min_idle=2, idle_timeout=1.0) as world:
        for _ in range(3):
            for lease in [world.take() for _ in range(2)]:
                world.give(lease)
        assert not world._tasks
        assert world.pool._core.upkeep.planned_for == 2


def test_a_ping_is_no_use_of_a_connection() -> None:
    """One caller in turn on three needs one, also where keepalive pings those that rest."""
    with made_world(
        pool_size=3, max_overflow=0, idle_timeout=10.0, keepalive=3.0, liveness=True
    ) as world:
        for lease in [world.take() for _ in range(3)]:
            world.give(lease)
        for _ in range(10):
            world.pass_time(2.0)
            world.give(world.take())
        assert len(world.open) == 1


def test_overflow_lingers_from_when_it_is_too_much() -> None:
    """Not from when those that stay have been idle."""
    with made_world(pool_size=1, max_overflow=1, use_lifo=True, overflow_linger=0.5) as world:
        first, second = world.take(), world.take()
        world.give(first)
        world.pass_time(60.3)
        world.give(second)
        world.pass_time(0.4)
        assert len(world.open) == 2
        world.pass_time(0.1 + EPSILON)
        assert len(world.open) == 1
