"""`pdbpool` and processes that answer by themselves: the whole way, once for each command."""

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.said import Run, one_line
from tests.support.asked import Asked, asked

HOLDS = "def take(): return engine.connect()\nheld = take()"


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Asked]:
    """Give a process that answers, and holds a connection."""
    with asked(tmp_path / "run", HOLDS) as made:
        yield made


def test_top_and_stacks_show_who_holds_a_connection(run: Run, process: Asked) -> None:
    """In the process, pool and thread, and since when."""
    said = run("top", "--run-dir", process.run_dir, "--format", "json")
    assert (said.code, said.err) == (0, "")
    (row,) = json.loads(said.out)["rows"]
    assert (row["pid"], row["pool"], row["used"], row["capacity"]) == (
        process.pid,
        "default",
        1,
        15,
    )
    said = run("stacks", "--run-dir", process.run_dir)
    assert said.out.startswith("1 holds a connection:\n\nthread 'MainThread': 1, longest ")
    assert f"pid {process.pid}, pool default, thread 'MainThread'" in said.out


def test_commands_reach_the_pool_and_are_told_as_events(run: Run, process: Asked) -> None:
    """Each says who asked."""
    where = ("--run-dir", process.run_dir)
    for name, *options in (("refresh",), ("resize", "--size", 7), ("pause",), ("resume",)):
        said = run(name, *where, *options)
        assert (said.code, said.err) == (0, "")
        assert said.out.split()[-2:] == [str(process.pid), "default"]
        state = re.search(r"paused \d", run("top", *where).out)
        assert bool(state) == (name == "pause")
    told = run("events", *where).out.splitlines()[-4:]
    for line, word in zip(told, ("refreshed", "resized", "paused", "resumed"), strict=True):
        assert f"{word} by " in line
        assert " with pdbpool" in line
    assert "7+10" in run("top", *where).out


def test_what_a_pool_refuses_ends_with_1(run: Run, process: Asked) -> None:
    """In the words of the pool."""
    said = run("resize", "--run-dir", process.run_dir, "--size", "-5")
    assert said.code == 1
    assert one_line(said).startswith(f"pdbpool: pid {process.pid} says: pool 'default'")
    assert not one_line(said).endswith("..")


@pytest.mark.slow
def test_a_stopped_process_is_silent_and_a_dead_one_is_gone(run: Run, process: Asked) -> None:
    """The one is named with what to do, of the other nothing is left."""
    with asked(process.run_dir) as other:
        os.kill(process.pid, signal.SIGSTOP)
        try:
            said = run("refresh", "--run-dir", process.run_dir, "--timeout", "3")
        finally:
            os.kill(process.pid, signal.SIGCONT)
        assert said.code == 1
        assert said.out.split() == ["PID", "Refreshed", str(other.pid), "default"]
        assert f"py-spy dump --pid {process.pid}" in one_line(said)
        process.process.kill()
        process.process.wait()
        assert run("top", "--run-dir", process.run_dir).code == 0
        assert [each.name for each in process.run_dir.iterdir()] == [f"{other.pid}.sock"]
