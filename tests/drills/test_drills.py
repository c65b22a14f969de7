"""The drills in a short form; their figures are taken with `make drill`.

What is counted has to be right. What is timed depends on who else is at work, so it may be some
times worse here than what `make drill` asks for.
"""

import pytest

from drills import disk, failover, flood, mariadb, metrics, openings, outage, restart
from drills.report import Figure, as_text, missed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LENIENCE = 4


def check(title: str, figures: list[Figure]) -> None:
    """Show the figures; none may fall short."""
    print(as_text(title, figures))
    assert not missed(figures, LENIENCE)


def test_a_restart_of_the_database_is_noticed_by_nobody() -> None:
    """Every request is answered with 2xx, and every note reaches the sockets."""
    check("restart", restart.drill("main", 6, patience=20))


def test_a_flood_is_served_or_told_to_come_back() -> None:
    """Every answer is 2xx, or 503 with Retry-After."""
    check("flood", flood.drill(1.5))


def test_a_long_outage_is_refused_at_once() -> None:
    """With 503; one attempt to connect at a time; afterwards nothing fails."""
    # Whoever waits instead of being refused waits for five seconds.
    check("outage", outage.drill(7, grace=2, refusal=0.25))


def test_a_failover_is_noticed_by_nobody() -> None:
    """Though the old primary is back as a standby, or fenced with its connections alive."""
    # A busy machine takes long to make a standby of the old one.
    check("failover", failover.drill(10, patience=60, grace=60))


@pytest.mark.programs
@pytest.mark.usefixtures("installed_mariadb")
def test_a_restart_and_a_failover_of_mariadb_are_noticed_by_nobody() -> None:
    """No write or message is lost, or done twice."""
    check("restart", mariadb.restart(6, patience=20))
    check("failover", mariadb.failover(8, patience=20))


def test_openings_that_fail_beside_open_connections_are_noticed_by_nobody() -> None:
    """While a password is rotated, and while the server's name is unknown."""
    check("password", openings.password(6, away=3, patience=20))
    check("resolver", openings.resolver(6, away=3, patience=20))


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_loses_nothing() -> None:
    """Reads go on, a client who writes is told when to come again, and messages wait."""
    check("disk", disk.drill(6, away=3))


@pytest.mark.programs
@pytest.mark.usefixtures("installed_prometheus")
@pytest.mark.timeout(600)
def test_each_alert_is_raised_in_its_drill_and_in_no_other() -> None:
    """By a Prometheus that scrapes the app, and has an answer to what the dashboard asks."""
    check("metrics", metrics.drill(30))


def test_rules_are_made_faster() -> None:
    """All that is time in them, and nothing else."""
    rules = "expr: increase(x_total[5m]) > 0 or y_seconds > 300 or z > 8\nfor: 1m\n"
    faster = "expr: increase(x_total[10s]) > 0 or y_seconds > 10 or z > 8\nfor: 2s\n"
    assert metrics.hurried(rules, 30) == faster
