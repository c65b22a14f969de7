"""All processes of a host are asked side by side."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest

from pyramid_dbpool.telemetry.host import Answer, RunDirError, ask, command
from pyramid_dbpool.telemetry.http_messages import answer
from tests.support.asked import Asked, asked
from tests.support.makers import in_thread, wait_for


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Give a folder that is still to be made."""
    return tmp_path / "run"


@pytest.fixture
def two(run_dir: Path) -> Iterator[tuple[Asked, Asked]]:
    """Run two processes."""
    with asked(run_dir) as first, asked(run_dir) as second:
        yield first, second


def test_every_process_answers(run_dir: Path, two: tuple[Asked, Asked]) -> None:
    """In the order of their ids, each for itself."""
    answers = ask(str(run_dir))
    assert [each.pid for each in answers] == sorted(each.pid for each in two)
    for each in answers:
        assert each.silent is None
        assert each.report is not None
        assert each.report["pid"] == each.pid
        assert [pool["name"] for pool in each.report["pools"]] == ["default"]


def test_one_that_is_killed_is_not_listed_and_leaves_nothing(
    run_dir: Path, two: tuple[Asked, Asked]
) -> None:
    """Whoever looks next removes its socket."""
    first, second = two
    first.process.kill()
    first.process.wait()
    assert first.socket.exists()
    assert [each.pid for each in ask(str(run_dir))] == [second.pid]
    assert [each.name for each in run_dir.iterdir()] == [second.socket.name]


def test_one_that_ends_takes_its_socket_away(run_dir: Path, two: tuple[Asked, Asked]) -> None:
    """Nobody has to look for that."""
    first, second = two
    assert first.ended() == ""
    assert [each.name for each in run_dir.iterdir()] == [second.socket.name]


def test_one_that_is_stopped_is_silent(run_dir: Path, two: tuple[Asked, Asked]) -> None:
    """It holds nobody up for longer than the limit, and keeps its socket."""
    first, second = two
    os.kill(first.pid, signal.SIGSTOP)
    answers = {each.pid: each for each in ask(str(run_dir), timeout=0.3)}
    assert answers[first.pid] == Answer(first.pid, None, "does not answer within 0.3 s")
    assert answers[second.pid].report is not None
    assert first.socket.exists()
    os.kill(first.pid, signal.SIGCONT)
    wait_for(lambda: all(each.report for each in ask(str(run_dir))))


def test_the_next_process_removes_what_dead_ones_left(run_dir: Path) -> None:
    """Also one that was killed before its socket had a name."""
    with asked(run_dir) as first:
        first.process.kill()
        first.process.wait()
        (run_dir / f".{first.pid}.new").touch()
        (run_dir / "notes.txt").write_text("kept")
        with asked(run_dir) as second:
            assert {each.name for each in run_dir.iterdir()} == {second.socket.name, "notes.txt"}


def test_one_of_another_version_says_so(run_dir: Path) -> None:
    """Its numbers may mean something else."""
    other = "from pyramid_dbpool.telemetry import report; report.VERSION = 7"
    with asked(run_dir, other) as process:
        found = process.answer()
        assert found is not None
        assert (found.report, found.silent) == (None, "reports in version 7, and 1 is read here")


@pytest.mark.parametrize(
    ("said", "silent"),
    [
        (b"", "has hung up without a word: it may be ending"),
        (b"\0" * 1000, "does not answer in JSON: another version, or another program"),
        (
            b"HTTP/1.1 200 OK\r\n\r\n{",
            "does not answer in JSON: another version, or another program",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}",
            "does not answer in JSON: another version, or another program",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\n[]", "answers in another form: another version"),
        (b"HTTP/1.1 200 OK\r\n\r\n{}", "reports in version none, and 1 is read here"),
        (b"HTTP/1.1 500 No\r\n\r\n{}", "says: 500"),
    ],
)
def test_a_stranger_in_the_folder_is_silent(run_dir: Path, said: bytes, silent: str) -> None:
    """Whatever it says."""
    run_dir.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(run_dir / "99.sock"))
        listener.listen()

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(said)

        thread = in_thread(serve)
        assert ask(str(run_dir), timeout=20) == [Answer(99, None, silent)]
        thread.join()


def test_what_is_no_socket_is_left_alone(run_dir: Path, tmp_path: Path) -> None:
    """No file, and no link: it may lead to somebody else's socket."""
    run_dir.mkdir(mode=0o700)
    (run_dir / "1.sock").touch()
    elsewhere = tmp_path / "elsewhere"
    with asked(elsewhere) as process:
        (run_dir / "2.sock").symlink_to(process.socket)
        assert ask(str(run_dir)) == []
        assert len(list(run_dir.iterdir())) == 2


def test_a_folder_that_cannot_be_looked_into_is_an_error(run_dir: Path, tmp_path: Path) -> None:
    """A sentence that says why."""
    with pytest.raises(RunDirError, match=r"run: there is no such folder: no process has made it"):
        ask(str(run_dir))
    run_dir.mkdir()
    run_dir.chmod(0o755)
    with pytest.raises(
        RunDirError, match=r"others may look into it \(mode 0755\): `chmod 700` it"
    ):
        command(str(run_dir), "refresh")
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(RunDirError, match="it is no folder"):
        ask(str(file))
    link = tmp_path / "link"
    run_dir.chmod(0o700)
    link.symlink_to(run_dir)
    with pytest.raises(RunDirError, match="it is no folder"):
        ask(str(link))


def test_curl_shows_a_report(two: tuple[Asked, Asked]) -> None:
    """As the page in the docs has it."""
    done = subprocess.run(
        ["curl", "-sS", "--unix-socket", str(two[0].socket), "http://dbpool/report?stacks=0"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f'"pid": {two[0].pid}' in done.stdout


def test_answers_are_for_machines_and_people() -> None:
    """What cannot be JSON is written as text, and never fails the answer."""
    assert b'"x": "' in answer(HTTPStatus.OK, {"x": object()})


NO_DESCRIPTORS = """
import os, resource, sys
from pyramid_dbpool.telemetry.host import RunDirError, ask
there = len(os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (there + int(sys.argv[2]), 64))
try:
    ask(sys.argv[1])
except RunDirError as error:
    print(error)
print(len(os.listdir("/proc/self/fd")) - there)
"""


@pytest.mark.parametrize("left", [0, 1])
def test_who_has_no_descriptor_left_is_told(
    run_dir: Path, two: tuple[Asked, Asked], left: int
) -> None:
    """It is no process's silence; and the few that there are are given back."""
    program = [sys.executable, "-c", NO_DESCRIPTORS, str(run_dir), str(left)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    told, leaked = done.stdout.splitlines()
    assert told == f"dbpool.run_dir = {run_dir}: Too many open files in this process."
    assert leaked == "0"
