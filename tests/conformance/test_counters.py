"""What the pool says about itself."""

from .lab import Lab, release_all, until


def test_books_follow_the_connections(lab: Lab) -> None:
    """Idle and in use are counted right while connections come and go."""
    pool = lab.pool(size=3)
    lab.warm(pool, 3)
    leases = [pool.checkout() for _ in range(2)]
    counts = pool.counts()
    assert (counts.idle, counts.in_use) == (1, 2)
    leases.pop().invalidate()
    release_all(leases)
    until(lambda: pool.counts().in_use == 0, "nothing is in use")


def test_line_is_counted(lab: Lab) -> None:
    """The number of those who wait is right, and nought when all are served."""
    pool = lab.pool(size=1)
    lease = pool.checkout()
    tasks = [lab.waiter(pool) for _ in range(3)]
    assert pool.waiting() == 3
    lease.release()
    for task in tasks:
        task.result().release()
    assert pool.waiting() == 0
