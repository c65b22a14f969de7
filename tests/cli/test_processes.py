"""`pdbpool refresh`, `resize`, `pause`, `resume`: what reaches the processes, what is said."""

import getpass
import json

import pytest

from tests.cli.said import Run, one_line
from tests.support.answering import Answering
from tests.support.reports import pool, report


@pytest.mark.parametrize(
    ("command", "done"),
    [("refresh", "Refreshed"), ("pause", "Paused"), ("resume", "Resumed")],
)
def test_a_command_reaches_all_processes(
    run: Run, answering: Answering, command: str, done: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says who asks."""
    monkeypatch.delenv("SUDO_USER", raising=False)
    answering.add(report(4711, [pool(), pool("replica")]))
    answering.add(report(4712))
    said = run(command, "--run-dir", answering.folder)
    assert (said.code, said.err) == (0, "")
    assert [line.split(maxsplit=1) for line in said.out.splitlines()] == [
        ["PID", done],
        ["4711", "default, replica"],
        ["4712", "default"],
    ]
    by = f"{getpass.getuser()} with pdbpool"
    assert sorted(answering.told) == [
        (pid, command, {"pool": None, "by": by}) for pid in (4711, 4712)
    ]


def test_a_command_can_be_for_one_pool_or_process(run: Run, answering: Answering) -> None:
    """Who has no such pool is not asked; a name that nobody has is a mistake."""
    answering.add(report(4711, [pool(), pool("replica")]))
    answering.add(report(4712))
    where = ("--run-dir", answering.folder, "--format", "json")
    said = run("refresh", *where, "--pool", "replica")
    assert json.loads(said.out) == [
        {"pid": 4711, "answer": {"pools": ["replica"]}, "silent": None}
    ]
    run("refresh", *where, "--pid", "4712")
    assert [pid for pid, _, _ in answering.told] == [4711, 4712]
    said = run("refresh", *where, "--pool", "replicas")
    assert (said.code, said.out) == (1, "")
    assert "no process has a pool 'replicas'; there are default, replica." in one_line(said)


def test_who_asks_is_whom_sudo_names(
    run: Run, answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log is to say who it was, and root may be anybody."""
    monkeypatch.setenv("SUDO_USER", "anna")
    answering.add(report(4711))
    run("pause", "--run-dir", answering.folder)
    assert [said["by"] for _, _, said in answering.told] == ["anna with pdbpool"]


@pytest.mark.parametrize("command", [("stacks",), ("events",), ("events", "--follow")])
def test_a_pool_that_nobody_has_is_a_mistake_where_one_looks(
    run: Run, answering: Answering, command: tuple[str, ...]
) -> None:
    """'Nobody holds a connection' would be believed."""
    answering.add(report(4711, [pool(), pool("replica")]))
    said = run(*command, "--run-dir", answering.folder, "--pool", "replicas")
    assert (said.code, said.out) == (1, "")
    assert "no process has a pool 'replicas'; there are default, replica." in one_line(said)


def test_resize_says_to_what(run: Run, answering: Answering) -> None:
    """Only what is given; the rest stays."""
    answering.add(report(4711))
    run("resize", "--run-dir", answering.folder, "--size", "20")
    run("resize", "--run-dir", answering.folder, "--size", "20", "--max-overflow", "0")
    sizes = [(said.get("size"), said.get("max_overflow")) for _, _, said in answering.told]
    assert sizes == [(20, None), (20, 0)]


@pytest.mark.slow
def test_a_silent_process_is_a_failure(run: Run, answering: Answering) -> None:
    """The others have done it, and are named."""
    answering.add(report(4711))
    answering.silent(99)
    said = run("refresh", "--run-dir", answering.folder, "--timeout", "3")
    assert said.code == 1
    assert said.out.splitlines()[1].split() == ["4711", "default"]
    assert "pid 99 does not answer" in one_line(said)


def test_who_asks_cannot_write_to_the_log_what_he_likes(
    run: Run, answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name comes from the environment, and goes to the log of another user's process."""
    answering.add(report(4711))
    monkeypatch.setenv("LOGNAME", "eve\n2026 ERROR all is lost " + "x" * 500)
    run("refresh", "--run-dir", answering.folder)
    ((_, _, said),) = answering.told
    assert said["by"] == f"eve_2026_ERROR_all_is_lost_{'x' * 13} with pdbpool"


def test_what_a_process_refuses_is_its_own_sentence(run: Run, answering: Answering) -> None:
    """It is not stuck: there is nothing to look for in its stack."""
    answering.add(report(4711))
    answering.refusal = "size has to be at least 1."
    said = run("resize", "--run-dir", answering.folder, "--size", "-5")
    assert said.code == 1
    assert one_line(said) == "pdbpool: pid 4711 says: size has to be at least 1."
