"""The verdict: is anything wrong, what, since when, who."""

from typing import Any

import pytest

from pyramid_dbpool.status.overview import Overview
from tests.support.reports import NOW, event, holder, pool, report, waiter

BUSY = "GET route 'slow'"


def verdict(*reports: Any, silent: dict[int, str] | None = None) -> tuple[str, str, str]:
    """Return the first finding: its level, its sentence and more."""
    first = Overview(reports, silent).findings()[0]
    return first.level, first.text, first.more


def exhausted(pid: int = 4711, **changed: Any) -> Any:
    """Report a process whose pool of ten is in use, most of it by one route."""
    holders = [holder(BUSY, 4.0)] * 8 + [holder("GET route 'notes'")] * 2
    waiters = [waiter(seconds=3.21), *[waiter(seconds=0.5)] * 11]
    parts: dict[str, Any] = {
        "size": 5,
        "capacity": 10,
        "idle": 0,
        "holders": holders,
        "waiters": waiters,
    }
    return report(pid, [pool(**parts | changed)])


def test_all_is_well() -> None:
    """It says how much there is to see."""
    busy = pool(holders=[holder()] * 3)
    assert verdict(report(1), report(2, [busy])) == (
        "good",
        "All is well",
        "2 processes, 3 of 30 connections in use, nobody waits.",
    )


def test_an_exhausted_pool_names_who_holds_it() -> None:
    """And how many wait, and for how long."""
    level, text, more = verdict(exhausted())
    assert level == "bad"
    assert text == (
        "Pool default is exhausted: 12 wait, the longest for 3.2 s; GET route 'slow' holds 8 of 10"
    )
    assert more == ""


def test_a_leak_is_named_before_what_is_merely_busy() -> None:
    """As in the errors of the pool: many short holds hide none that has no end."""
    holders = [holder("GET route 'keep' (ended)", 3600.0), *[holder(BUSY, 0.5)] * 9]
    text = verdict(exhausted(holders=holders))[1]
    assert text.endswith(f"GET route 'keep' (ended) holds 1 of 10, {BUSY} 9")


def test_an_exhausted_pool_names_each_who_holds_much_of_it() -> None:
    """Of two that wait for each other neither alone is to blame."""
    holders = [holder("GET route 'order'")] * 6 + [holder("GET route 'invoice'")] * 3 + [holder()]
    text = verdict(exhausted(holders=holders))[1]
    assert text.endswith("GET route 'order' holds 6 of 10, GET route 'invoice' 3")


def test_only_processes_that_are_exhausted_count() -> None:
    """The connections of another process help nobody who waits in this one."""
    level, text, more = verdict(exhausted(), report(2, [pool(holders=[holder("GET /x")])]))
    assert (level, more) == ("bad", "In 1 of 2 processes.")
    assert "8 of 10" in text


def test_callers_that_wait_for_each_other_are_told() -> None:
    """Nothing but a timeout ends that."""
    waiters = [waiter(holds=True), waiter(holds=True), waiter()]
    _level, _text, more = verdict(exhausted(waiters=waiters))
    assert more == (
        "2 of those who wait hold a connection already: they may be waiting for each other."
    )


def test_a_database_that_is_away_comes_first() -> None:
    """With since when, and the cause as the log has it; the line before it is no exhaustion."""
    away = exhausted(outage_seconds=12.4)
    away["events"] = [
        event(1, "outage", "pool 'default' cannot connect: connection refused."),
        event(2, "held", "something else"),
    ]
    found = Overview([away]).findings()
    assert [each.level for each in found] == ["bad"]
    assert found[0].text == "The database of pool default has been away for 12 s"
    assert found[0].more == (
        "Pool 'default' cannot connect: connection refused. 12 wait, the longest for 3.2 s."
    )


def test_a_database_without_writes_is_told() -> None:
    """After a failover it answers all else."""
    level, text, _more = verdict(report(1, [pool(write_outage_seconds=8.0)]))
    assert (level, text) == ("bad", "The database of pool default has taken no writes for 8.0 s")


def test_a_pause_names_who_asked() -> None:
    """Whoever waits then waits on purpose."""
    paused = exhausted(paused_seconds=30.0)
    paused["events"] = [event(1, "pause", "...", fields={"by": "alice on the live page"})]
    level, text, more = verdict(paused)
    assert (level, text) == (
        "paused",
        "Pool default has been paused for 30 s by alice on the live page",
    )
    assert more == "12 wait, the longest for 3.2 s. 10 connections are still in use."


def test_a_line_before_a_pool_with_room_is_no_exhaustion() -> None:
    """Connections are being opened."""
    level, text, more = verdict(report(1, [pool(waiters=[waiter(seconds=0.1)], opening=1)]))
    assert (level, text) == ("warn", "Pool default has a line: 1 waits, the longest for 100 ms")
    assert more == "1 connection is being opened."


def test_who_has_held_a_connection_for_long_is_named_with_the_place() -> None:
    """The line in the app's code where it is now."""
    long = [holder(BUSY, 75.0), holder(BUSY, 61.0), holder(seconds=59.0)]
    level, text, more = verdict(report(9, [pool(holders=long)]))
    assert (level, text) == (
        "warn",
        "GET route 'slow' has held a connection of pool default for 75 s",
    )
    assert more == "It is in render (views.py:41), process 9. 1 other for more than a minute."


