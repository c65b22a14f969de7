"""What counts and durations are called, for people."""

import pytest

from pyramid_dbpool.telemetry.wording import counted, duration


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 ms"),
        (0.00042, "0.42 ms"),
        (0.00996, "10 ms"),
        (0.99949, "999 ms"),
        (0.9996, "1.0 s"),
        (119.6, "2 min"),
        (5970, "1.7 h"),
    ],
)
def test_a_duration_is_short(seconds: float, said: str) -> None:
    """At the borders between the units."""
    assert duration(seconds) == said


def test_one_is_no_plural() -> None:
    """Nor is none one."""
    assert [counted(number, "pool") for number in range(3)] == ["0 pools", "1 pool", "2 pools"]
    assert counted(2, "process", "processes") == "2 processes"
