"""The garbage collector returns a connection in the middle of whatever a pool is doing."""

import ast
import itertools
import logging
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from pyramid_dbpool import ManagedPool, PoolTimeout, deadline
from pyramid_dbpool.pool.line import IDLE, LEASED
from tests.support.makers import Maker, wait_for
from tests.support.striking import CODE, striking

OPERATIONS = ("return", "return one too many", "take", "take and open", "invalidate", "wait")


class Scene:
    """A pool before an operation, and a lease that nobody but the collector will return."""

    def __init__(self, maker: Maker, operation: str, *, lifo: bool, background: bool) -> None:
        # With upkeep a pool keeps its books of idle times too, with FIFO.
        self.pool = ManagedPool(
            maker, 2, 1, 30.0, lifo, background=background, idle_timeout=1e6, max_waiting=5
        )
        self.leases = [self.pool.connect() for _ in range(3)]
        self.forgotten = [self.leases.pop()]
        if operation == "take and open":
            self.leases.pop().invalidate()
        elif operation in ("take", "return one too many"):
            self.leases.pop().close()
        if operation == "return one too many":
            filler = self.pool.connect()
            self.leases.pop().close()
            self.leases.append(filler)
        self._operation = operation

    def run(self) -> None:
        """Do the operation."""
        if self._operation.startswith("return"):
            self.leases.pop().close()
        elif self._operation == "invalidate":
            self.leases.pop().invalidate()
        else:
            waits = self._operation == "wait"
            with suppress(PoolTimeout), deadline(0.001) if waits else nullcontext():
                self.leases.append(self.pool.connect())

    def check_the_books(self) -> None:
        """Check what must hold whatever has happened, and that no slot is lost."""
        core = self.pool._core
        wait_for(lambda: not core.line.opening)
        with core.lock:
            idle, members = list(core.line.idle), core.line.members
            assert len(set(idle)) == len(idle)
            assert set(idle) == {each for each in members if each.state is IDLE}
            assert core.line.held == 0
            assert not core.line.waiters
            assert len(members) <= 3
            assert core.line.leased == sum(each.state is LEASED for each in members)
            assert core.line.leased == len(self.leases) + len(self.forgotten)
            assert len(core.line.idle_times()) == len(idle)
        assert core.stats.waiting_holders == 0
        self.forgotten.clear()
        while self.leases:
            self.leases.pop().close()
        assert self.pool.checkedout() == 0
        every = [self.pool.connect() for _ in range(3)]
        with pytest.raises(PoolTimeout), deadline(0.0):
            self.pool.connect()
        for each in every:
            each.close()
        self.pool.dispose()


def forgetting(scene: Scene, left: list[int]) -> Callable[..., Any]:
    """Drop the forgotten lease so: nothing else holds it, as if the collector came."""
    return striking(scene.forgotten.clear, left)


