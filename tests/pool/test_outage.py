"""What is known of an outage: when the prober tries again, and who need not wait."""

import pytest

from pyramid_dbpool.drivers.connect_failures import ConnectFailure
from pyramid_dbpool.pool.outage import LONGEST_PAUSE, LONGEST_PROBE, Outage

BEGAN = 1000.0


@pytest.fixture
def outage() -> Outage:
    """Give an outage that began a moment ago."""
    return Outage(ConnectFailure.UNREACHABLE, BEGAN, OSError("away"))


def fail(outage: Outage, now: float) -> float:
    """Let an attempt fail; return the pause until the next one."""
    outage.failed(ConnectFailure.UNREACHABLE, OSError("away"), now)
    return outage.retry_at - now


def test_the_pauses_grow_up_to_a_longest_one(outage: Outage) -> None:
    """However long the outage lasts."""
    pauses = [fail(outage, BEGAN + 100.0 * number) for number in range(2000)]
    assert pauses[0] <= 0.1 and LONGEST_PAUSE / 2 <= pauses[-1] <= LONGEST_PAUSE


def test_many_processes_do_not_knock_as_one(outage: Outage) -> None:
    """The pauses are shortened at random."""
    pauses = {fail(outage, BEGAN + 100.0 * number) for number in range(50)}
    assert len(pauses) > 40


def test_what_is_known_stands_while_a_probe_is_under_way(outage: Outage) -> None:
    """Where packets vanish it takes longer than the pause; but one that hangs ends some time."""
    fail(outage, BEGAN)
    outage.probing(BEGAN + 1)
    assert outage.refuses(BEGAN + LONGEST_PROBE, 10.0)
    assert not outage.refuses(BEGAN + 1 + LONGEST_PROBE, 10.0)


def test_a_probe_does_not_revive_what_is_out_of_date(outage: Outage) -> None:
    """The first caller after a quiet time waits for what it finds."""
    fail(outage, BEGAN)
    outage.probing(BEGAN + 60)
    assert not outage.refuses(BEGAN + 61, 10.0)


def test_nobody_is_refused_before_the_grace_is_over(outage: Outage) -> None:
    """And nobody at all without one, or because the server is full."""
    fail(outage, BEGAN + 9)
    assert not outage.refuses(BEGAN + 9.9, 10.0)
    assert outage.refuses(BEGAN + 10.0, 10.0)
    assert not outage.refuses(BEGAN + 10.0, None)
    outage.kind = ConnectFailure.SATURATED
    assert not outage.refuses(BEGAN + 10.0, 10.0)


def test_an_answer_of_an_open_connection_stands_for_the_grace(outage: Outage) -> None:
    """And for two seconds at least, or with no grace it would count for nobody."""
    fail(outage, BEGAN + 60)
    assert outage.refuses(BEGAN + 60, 10.0, has_open=True)
    outage.answered_at = BEGAN + 59
    assert not outage.refuses(BEGAN + 60, 10.0, has_open=True)
    assert not outage.refuses(BEGAN + 60, 0.0, has_open=True)
    fail(outage, BEGAN + 70)
    assert outage.refuses(BEGAN + 70, 10.0, has_open=True)


def test_open_connections_are_asked_once_a_second(outage: Outage) -> None:
    """For as long as openings fail because nobody is there."""
    asked = [outage.asks(BEGAN + number / 10) for number in range(30)]
    assert asked.count(True) == 3
    outage.kind = ConnectFailure.SATURATED
    assert not outage.asks(BEGAN + 60)


@pytest.mark.parametrize("kind", [ConnectFailure.CONFIGURATION, ConnectFailure.SATURATED])
def test_a_server_that_let_nobody_in_until_now_is_waited_for(
    outage: Outage, kind: ConnectFailure
) -> None:
    """The grace counts from when it last said anything."""
    outage.failed(kind, OSError("wrong password, or too many connections"), BEGAN + 3600)
    fail(outage, BEGAN + 3605)
    assert not outage.refuses(BEGAN + 3605, 10.0)
    fail(outage, BEGAN + 3610)
    assert outage.refuses(BEGAN + 3610, 10.0)
