"""What all processes have said, put together, and one frame of it."""

from typing import Any

import pytest

from pyramid_dbpool.cli.frames import EVENT_LINES, View, frame, plain_text
from pyramid_dbpool.cli.overview import SORTS, Overview, overview
from pyramid_dbpool.telemetry.host import Answer
from tests.support.reports import NOW, histogram, holder, pool, report, waiter


def seen(*reports: Any, before: Any = None, interval: float | None = None) -> Overview:
    """Return an overview of processes, of which one or none was seen before."""
    told = [Answer(each["pid"], each) for each in reports]
    return overview(told, {} if before is None else {before["pid"]: before}, NOW, interval)


def shown(what: Overview, columns: int, lines: int | None = None, **view: Any) -> list[str]:
    """Return the lines of a frame."""
    return plain_text(frame(what, View(columns, lines, **view))).split("\n")


def test_times_are_those_of_the_interval() -> None:
    """What was slow an hour ago is over; the first look has nothing but all since the start."""
    old = report(1, [pool(hold=histogram({0.005: 1000}), opened=3)])
    new = report(1, [pool(hold=histogram({0.005: 1000, 5.0: 10}), opened=3)])
    (row,) = seen(new).rows
    assert row.hold.p50 is not None and row.hold.p50 <= 0.005
    (row,) = seen(new, before=old, interval=1.0).rows
    assert row.hold.p50 is not None and 1.0 < row.hold.p50 <= 5.0
    assert (row.connect.p50, row.connect.p99) == (None, None)


def test_a_new_process_with_an_old_number_is_another_one() -> None:
    """Nothing of the one before is taken off."""
    old = report(1, [pool(refused={"timeout": 5})], started_at=NOW - 3600)
    new = report(1, [pool(refused={"timeout": 7})], started_at=NOW - 2)
    (row,) = seen(new, before=old, interval=1.0).rows
    assert (row.errors, row.new_errors) == (7, 0)
    (row,) = seen(new | {"started_at": NOW - 3600}, before=old, interval=1.0).rows
    assert (row.errors, row.new_errors) == (7, 2)


def test_what_takes_longer_than_can_be_said_is_said_so() -> None:
    """Above the highest bound nobody knows how long."""
    (row,) = seen(report(1, [pool(wait=histogram({20.0: 5}))])).rows
    assert row.wait.over
    assert ">10s" in shown(seen(report(1, [pool(wait=histogram({20.0: 5}))])), 80)[2]


def test_engines_for_one_database_are_one_row_with_a_mark() -> None:
    """The oldest mistake: each has a pool of its own, and the server sees the sum."""
    what = seen(report(1, [pool(number=n, idle=1, leased=2) for n in range(12)] + [pool("other")]))
    row = next(each for each in what.rows if each.pool == "default")
    assert (row.engines, row.idle, row.used, row.capacity) == (12, 12, 24, 180)
    assert [note.split(":")[0] for note in what.notes] == [
        "pid 1 has 12 engines for pool 'default' and one database"
    ]
    for columns in (80, 140):
        lines = shown(what, columns)
        assert "12!" in "".join(lines)
        assert not any("13!" in line for line in lines), "the total is no mistake"


def test_two_databases_under_one_name_are_two_rows() -> None:
    """As of two apps in one process; nothing is wrong with that."""
    what = seen(report(1, [pool(), pool(number=1, database="sqlite:///other.db")]))
    assert (len(what.rows), what.notes) == (2, [])


def test_a_pool_of_another_class_has_few_numbers() -> None:
    """It is shown with what it says."""
    theirs = {"name": "default", "number": 0, "database": "sqlite://", "managed": False}
    what = seen(report(1, [theirs | {"leased": 3, "write_outage_seconds": None}]))
    (row,) = what.rows
    assert (row.used, row.managed, row.wait.p50) == (3, False, None)
    assert "3" in shown(what, 80)[2].split()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"outage_seconds": 12.0}, "away 12s"),
        ({"paused_seconds": 3.0}, "paused 3.0s"),
        ({"write_outage_seconds": 0.5}, "read-only 500ms"),
        ({"opening": 2}, "opening 2"),
        ({"capacity": None, "size": 0}, "any"),
        ({"capacity": None}, "5+any"),
        ({"capacity": 5}, " 5 "),
    ],
)
def test_a_state_is_said_in_words(changed: dict[str, Any], says: str) -> None:
    """A colour alone would be nothing on a grey terminal."""
    assert says in shown(seen(report(1, [pool(**changed)])), 140)[2]


