"""A bounded line."""

import pytest

from .lab import Lab


def test_one_more_than_the_line_holds_is_refused_at_once(lab: Lab) -> None:
    """With two waiting and a bound of two, the next caller does not wait."""
    pool = lab.pool(size=1, max_waiting=2)
    lease = pool.checkout()
    line = [lab.waiter(pool) for _ in range(2)]
    refused = lab.run(pool.checkout).wait()
    assert refused.error is not None
    lease.release()
    for task in line:
        task.result().release()


@pytest.mark.slow
def test_line_counts_only_those_who_really_wait(lab: Lab) -> None:
    """Callers who gave up make room in the line."""
    pool = lab.pool(size=1, max_waiting=2, timeout=0.2)
    lease = pool.checkout()
    for _ in range(3):
        tasks = [lab.waiter(pool) for _ in range(2)]
        for task in tasks:
            assert task.wait().seconds > 0.15, f"refused: {task.error}"
    lease.release()


def test_free_connections_need_no_line(lab: Lab) -> None:
    """The bound is on waiting: callers beyond it are served when there is something."""
    pool = lab.pool(size=5, max_waiting=1)
    lab.warm(pool, 5)
    for task in [lab.run(pool.checkout) for _ in range(5)]:
        task.result()
