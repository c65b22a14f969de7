"""A folder that cannot be used is said once, and harms nobody."""

import _thread
import errno
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyramid_dbpool import SettingsError, dispose_engine, get_engine
from pyramid_dbpool.telemetry import run_dir as run_dirs
from pyramid_dbpool.telemetry import server as servers
from pyramid_dbpool.telemetry.host import ask
from pyramid_dbpool.telemetry.run_dir import LONGEST_PATH, RunDir, RunDirError
from tests.support.asked import asked
from tests.support.makers import wait_for
from tests.support.programs import run_program

LOGGER = "pyramid_dbpool.telemetry.server"


@pytest.fixture
def server() -> Iterator[Any]:
    """Yield a server of this process's, and end it."""
    made = servers._Server()
    yield made
    made.end()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """List what was warned of."""
    return [each.getMessage() for each in caplog.records if each.name == LOGGER]


def loose(folder: Path) -> Path:
    folder.mkdir()
    folder.chmod(0o750)
    return folder


def file(folder: Path) -> Path:
    folder.touch()
    return folder


def linked(folder: Path) -> Path:
    target = folder.with_name("target")
    target.mkdir(mode=0o700)
    folder.symlink_to(target)
    return folder


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda folder: folder / "in" / "none", "there is no folder"),
        (loose, "others may look into it (mode 0750): `chmod 700` it, or name a folder that"),
        (file, "it is no folder"),
        (linked, "it is no folder"),
        (lambda folder: folder.parent / ("x" * 300), "it cannot be made (File name too long)"),
        (
            lambda folder: folder.parent / ("x" * 100),
            f"bytes long, and a socket's path has {LONGEST_PATH} at most: name a shorter folder",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_is_said_once(
    server: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[Path], Path],
    why: str,
) -> None:
    """With the setting, the folder, and what to do."""
    folder = make(tmp_path / "run")
    for _ in range(3):
        server.answer_in(str(folder))
        server.start()
    (said,) = warnings(caplog)
    assert said.startswith(f"dbpool.run_dir = {folder}: ")
    assert why in said
    assert said.endswith("This process answers nobody who asks; all else works.")


