"""A server that is away: who waits, who is told what, and who asks again."""

import time

import pytest

from .adapters.base import Feature, Lease, PoolUnderTest
from .lab import Lab, Load, Task, pause, release_all, serve, until
from .stub import Failure


def cause(error: BaseException | None) -> str:
    """Return all that an error says, its causes included."""
    words = []
    while error is not None:
        words.append(f"{error} {getattr(error, 'orig', '')}")
        error = error.__cause__
    return " ".join(words)


def test_wrong_password_fails_every_caller_at_once(lab: Lab) -> None:
    """Nobody waits for a password to become right: all learn the driver's error."""
    lab.needs(Feature.LINE)
    pool = lab.pool(size=1)
    lab.server.down = Failure.CONFIGURATION
    tasks = [lab.run(pool.checkout) for _ in range(5)]
    for task in tasks:
        assert "password authentication" in cause(task.wait().error)


def test_each_caller_raises_an_exception_of_its_own(lab: Lab) -> None:
    """Callers who fail together do not share one exception object."""
    lab.needs(Feature.LINE)
    pool = lab.pool(size=4, timeout=1.0)
    lab.server.down = Failure.CONFIGURATION
    with lab.server.gate() as gate:
        tasks = [lab.run(pool.checkout) for _ in range(4)]
        gate.wait_for_arrivals(1)
        gate.open()
        errors = [task.wait().error for task in tasks]
    assert None not in errors
    assert len({id(error) for error in errors}) == 4


def callers_in_outage(lab: Lab, timeout: float) -> list[Task[Lease]]:
    """Let twenty callers on 2 + 3 find the server away, and wait for their ends."""
    pool = lab.pool(size=2, overflow=3, timeout=timeout)
    lab.server.down = Failure.UNREACHABLE
    lab.server.refusal_delay = 0.05
    with lab.server.gate() as gate:
        tasks = lab.crowd(20, pool.checkout)
        until(lambda: pool.waiting() + gate.arrived >= 20, "all callers have come")
        gate.open()
    return [task.wait() for task in tasks]


@pytest.mark.slow
def test_outage_is_named_to_every_caller(lab: Lab) -> None:
    """All of twenty callers learn that the server refuses; none hears of a full pool."""
    lab.needs(Feature.LINE)
    for task in callers_in_outage(lab, timeout=1.0):
        said = cause(task.error)
        assert "refused" in said
        assert "limit" not in said
        assert task.seconds < 2.5


@pytest.mark.slow
def test_outage_is_probed_by_one(lab: Lab) -> None:
    """Twenty callers who ask again and again do not all knock at the server's door."""
    lab.needs(Feature.LINE)
    pool = lab.pool(size=2, overflow=3, timeout=1.0)
    lab.server.down = Failure.UNREACHABLE
    load = Load(lab, pool, threads=20, hold=0.0)
    pause(1.5)
    load.stop()
    assert lab.server.attempts <= 15


def test_live_connections_serve_through_an_outage(lab: Lab) -> None:
    """While new connects fail, connections that live go on from hand to hand."""
    pass_on(lab, Failure.UNREACHABLE)


def test_refused_login_fails_nobody_while_connections_live(lab: Lab) -> None:
    """While a password is changed, connections that live go on from hand to hand."""
    pass_on(lab, Failure.CONFIGURATION)


def pass_on(lab: Lab, failure: Failure) -> None:
    """Serve waiters with the one connection that lives, while connects fail."""
    lab.needs(Feature.LINE)
    pool = lab.pool(size=2)
    lease = pool.checkout()
    lab.server.down = failure
    for _ in range(5):
        before = lab.server.attempts
        task = lab.run(pool.checkout)
        until(
            lambda task=task, before=before: (  # type: ignore[misc]
                task.over or pool.waiting() > 0 or lab.server.attempts > before
            ),
            "the caller waits",
        )
        lease.release()
        lease = task.result()
    lease.release()


@pytest.mark.slow
def test_callers_are_served_soon_after_the_outage(lab: Lab) -> None:
    """After 3.5 s away, the first caller is served within 2 s of the server's return."""
    lab.needs(Feature.LINE)
    pool = lab.pool(size=2, timeout=20.0)
    lab.server.down = Failure.UNREACHABLE
    tasks = [lab.run(lambda: serve(pool)) for _ in range(5)]
    pause(3.5)
    lab.server.down = None
    back = time.monotonic()
    for task in tasks:
        task.result(10.0)
    assert time.monotonic() - back < 2.0


@pytest.mark.slow
def test_long_outage_refuses_at_once(lab: Lab) -> None:
    """Once the outage has outlasted its grace, callers do not wait for nothing."""
    pool = lab.pool(size=2, timeout=20.0, outage_grace=0.3)
    lab.server.down = Failure.UNREACHABLE
    lab.run(pool.checkout).wait()
    pause(0.3)
    tasks = [lab.run(pool.checkout).wait() for _ in range(5)]
    assert all("refused" in cause(task.error) for task in tasks)
    # Whoever waited for the next probe would do so each time; a busy machine is slow now and then.
    assert sorted(task.seconds for task in tasks)[2] < 0.3
    lab.server.down = None
    until(lambda: served(lab, pool), "callers are served again")


def served(lab: Lab, pool: PoolUnderTest) -> bool:
    """Tell whether a caller is served now."""
    return lab.run(lambda: serve(pool)).wait().error is None


@pytest.mark.slow
def test_minimum_is_filled_after_an_outage(lab: Lab) -> None:
    """When the server is back, `min_idle` connections open without being asked for."""
    pool = lab.pool(size=3, min_idle=2, liveness=True, timeout=5.0)
    release_all([pool.checkout() for _ in range(3)])
    lab.server.down = Failure.UNREACHABLE
    lab.server.kill_all()
    task = lab.run(lambda: serve(pool))
    until(lambda: lab.server.counts["failure"] > 0, "the outage is noticed")
    lab.server.down = None
    task.wait()
    until(lambda: lab.server.open >= 2, "two connections are open")


def test_driver_error_is_what_a_caller_sees(lab: Lab) -> None:
    """The error of a failed connect is, or carries, the driver's own."""
    pool = lab.pool(size=1, liveness=True)
    lab.warm(pool, 1)
    lab.server.kill_all()
    lab.server.down = Failure.CONFIGURATION
    assert "password authentication" in cause(lab.run(pool.checkout).wait().error)