def test_rows_are_sorted_by_what_was_chosen() -> None:
    """What is away comes first, whatever waits elsewhere."""
    reports = [
        report(1, [pool(waiting=3, leased=1, holders=[holder(seconds=1.0)])]),
        report(2, [pool(waiting=1, leased=9, holders=[holder(seconds=2.0)])]),
        report(3, [pool(outage_seconds=1.0, holders=[holder(seconds=9.0)])]),
    ]
    found = {
        key: [row.pid for row in sorted(seen(*reports).rows, key=by)]
        for key, (_, by) in SORTS.items()
    }
    assert found == {"w": [3, 1, 2], "u": [2, 1, 3], "h": [3, 2, 1], "p": [1, 2, 3]}


def test_people_are_grouped_by_label_and_pool() -> None:
    """With the place of the one who is at it for the longest."""
    busy = pool(
        holders=[holder("slow", 9.0, ("sleep (a.py:1)",)), holder("slow", 1.0), holder("quick")],
        waiters=[waiter("slow", holds=True), waiter("slow")],
    )
    what = seen(report(1, [busy]), report(2, [pool("more", holders=[holder("slow", 2.0)])]))
    told = [(each.label, each.pool, each.count, each.seconds, each.where) for each in what.holders]
    assert told[0] == ("slow", "default", 2, 9.0, "now in sleep (a.py:1)")
    assert {each[:3] for each in told[1:]} == {("slow", "more", 1), ("quick", "default", 1)}
    assert [(each.count, each.holding) for each in what.waiters] == [(2, 1)]
    text = "\n".join(shown(what, 140))
    assert "slow   2 connections, longest 9.0s, now in sleep (a.py:1)" in text
    assert "2 callers, longest 500ms, 1 holds one already" in text


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 140])
@pytest.mark.parametrize("lines", [10, 24, 40])
def test_a_frame_fits_its_terminal(columns: int, lines: int) -> None:
    """With a silent process, a note, many rows, labels and events that are too long."""
    label = "message 'a task with a name that does not end'"
    busy = pool("a_pool_with_a_long_name", holders=[holder(label, 63.0)], waiters=[waiter(label)])
    reports = [report(7_000_000 + n, [busy, busy], app="an_app_of_a_long_name") for n in range(30)]
    told = [Answer(each["pid"], each) for each in reports]
    told.append(Answer(1, None, "does not answer within 0.5 s, and there is more to say of it"))
    what = overview(told, {}, NOW, 1.0)
    painted = frame(what, View(columns, lines), ["12:00:00 7 " + "word " * 200] * 3)
    text = plain_text(painted).split("\n")
    assert len(text) < lines
    assert max(map(len, text)) <= columns
    if lines > 20:
        assert any("more: up, down" in line for line in text)
        assert any(line.startswith("Total") or " Total" in line for line in text)


def test_rows_can_be_scrolled_to_the_last() -> None:
    """And no further."""
    what = seen(*[report(100 + n) for n in range(50)])
    for first, wanted in ((0, "100"), (10, "110"), (999, "149")):
        assert any(
            line.split()[0] == wanted for line in shown(what, 80, 24, sort="p", first=first)
        )


def test_eighty_columns_tell_what_matters() -> None:
    """Who, how full, who waits, for how long, errors, and what is wrong."""
    busy = pool(leased=15, capacity=15, waiting=7, holders=[holder(seconds=63.0)])
    lines = shown(seen(report(4711, [busy])), 80, 24)
    assert lines[2].split()[:8] == ["4711", "notes", "web", "default", "15/15", "2", "7", "63s"]


def test_a_long_event_is_cut_after_its_beginning() -> None:
    """What happened stands there; all of it is in `pdbpool events`."""
    painted = frame(seen(report(1)), View(60, 40), ["12:00:00 1 " + "word " * 99, "11:59:00 1 b"])
    text = plain_text(painted).split("\n")
    start = text.index("Events")
    assert text[start + EVENT_LINES].endswith("…")
    assert text[start + EVENT_LINES + 1].endswith("11:59:00 1 b")
