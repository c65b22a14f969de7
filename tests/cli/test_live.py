"""`pdbpool stacks`, `events` and `top` where it is piped: who has what, and what happened."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pyramid_dbpool.cli import live, top
from tests.cli.said import Run, one_line
from tests.support.answering import Answering
from tests.support.reports import event, holder, pool, report, waiter

OTHER = ("wait (slow.py:7)", "report (views.py:30)")


def fill(answering: Answering) -> None:
    """Have two processes answer: one whose pool is exhausted, and a calm one."""
    holders = [holder("GET route 'report'", 60.0 + i, OTHER, server_pid=900 + i) for i in range(7)]
    holders.append(holder("GET route 'notes'", 0.004))
    waiters = [waiter(seconds=2.0), waiter(seconds=1.0, holds=True)]
    busy = pool(holders=holders, waiters=waiters, idle=0, refused={"timeout": 3})
    answering.add(report(4711, [busy, pool("replica")]))
    answering.add(report(4712, role="worker", events=[event(1, text="held for 61 s")]))


def test_stacks_are_grouped_by_label_and_place(run: Run, answering: Answering) -> None:
    """The longest first, a stack once, and what is too much to name is counted."""
    fill(answering)
    said = run("stacks", "--run-dir", answering.folder)
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert lines[0] == "8 hold a connection:"
    start = lines.index("GET route 'report': 7, longest 66s")
    assert lines[start + 1] == (
        "     66s  pid 4711, pool default, thread 'waitress-0', server process 906"
    )
    assert lines[start + 6 : start + 9] == [
        "          and 2 more there",
        "            wait (slow.py:7)",
        "            report (views.py:30)",
    ]
    assert "2 wait for one:" in lines
    assert any(line.endswith("thread 'waitress-1', holds one already") for line in lines)


@pytest.mark.parametrize(
    ("taken", "said"),
    [
        (["keep (views.py:9)"], ["(has ended without giving it back; it was taken in)", "keep"]),
        ([], ["(has ended without giving it back; dbpool.trace_checkouts = true"]),
    ],
)
def test_stacks_of_one_who_has_ended_say_where_it_took_its_connection(
    run: Run, answering: Answering, taken: list[str], said: list[str]
) -> None:
    """And blame nobody who is at work in its thread by now."""
    left = holder("GET route 'keep' (ended)", 4.0, [], over=True, taken=taken)
    answering.add(report(4711, [pool(holders=[left])]))
    lines = [each.strip() for each in run("stacks", "--run-dir", answering.folder).out.split("\n")]
    start = lines.index("GET route 'keep' (ended): 1, longest 4.0s") + 2
    for line, words in zip(lines[start:], said, strict=False):
        assert line.startswith(words)
    top = run("top", "--once", "--run-dir", answering.folder).out
    assert "has ended without giving it back" in top


def test_stacks_of_one_process_or_pool_can_be_asked_for(run: Run, answering: Answering) -> None:
    """And say so where nobody has anything."""
    fill(answering)
    where = ("stacks", "--run-dir", answering.folder)
    for choice in (("--pid", "4712"), ("--pool", "replica")):
        said = run(*where, *choice)
        assert said.out == "Nobody holds a connection.\n\nNobody waits for one.\n"
    said = run(*where, "--pid", "4712,99")
    assert said.code == 1
    assert one_line(said).endswith("no process 99 answers here; there are 4711, 4712.")


def test_stacks_as_json_have_all_of_them(run: Run, answering: Answering) -> None:
    """With process and pool."""
    fill(answering)
    told = json.loads(run("stacks", "--format", "json", "--run-dir", answering.folder).out)
    assert len(told["holders"]) == 8
    assert told["holders"][0]["stack"] == list(OTHER)
    assert told["waiters"][0] == {"pid": 4711, "pool": "default"} | waiter(seconds=2.0)
    assert told["silent"] == {}


@pytest.mark.slow
def test_a_silent_process_is_named_with_what_to_do(run: Run, answering: Answering) -> None:
    """The others are shown all the same, and a script sees that something is wrong."""
    fill(answering)
    answering.silent(99)
    for command in ("stacks", "events"):
        said = run(command, "--run-dir", answering.folder, "--timeout", "3")
        assert said.code == 1
        line = one_line(said)
        assert line.startswith("pdbpool: pid 99 does not answer within 3 s")
        assert "`py-spy dump --pid 99`" in line
    said = run("top", "--run-dir", answering.folder, "--timeout", "3")
    assert said.code == 1
    assert said.out.splitlines()[0].split("  ")[2] == "2 processes, 1 silent"
    assert said.out.splitlines()[1].startswith("pid 99 does not answer")


def test_events_are_a_line_each_and_in_order(run: Run, answering: Answering) -> None:
    """Of all processes, whatever their order."""
    answering.add(report(2, events=[event(1, text="first"), event(2, text="third", at=3e9)]))
    answering.add(report(1, events=[event(7, text="second\n on two lines", at=2e9, pool="more")]))
    where = ("events", "--run-dir", answering.folder)
    said = run(*where)
    assert (said.code, said.err) == (0, "")
    assert [line.split(maxsplit=4)[2:] for line in said.out.splitlines()] == [
        ["2", "default", "first"],
        ["1", "more", "second on two lines"],
        ["2", "default", "third"],
    ]
    told = [json.loads(line) for line in run(*where, "--format", "json").out.splitlines()]
    assert [(each["pid"], each["number"]) for each in told] == [(2, 1), (1, 7), (2, 2)]
    assert "second" in run(*where, "--pool", "more").out
    assert "first" not in run(*where, "--pool", "more").out


def take_at_each_pause(monkeypatch: pytest.MonkeyPatch, steps: list[Callable[[], object]]) -> None:
    """Have one step done at each pause of whoever follows, and then Ctrl-C."""

    def pause(seconds: float) -> None:
        if not steps:
            raise KeyboardInterrupt
        steps.pop(0)()

    monkeypatch.setattr(live, "sleep", pause)


def test_events_can_be_followed(
    run: Run, answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each comes once, those of a process that is new included; Ctrl-C ends it."""
    answering.add(report(1, events=[event(1, text="first")]))
    steps: list[Callable[[], object]] = [
        lambda: answering.add(report(1, events=[event(1, text="first"), event(2, text="then")])),
        lambda: answering.add(report(2, events=[event(1, text="another")])),
    ]
    take_at_each_pause(monkeypatch, steps)
    said = run("events", "--follow", "--run-dir", answering.folder)
    assert said.code == 130
    assert [line.split()[-1] for line in said.out.splitlines()] == ["first", "then", "another"]