def test_a_disk_that_is_full_or_read_only_is_said_once(
    server: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing half made is left behind."""

    class Full(socket.socket):
        def bind(self, _address: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(run_dirs, "Socket", Full)
    server.answer_in(str(tmp_path / "run"))
    server.start()
    (said,) = warnings(caplog)
    assert "cannot be made there (No space left on device)" in said
    assert list((tmp_path / "run").iterdir()) == []


def test_a_thread_that_cannot_be_started_is_said_once(
    server: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The socket goes again: nobody would answer there."""

    def refuse(*_arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    server.answer_in(str(tmp_path / "run"))
    server.start()
    (said,) = warnings(caplog)
    assert "RuntimeError: can't start new thread." in said
    assert list((tmp_path / "run").iterdir()) == []


def test_two_folders_in_one_process_are_warned_of(
    server: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It answers in the first one."""
    server.answer_in(str(tmp_path / "run"))
    server.answer_in(str(tmp_path / "other"))
    server.answer_in(str(tmp_path / "other"))
    (said,) = warnings(caplog)
    assert "this process answers in" in said
    assert [each.pid for each in ask(str(tmp_path / "run"))] == [os.getpid()]
    assert not (tmp_path / "other").exists()


def test_the_end_takes_the_socket_away(server: Any, tmp_path: Path) -> None:
    """And leaves the folder, which may be systemd's."""
    server.answer_in(str(tmp_path / "run"))
    assert ask(str(tmp_path / "run"))[0].report is not None
    server.end()
    assert list((tmp_path / "run").iterdir()) == []
    assert oct((tmp_path / "run").stat().st_mode)[-3:] == "700"


def everything(folder: Path) -> None:
    """Clear a folder away."""
    shutil.rmtree(folder)


def its_content(folder: Path) -> None:
    """Clear a folder, as what tidies temporary files does."""
    for each in folder.iterdir():
        each.unlink()


@pytest.mark.parametrize("clear", [everything, its_content])
def test_a_folder_that_was_cleared_is_filled_again(
    server: Any, tmp_path: Path, clear: Callable[[Path], None]
) -> None:
    """As soon as the process opens a connection."""
    run_dir = tmp_path / "run"
    server.answer_in(str(run_dir))
    for _ in range(2):
        clear(run_dir)
        server.start()
        wait_for((run_dir / f"{os.getpid()}.sock").exists)
        (answer,) = ask(str(run_dir))
        assert answer.report is not None
    server.end()
    assert list(run_dir.iterdir()) == []


def test_a_place_that_cannot_be_taken_again_is_said_once(
    server: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And it is tried again, until it can."""
    run_dir = tmp_path / "run"
    server.answer_in(str(run_dir))
    everything(run_dir)
    run_dir.touch()
    for _ in range(3):
        server.start()
        wait_for(lambda: warnings(caplog) != [])
    assert ["it is no folder" in each for each in warnings(caplog)] == [True]
    run_dir.unlink()
    server.start()
    wait_for((run_dir / f"{os.getpid()}.sock").exists)
    assert ask(str(run_dir))[0].report is not None


def test_who_has_the_place_by_now_keeps_it(server: Any, tmp_path: Path) -> None:
    """As of another container, after the folder was cleared."""
    server.answer_in(str(tmp_path / "run"))
    with asked(tmp_path / "run") as other:
        os.rename(other.socket, tmp_path / "run" / f"{os.getpid()}.sock")
        server.end()
        assert ask(str(tmp_path / "run"))[0].report is not None


def test_what_no_process_can_have_left_stops_nobody(server: Any, tmp_path: Path) -> None:
    """No process has such a number."""
    run_dir = tmp_path / "run"
    run_dir.mkdir(mode=0o700)
    (run_dir / f".{10**20}.new").touch()
    server.answer_in(str(run_dir))
    assert [each.pid for each in ask(str(run_dir))] == [os.getpid()]


def test_another_process_with_this_number_keeps_its_place(
    server: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As of another container, in a folder that both have."""
    with asked(tmp_path / "run") as other:
        os.rename(other.socket, tmp_path / "run" / f"{os.getpid()}.sock")
        server.answer_in(str(tmp_path / "run"))
        (said,) = warnings(caplog)
        assert "give each container a folder of its own" in said
        assert len(list((tmp_path / "run").iterdir())) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_the_folder_of_another_user_is_not_used(tmp_path: Path) -> None:
    """Root may use it, for those whom it will be; their owner may ask there."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)
    assert RunDir(str(folder)).check() == 65534
    with asked(folder) as process:
        assert process.answer() is not None
        assert process.socket.stat().st_uid == 65534
    os.chown(folder, 0, 0)
    pid = os.fork()
    if pid == 0:
        os.setuid(65534)
        try:
            os.chdir("/")
            RunDir("/root").check()
        except RunDirError as error:
            os._exit(
                7 if "it belongs to user 0, and this process to user 65534" in str(error) else 8
            )
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_a_relative_folder_is_refused(tmp_path: Path) -> None:
    """Each process would have another one."""
    settings = {"sqlalchemy.url": f"sqlite:///{tmp_path}/x.db", "dbpool.run_dir": "run/notes"}
    with pytest.raises(SettingsError, match=r"dbpool\.run_dir = 'run/notes' is not allowed"):
        get_engine(settings)
    for nothing in ("", "off", "none"):
        get_engine(settings | {"dbpool.run_dir": nothing})
        dispose_engine(settings | {"dbpool.run_dir": nothing})


UNUSABLE = """
import logging, sys
logging.basicConfig(format="%(levelname)s %(message)s")
from pyramid_dbpool import unit_of_work
from sqlalchemy import text
settings = {"sqlalchemy.url": "sqlite://", "dbpool.run_dir": "/dev/null/run"}
for times in range(3):
    with unit_of_work(settings) as session:
        print(session.scalar(text("SELECT 7")))
"""


def test_work_is_done_all_the_same() -> None:
    """With one line in the log."""
    done = run_program(UNUSABLE)
    assert done.stdout.split() == ["7"] * 3
    (line,) = done.stderr.splitlines()
    assert line.startswith("WARNING dbpool.run_dir = /dev/null/run: it cannot be made")


def test_an_engine_that_is_there_answers_for_later_settings(tmp_path: Path) -> None:
    """As soon as somebody's name a folder."""
    program = f"""
import os
from pyramid_dbpool import get_engine
settings = {{"sqlalchemy.url": "sqlite:///{tmp_path}/x.db"}}
first = get_engine(settings)
second = get_engine(settings | {{"dbpool.run_dir": "{tmp_path}/run"}})
print(first is second, len(os.listdir("{tmp_path}/run")))
"""
    assert run_program(program).stdout.split() == ["True", "1"]