@pytest.mark.parametrize(
    ("taken", "said"),
    [
        (("keep (views.py:9)", "view (views.py:3)"), "It was taken in keep (views.py:9)"),
        ((), "dbpool.trace_checkouts = true"),
    ],
)
def test_a_connection_that_was_left_behind_is_told(taken: tuple[str, ...], said: str) -> None:
    """Its holder has ended: nobody else is to be blamed for it, and nobody gives it back."""
    left = holder("GET route 'keep' (ended)", 5.0, (), over=True, taken=taken)
    level, text, more = verdict(report(9, [pool(holders=[left, left])]))
    assert (level, text) == (
        "warn",
        "GET route 'keep' (ended) has not given back a connection of pool default, held for 5.0 s",
    )
    assert "1 other" in more and said in more


def test_one_that_is_just_coming_back_is_not_left_behind() -> None:
    """As while the end of an answer is sent."""
    late = holder("GET route 'list' (ended)", 1.0, (), over=True)
    assert verdict(report(9, [pool(holders=[late])]))[0] == "good"


def test_a_process_that_does_not_answer_is_told() -> None:
    """It may be stuck."""
    level, text, more = verdict(report(1), silent={2: "does not answer within 0.5 s"})
    assert (level, text) == ("warn", "Process 2 gives no answer")
    assert more == "It does not answer within 0.5 s."


def test_an_engine_for_each_request_is_told() -> None:
    """The oldest mistake: each has a pool of its own."""
    level, text, _more = verdict(report(3, [pool(number=n) for n in range(7)]))
    assert (level, text) == ("warn", "Process 3 has 7 engines for pool default")


def test_pools_of_other_names_and_databases_are_no_second_engines() -> None:
    """Two pools of one process."""
    two = [pool(), pool("replica"), pool(database="sqlite:///other.db")]
    assert verdict(report(3, two))[0] == "good"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("refused", "Pool default refused a caller 10 s ago, and 1 more in the last minute"),
        (
            "leak",
            "Pool default lost track of a connection 10 s ago, and 1 more in the last minute",
        ),
    ],
)
def test_what_somebody_has_just_felt_is_told(kind: str, said: str) -> None:
    """It may be over already."""
    events = [event(1, kind, at=NOW - 61), event(2, kind, at=NOW - 20), event(3, kind, "why")]
    assert verdict(report(1, events=events)) == ("warn", said, "why")


def test_those_that_were_left_out_of_the_log_are_counted() -> None:
    """One line stands for all within ten seconds."""
    events = [event(1, "refused", at=NOW - 20), event(2, "refused", fields={"left_out": 30})]
    said = "Pool default refused a caller 10 s ago, and 31 more in the last minute"
    assert verdict(report(1, events=events))[1] == said


def test_a_refusal_before_the_end_of_an_outage_says_that_this_is_over() -> None:
    """Its own text has that the server is away, which is not so any more."""
    events = [event(1, "refused", "is away", at=NOW - 9), event(2, "back", "is back", at=NOW - 5)]
    assert verdict(report(1, events=events))[2] == "Since then: is back"
    events = [event(1, "back", "is back", at=NOW - 9), event(2, "refused", "is full", at=NOW - 5)]
    assert verdict(report(1, events=events))[2] == "is full"


def test_what_two_pools_have_refused_is_told_of_each() -> None:
    """One of them is not said to have refused what the other one has."""
    told = report(1, events=[event(1, "refused"), event(2, "refused", pool="replica")])
    assert [each.text for each in Overview([told]).findings()] == [
        "Pool replica refused a caller 10 s ago",
        "Pool default refused a caller 10 s ago",
    ]


def test_the_worst_comes_first_and_nothing_is_left_out() -> None:
    """All that is wrong is on the page."""
    away = pool("replica", outage_seconds=1.0)
    paused = pool(paused_seconds=1.0)
    found = Overview([report(1, [paused, away])], {2: "is stuck"}).findings()
    assert [each.level for each in found] == ["bad", "paused", "warn"]


def test_a_pool_of_another_class_says_what_it_can() -> None:
    """It has no numbers but those that SQLAlchemy's has."""
    other = {"name": "default", "number": 0, "database": "sqlite://", "managed": False}
    assert verdict(report(1, [other | {"leased": 2, "write_outage_seconds": None}])) == (
        "good",
        "All is well",
        "1 process, 2 connections in use, nobody waits.",
    )


def test_pools_of_two_apps_are_told_apart() -> None:
    """They share the host, and the name."""
    both = Overview([report(1), report(2, [pool(outage_seconds=9.0)], app="streamer")])
    assert [each.title for each in both.pools] == ["default of notes", "default of streamer"]
    assert both.findings()[0].text == (
        "The database of pool default of streamer has been away for 9.0 s"
    )


def test_no_process_and_no_pool() -> None:
    """There is nothing to see yet."""
    assert verdict(report(1) | {"pools": []})[2] == "1 process, and no pool yet."
    assert verdict()[2] == "0 processes, and no pool yet."
