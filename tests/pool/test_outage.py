"""What is known of an outage: when the prober tries again, and who need not wait."""

import pytest

from pyramid_dbpool.drivers.connect_failures import ConnectFailure
from pyramid_dbpool.pool.outage import LAST_PAUSE, LONGEST_PROBE, SLOW_PAUSE, Trouble

BEGAN = 1000.0


@pytest.fixture
def trouble() -> Trouble:
    """Give an outage that began a moment ago."""
    return Trouble(ConnectFailure.UNREACHABLE, BEGAN, OSError("away"))


def fail(trouble: Trouble, now: float, *, asked: bool = True) -> float:
    """Let an attempt fail; return the pause until the next one."""
    trouble.failed(ConnectFailure.UNREACHABLE, OSError("away"), now, asked=asked)
    return trouble.retry_at - now


def test_the_pauses_grow_up_to_a_longest_one(trouble: Trouble) -> None:
    """However long the outage lasts."""
    pauses = [fail(trouble, BEGAN + 100.0 * number) for number in range(2000)]
    assert pauses[0] <= 0.1 and LAST_PAUSE / 2 <= pauses[-1] <= LAST_PAUSE


def test_many_processes_do_not_knock_as_one(trouble: Trouble) -> None:
    """The pauses are shortened at random."""
    pauses = {fail(trouble, BEGAN + 100.0 * number) for number in range(50)}
    assert len(pauses) > 40


def test_while_nobody_asks_the_server_is_left_alone(trouble: Trouble) -> None:
    """Until somebody does: then it is asked at once."""
    assert fail(trouble, BEGAN, asked=False) >= SLOW_PAUSE / 2
    trouble.asked(BEGAN + 1)
    assert trouble.retry_at == BEGAN + 1


def test_a_herd_of_callers_does_not_quicken_the_prober(trouble: Trouble) -> None:
    """Its pace is quick enough while it is not the slow one."""
    fail(trouble, BEGAN)
    retry_at = trouble.retry_at
    trouble.asked(BEGAN)
    assert trouble.retry_at == retry_at


def test_what_is_known_stands_while_a_probe_is_under_way(trouble: Trouble) -> None:
    """Where packets vanish it takes longer than the pause; but one that hangs ends some time."""
    fail(trouble, BEGAN)
    trouble.probing(BEGAN + 1)
    assert trouble.refuses(BEGAN + LONGEST_PROBE, 10.0)
    assert not trouble.refuses(BEGAN + 1 + LONGEST_PROBE, 10.0)


def test_a_probe_does_not_revive_what_is_out_of_date(trouble: Trouble) -> None:
    """The first caller after a quiet time waits for what it finds."""
    fail(trouble, BEGAN)
    trouble.probing(BEGAN + 60)
    assert not trouble.refuses(BEGAN + 61, 10.0)


def test_nobody_is_refused_before_the_grace_is_over(trouble: Trouble) -> None:
    """And nobody at all without one, or because the server is full."""
    fail(trouble, BEGAN + 9)
    assert not trouble.refuses(BEGAN + 9.9, 10.0)
    assert trouble.refuses(BEGAN + 10.0, 10.0)
    assert not trouble.refuses(BEGAN + 10.0, None)
    trouble.kind = ConnectFailure.SATURATED
    assert not trouble.refuses(BEGAN + 10.0, 10.0)