# Half a minute on a quiet machine: each of its thousand steps begins and ends threads.
@pytest.mark.timeout(600)
@pytest.mark.slow
@pytest.mark.parametrize("background", [False, True], ids=["inline", "background"])
@pytest.mark.parametrize("lifo", [False, True], ids=["fifo", "lifo"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_collector_may_return_a_connection_anywhere(
    maker: Maker, operation: str, lifo: bool, background: bool
) -> None:
    """At every opcode of an operation, and all the books are right afterwards."""
    # Python 3.12 tells of instructions only after `settrace` if a frame asked before it.
    sys._getframe().f_trace_opcodes = True
    for step in itertools.count():
        scene = Scene(maker, operation, lifo=lifo, background=background)
        left = [step]
        trace = forgetting(scene, left)
        sys.settrace(trace)
        try:
            scene.run()
        finally:
            sys.settrace(None)
        scene.check_the_books()
        maker.forget()
        if left[0] >= 0:
            assert step > 50, "nothing was interrupted"
            return


def test_a_return_inside_of_the_lock_waits_for_its_end(maker: Maker) -> None:
    """And the first who waits has it then."""
    pool = ManagedPool(maker, 2, 0)
    lease = pool.connect()
    core = pool._core
    with core.door, core.lock:
        del lease
        assert core.line.leased == 1
    assert core.line.leased == 0
    pool.dispose()


def test_a_return_waits_until_all_of_the_lock_is_left(maker: Maker) -> None:
    """It is reentrant: whoever leaves an inner part is in the middle of something still."""
    pool = ManagedPool(maker, 2, 0)
    lease = pool.connect()
    core = pool._core
    with core.door, core.lock:
        del lease
        with core.door, core.lock:
            pass
        assert core.line.leased == 1
    assert core.line.leased == 0
    pool.dispose()


def test_the_lock_is_always_taken_through_the_door() -> None:
    """What is put off in there would wait for the next one who does otherwise."""
    blocks, written_out = [], set()
    for path in Path(CODE).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.With):
                taken = [ast.unparse(each.context_expr) for each in node.items]
                blocks.append((path.name, node.lineno, taken))
            elif isinstance(node, ast.Try) and isinstance(node.body[0], ast.With):
                door = ast.unparse(node.body[0].items[0].context_expr).replace("lock", "door")
                at_the_end = [ast.unparse(each) for each in node.finalbody]
                # What `Door.__exit__` does.
                if len(node.body) == 1 and at_the_end == [f"if {door}.late:\n    {door}.let_in()"]:
                    written_out.add((path.name, node.body[0].lineno))
    # A name without a dot is a lock of a function's own.
    taking = [each for each in blocks if each[2][-1].endswith((".lock", "._lock"))]
    assert len(taking) > 30
    for name, line, taken in taking:
        doors = [] if (name, line) in written_out else [taken[-1].replace("lock", "door")]
        assert taken == [*doors, taken[-1]], f"{name}:{line}"
    assert len(written_out) < 5, "where it was measured only"


def test_what_is_put_off_is_no_lease_that_nobody_received(maker: Maker) -> None:
    """Its holder's thread may be killed just then: it comes back once, not twice."""
    pool = ManagedPool(maker, 2, 0)
    lease = pool.connect()
    core = pool._core
    with core.lock:
        del lease
    pool._reclaim_from_killed()
    assert (core.line.leased, len(core.line.idle), pool.snapshot().returns) == (0, 1, 1)
    pool.connect().close()
    assert len(maker.made) == 1
    pool.dispose()


@pytest.mark.slow
@pytest.mark.parametrize("background", [False, True], ids=["inline", "background"])
def test_what_the_collector_returns_meanwhile_was_received(maker: Maker, background: bool) -> None:
    """The same thread is killed in another checkout: nothing is returned twice."""
    sys._getframe().f_trace_opcodes = True
    for step in itertools.count():
        scene = Scene(maker, "return", lifo=False, background=background)
        left = [step]
        trace = forgetting(scene, left)
        sys.settrace(trace)
        try:
            scene.pool._reclaim_from_killed()
        finally:
            sys.settrace(None)
        scene.forgotten.clear()
        assert scene.pool.snapshot().returns == 1, step
        assert not any(each.closed for each in maker.made), step
        scene.check_the_books()
        maker.forget()
        if left[0] >= 0:
            assert step > 50, "nothing was interrupted"
            return


def test_any_number_may_wait_at_the_door() -> None:
    """A collector may find hundreds at once: the last one is let in as the first one was."""
    pool = ManagedPool(Plain, 0, -1)
    leases = [pool.connect() for _ in range(600)]
    core = pool._core
    with core.door, core.lock:
        leases.clear()
    assert (core.line.leased, len(core.line.idle)) == (0, 600)
    pool.dispose()


def test_a_late_return_that_fails_is_not_the_fault_of_whoever_leaves_the_lock(
    maker: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told in the log, and the others are let in."""
    pool = ManagedPool(maker, 1, 2)
    leases = [pool.connect() for _ in range(3)]
    # Two of the three are surplus.
    event.listen(pool, "close", lambda *_: 1 / 0)
    core = pool._core
    with core.door, core.lock:
        leases.clear()
    assert (core.line.leased, len(core.line.idle), core.line.total) == (0, 1, 1)
    told = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert [each.name for each in told] == ["pyramid_dbpool.pool.shared"] * 2


def test_an_interrupt_at_the_door_keeps_nobody_out(maker: Maker) -> None:
    """Who has not been let in yet is let in by the next one who leaves the lock."""
    pool = ManagedPool(maker, 3, 0)
    leases = [pool.connect() for _ in range(3)]
    core, let_in = pool._core, pool._core.door._let_in

    def interrupted(record: Any) -> None:
        core.door._let_in = let_in
        let_in(record)
        raise KeyboardInterrupt

    core.door._let_in = interrupted
    with pytest.raises(KeyboardInterrupt), core.door, core.lock:
        leases.clear()
    assert core.line.leased == 2
    assert pool.snapshot().leased == 2
    assert core.line.leased == 0
    pool.dispose()


class Plain:
    """A connection without a socket."""

    def rollback(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


HUB = """
import gevent.monkey; gevent.monkey.patch_all()
import gevent
from pyramid_dbpool import ManagedPool
from tests.support.makers import Connection

pool = ManagedPool(Connection, 1, 0, timeout=1.0)
core, forgotten = pool._core, [pool.connect()]

def start_something():
    with core.door, core.lock:
        gevent.sleep(0.01)

starting = gevent.spawn(start_something)
gevent.sleep(0)
gevent.get_hub().loop.run_callback(forgotten.clear)
starting.join()
pool.connect().close()
print(pool.status())
"""


def test_a_return_in_gevents_hub_waits_for_the_end_too() -> None:
    """The hub can wait for nobody, and a greenlet has the lock while the timer's starts."""
    pytest.importorskip("gevent")
    done = subprocess.run(
        [sys.executable, "-c", HUB], capture_output=True, text=True, timeout=60, check=False
    )
    assert "Connections in pool: 1 " in done.stdout, done.stderr
    (said,) = done.stderr.splitlines()
    assert said.startswith("the pool: thread 'MainThread' has dropped its connection")