def test_top_that_is_piped_is_a_table(run: Run, answering: Answering) -> None:
    """Of one frame, and nothing is cut."""
    fill(answering)
    said = run("top", "--run-dir", answering.folder)
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert lines[1].split()[:8] == [
        "PID",
        "App",
        "Pool",
        "Size",
        "Idle",
        "Used",
        "Waiting",
        "Longest",
    ]
    rows = [line.split() for line in lines[2:6]]
    assert rows[0][:9] == ["4711", "notes", "web", "default", "5+10", "0", "8", "2", "66s"]
    assert rows[0][-2:] == ["3", "1"]
    assert [row[0] for row in rows] == ["4711", "4711", "4712", "Total"]
    assert "  GET route 'report'  7 connections, longest 66s, now in wait (slow.py:7)" in lines
    assert any("2 callers, longest 2.0s, 1 holds one already" in line for line in lines)
    assert lines[-1].endswith("4712 held for 61 s")


def test_top_prints_as_many_frames_as_are_wanted(
    run: Run, answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the second one on it tells of the time between."""
    fill(answering)

    def pause(seconds: float) -> None:
        assert seconds == 5.0
        answering.add(report(4711, [pool(refused={"timeout": 7})]))

    monkeypatch.setattr(top, "sleep", pause)
    where = ("top", "--run-dir", answering.folder, "--count", "2", "--format", "json")
    first, second = map(json.loads, run(*where, "--seconds", "5").out.splitlines())
    assert first["interval_seconds"] is None
    assert second["interval_seconds"] > 0
    row = next(each for each in second["rows"] if each["pid"] == 4711)
    assert (row["errors"], row["new_errors"]) == (7, 4)
    assert row["wait"] == {"p50": None, "p99": None}, "no checkout in between"


def test_top_ends_with_1_while_a_database_is_away(run: Run, answering: Answering) -> None:
    """For scripts that only want to know."""
    answering.add(report(1, [pool(outage_seconds=12.0)]))
    said = run("top", "--once", "--run-dir", answering.folder)
    assert said.code == 1
    assert "away 12s" in said.out


def test_nobody_to_ask_is_said_with_why(
    run: Run, ini: Callable[..., Path], tmp_path: Path
) -> None:
    """What to set, with an example; or what may be the reason that nobody is there."""
    said = run("top", ini("sqlalchemy.pool_size = 3"))
    assert said.code == 2
    assert "dbpool.run_dir is not set, so no process answers" in one_line(said)
    assert "such as dbpool.run_dir = /run/notes" in one_line(said)
    assert "name the ini file" in one_line(run("stacks"))
    (tmp_path / "run").mkdir(mode=0o700)
    file = ini(f"dbpool.run_dir = {tmp_path}/run")
    said = run("events", file)
    assert said.code == 1
    assert f"no process answers in {tmp_path}/run. None may be running" in one_line(said)
    assert "there is no such folder" in one_line(run("events", "--run-dir", tmp_path / "no"))


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("top", "--seconds", "0.01"), "at least 0.2"),
        (("top", "--count", "0"), "invalid number"),
        (("stacks", "--pid", "x"), "invalid process id"),
        (("resize", "--run-dir", "/"), "resize needs --size N"),
    ],
)
def test_a_wrong_command_line_ends_with_2(run: Run, args: tuple[str, ...], says: str) -> None:
    """And says which part of it."""
    said = run(*args)
    assert said.code == 2
    assert says in said.err


# What a label may hold: a terminal would be cleared, a line be two, and a byte is no letter.
STRANGE = "\x1b[2J\nNobody\x9b \u202e caf\udce9"


@pytest.mark.parametrize("command", ["top", "stacks", "events", "refresh"])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_what_a_label_holds_does_nothing_to_a_terminal(
    answering: Answering, command: str, encoding: str
) -> None:
    """Of whatever encoding."""
    held = [holder(STRANGE, 1.0, [STRANGE], worker=STRANGE)]
    told = [event(1, text=STRANGE, pool=STRANGE)]
    one = report(1, [pool(STRANGE, holders=held)], events=told, app=STRANGE, role=STRANGE)
    answering.add(one)
    program = [sys.executable, "-m", "pyramid_dbpool.cli.pdbpool"]
    ran = subprocess.run(
        [*program, command, "--run-dir", str(answering.folder), "--timeout", "30"],
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, b"")
    said = ran.stdout.decode(encoding)
    assert all(line.isprintable() for line in said.splitlines())
    assert r"\x1b[2J Nobody\x9b" in said


def test_programs_get_labels_as_they_are(run: Run, answering: Answering) -> None:
    """JSON has letters for all of them."""
    answering.add(report(1, [pool(holders=[holder(STRANGE, 1.0)])]))
    said = run("stacks", "--format", "json", "--run-dir", answering.folder)
    assert json.loads(said.out)["holders"][0]["label"] == STRANGE


def test_who_follows_sees_processes_start_anew(
    run: Run, answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one with the number of another before it; that there is none is said once."""
    answering.add(report(1, events=[event(7, text="first")]))
    place, away = answering.folder / "1.sock", answering.folder / "away"
    steps: list[Callable[[], object]] = [
        lambda: place.rename(away),
        lambda: None,
        lambda: answering.add(report(1, events=[event(2, text="then")])),
        lambda: away.rename(place),
    ]
    take_at_each_pause(monkeypatch, steps)
    said = run("events", "--follow", "--run-dir", answering.folder)
    assert said.code == 130
    assert said.err.count("no process answers") == 1
    assert [line.split()[-1] for line in said.out.splitlines()] == ["first", "then"]
