"""One deadline for the whole wait."""

import pytest

from .adapters.base import Feature
from .lab import Lab, pause


@pytest.mark.slow
def test_wait_ends_at_the_time_out(lab: Lab) -> None:
    """A caller for whom nothing comes free is told so when its time is over."""
    pool = lab.pool(size=1, timeout=0.2)
    lease = pool.checkout()
    task = lab.waiter(pool).wait(2.0)
    assert task.error is not None
    assert 0.15 < task.seconds < 1.2
    lease.release()


@pytest.mark.slow
def test_slow_connect_counts_against_the_deadline(lab: Lab) -> None:
    """A connect that hangs does not hold its caller beyond the time-out."""
    lab.needs(Feature.LINE)
    pool = lab.pool(size=1, timeout=0.2)
    with lab.server.gate():
        task = lab.run(pool.checkout).wait(2.0)
        assert task.error is not None
        assert task.seconds < 1.2


@pytest.mark.slow
def test_reconnect_of_a_dead_connection_counts_against_the_deadline(lab: Lab) -> None:
    """Replacing a connection that was found dead is part of the same wait."""
    lab.needs(Feature.LINE)
    pool = lab.pool(size=1, timeout=0.2, liveness=True)
    lab.warm(pool, 1)
    lab.server.kill_all()
    with lab.server.gate():
        task = lab.run(pool.checkout).wait(2.0)
        assert task.error is not None
        assert task.seconds < 1.2


@pytest.mark.slow
def test_replacement_of_an_old_connection_counts_against_the_deadline(lab: Lab) -> None:
    """Replacing a connection that was too old is part of the same wait."""
    pool = lab.pool(size=1, timeout=0.3, max_lifetime=0.05)
    lab.warm(pool, 1)
    lease = pool.checkout()
    with lab.server.gate():
        pause(0.1)
        lease.release()
        task = lab.run(pool.checkout).wait(2.0)
        assert task.error is not None
        assert task.seconds < 1.3


@pytest.mark.slow
def test_caller_can_ask_for_less(lab: Lab) -> None:
    """A limit that the caller sets ends the wait before the pool's time-out."""
    pool = lab.pool(size=1)
    lease = pool.checkout()
    task = lab.waiter(pool, timeout=0.2).wait(2.0)
    assert task.error is not None
    assert task.seconds < 1.2
    lease.release()
