"""The demo, as `make demo` runs it."""

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired
from time import monotonic
from uuid import uuid4

import pytest
from processes import PATIENCE, Program, programs_with, wait_until

from example_app import programs
from example_app.demo import WEB_PORT

pytestmark = pytest.mark.slow

StartDemo = Callable[..., Program]

WITH_URL = "[app:main]\nuse = egg:example_app\nsqlalchemy.url = sqlite:///notes.db"
NO_POSTGRES = """
import sys
import pyramid_dbpool.embedded.cluster as cluster
from example_app.demo import main
cluster.find_programs = list
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Give a folder for the demo; nothing that works in it may be left."""
    yield tmp_path / "demo"
    wait_until(lambda: not programs_with(str(tmp_path)))


@pytest.fixture
def start_demo(folder: Path) -> Iterator[StartDemo]:
    """Start demos."""
    started = []

    def start(*words: str, keys: bool = False) -> Program:
        demo = Program("-m", "example_app.demo", "--folder", str(folder), *words, keys=keys)
        started.append(demo)
        return demo

    yield start
    for demo in started:
        demo.kill()


def open_page(demo: Program) -> int:
    """Open the address that the demo prints, and give the answer's status."""
    return ask(address_of(demo), "GET", "/")


def address_of(demo: Program) -> str:
    """Give the address that the demo prints."""
    return demo.wait_for("Open ").rpartition("http://")[2].split()[0]


def ask(address: str, method: str, path: str, body: str | None = None) -> int:
    """Give the status of an answer."""
    connection = HTTPConnection(address, timeout=PATIENCE)
    connection.request(method, path, body)
    status = connection.getresponse().status
    connection.close()
    return status


def write(address: str) -> int:
    """Write a note."""
    return ask(address, "PUT", f"/api/notes/{uuid4()}", '{"text": "Is it there?"}')


def process_id(folder: Path, words: str) -> int:
    """Give the id of the one program of a demo with these words in its command."""
    found = {pid for pid, command in programs_with(str(folder)).items() if words in command}
    # gunicorn's worker has the same command as its master.
    (first,) = (pid for pid in found if parent(pid) not in found)
    return first


def parent(pid: int) -> int:
    """Give the id of the process that started another one."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_stop_is_clean(start_demo: StartDemo, folder: Path, number: signal.Signals) -> None:
    """Ctrl-C and a closed terminal end everything in order, without an error."""
    demo = start_demo()
    assert open_page(demo) == 200
    assert len(programs_with(str(folder))) >= 5
    assert demo.end(number) == 0, demo.output
    assert "Traceback" not in demo.output, demo.output
    assert not programs_with(str(folder))
    log = (folder / "postgres" / "postgres.log").read_text()
    assert log.count("database system is shut down") == 1


def test_stop_during_the_start_is_clean(start_demo: StartDemo, folder: Path) -> None:
    """Ctrl-C before everything runs is no error either, and the next start works.

    `--check` sees a note go all the way and ends with exit code 0.
    """
    demo = start_demo()
    demo.wait_for("Starting")
    assert demo.end(signal.SIGINT) == 0, demo.output
    assert "Traceback" not in demo.output, demo.output
    again = start_demo("--check")
    assert again.end(seconds=100) == 0, again.output
    assert "Everything works" in again.output
    assert "Traceback" not in again.output


def test_same_stop_twice_is_one(start_demo: StartDemo) -> None:
    """A SIGTERM that `make` hands on, and that arrives twice, does not kill."""
    demo = start_demo()
    demo.wait_for("Ctrl-C stops everything")
    demo.process.send_signal(signal.SIGTERM)
    assert demo.end(signal.SIGTERM) == 0, demo.output
    assert "Traceback" not in demo.output, demo.output


def test_second_stop_kills(start_demo: StartDemo, folder: Path) -> None:
    """A second Ctrl-C ends everything at once, where one program does not end."""
    demo = start_demo()
    demo.wait_for("Ctrl-C stops everything")
    os.kill(process_id(folder, "development.ini"), signal.SIGSTOP)
    start = monotonic()
    demo.process.send_signal(signal.SIGINT)
    demo.wait_for("Stopping")
    while demo.process.poll() is None:
        demo.process.send_signal(signal.SIGINT)
        with suppress(TimeoutExpired):
            demo.process.wait(0.2)
    assert demo.end() == 128 + signal.SIGINT
    assert monotonic() - start < programs.PATIENCE
    wait_until(lambda: not programs_with(str(folder)))


def test_kill_leaves_nothing_behind(start_demo: StartDemo, folder: Path) -> None:
    """What the demo started ends also when the demo is killed, and the next start works."""
    demo = start_demo()
    demo.wait_for("Ctrl-C stops everything")
    demo.kill()
    wait_until(lambda: not programs_with(str(folder)))
    assert start_demo("--check").end(seconds=100) == 0


@pytest.mark.parametrize(
    ("name", "module"), [("web", "development.ini"), ("streamer", "streamer.ini")]
)
def test_program_that_dies(start_demo: StartDemo, folder: Path, name: str, module: str) -> None:
    """When a program ends, the demo says which, stops the others and ends with exit code 1."""
    demo = start_demo()
    demo.wait_for("Ctrl-C stops everything")
    os.kill(process_id(folder, module), signal.SIGKILL)
    assert demo.end() == 1
    assert f"demo: {name} ended with exit code -9" in demo.output
    assert "Traceback" not in demo.output, demo.output
    assert not programs_with(str(folder))


def test_key_restarts_the_database(start_demo: StartDemo, folder: Path) -> None:
    """Who writes meanwhile waits for it, and nothing fails."""
    demo = start_demo(keys=True)
    address = address_of(demo)
    assert write(address) == 201
    demo.type("r")
    demo.wait_for("PostgreSQL is stopped")
    assert write(address) == 201
    demo.wait_for("PostgreSQL is back")
    log = (folder / "postgres" / "postgres.log").read_text()
    assert log.count("ready to accept connections") == 2
    assert demo.end(signal.SIGINT) == 0, demo.output
    assert "Traceback" not in demo.output, demo.output


def test_database_that_dies_is_started_again_by_a_key(start_demo: StartDemo, folder: Path) -> None:
    """The demo says so, and goes on."""
    demo = start_demo(keys=True)
    address = address_of(demo)
    os.kill(process_id(folder, "postgres -D"), signal.SIGQUIT)
    demo.wait_for("r and Enter start it again")
    demo.type("R")
    demo.wait_for("PostgreSQL is back")
    assert write(address) == 201
    assert demo.end(signal.SIGINT) == 0, demo.output


def test_database_that_dies(start_demo: StartDemo, folder: Path) -> None:
    """Where no key can come, the demo says where its log is and ends with exit code 1."""
    demo = start_demo()
    demo.wait_for("Ctrl-C stops everything")
    os.kill(process_id(folder, "postgres -D"), signal.SIGQUIT)
    assert demo.end() == 1
    assert f"demo: PostgreSQL has ended; its log is {folder}" in demo.output


def test_reader_that_goes(folder: Path) -> None:
    """With nobody to read its output, as after `| head`, the demo runs until it is stopped."""
    command = [sys.executable, "-m", "example_app.demo", "--folder", str(folder)]
    with Popen(command, stdout=PIPE, stderr=DEVNULL) as demo:
        assert demo.stdout is not None
        demo.stdout.close()
        wait_until(lambda: any("pserve" in each for each in programs_with(str(folder)).values()))
        demo.send_signal(signal.SIGINT)
        assert demo.wait(PATIENCE) == 0


def test_demo_beside_a_demo(start_demo: StartDemo, tmp_path: Path) -> None:
    """A second demo is refused in the same folder, and finds ports of its own in another one."""
    first = start_demo()
    first.wait_for("Starting")
    second = start_demo()
    assert second.end() == 1
    assert "another demo is running there" in second.output
    assert open_page(first) == 200
    third = start_demo("--folder", str(tmp_path / "other"), "--check")
    assert third.end(seconds=100) == 0, third.output


@pytest.fixture
def taken_port() -> Iterator[int]:
    """Give a port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def one_line(demo: Program) -> str:
    """Give the one line in which a demo says why it cannot start."""
    assert demo.end() == 1
    (line,) = [line for line in demo.lines if not line.startswith(("Starting", "Port "))]
    return line


def test_a_demo_elsewhere_says_so(start_demo: StartDemo) -> None:
    """Where its ports are taken, the ini files lead to somebody else."""
    with ExitStack() as stack:
        with suppress(OSError):  # somebody else has it already
            stack.enter_context(socket.create_server(("127.0.0.1", WEB_PORT)))
        demo = start_demo()
        address = address_of(demo)
    port = address.rpartition(":")[2].rstrip("/")
    assert f"Port {WEB_PORT} is taken, so the page is at {port}." in demo.output


def test_port_that_is_taken(start_demo: StartDemo, taken_port: int) -> None:
    """A port that was asked for and is taken is an error that says what to do."""
    line = one_line(start_demo("--port", str(taken_port)))
    assert line == f"demo: --port {taken_port} is taken; give another one, or leave it out"


def test_port_that_is_none(start_demo: StartDemo) -> None:
    """A port has its bounds."""
    assert "from 1 to 65535" in one_line(start_demo("--port", "70000"))


def test_folder_that_cannot_be_written(start_demo: StartDemo, tmp_path: Path) -> None:
    """A folder that cannot be made is an error with the reason."""
    Path(tmp_path / "file").touch()
    line = one_line(start_demo("--folder", str(tmp_path / "file" / "demo")))
    assert line.startswith(f"demo: --folder {tmp_path}/file/demo: cannot write there: Not a dir")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file"),
        ("sqlalchemy.url = no section", "no section headers"),
        ("[app:other]\nuse = egg:example_app", "my.ini: No section 'main'"),
        ("[app:main]\nuse = egg:no_such_app", "no_such_app"),
        ("[app:main]\nuse = egg:example_app", "sqlalchemy.url"),
        ("[app:main]\nuse = egg:example_app\nx = %(nowhere)s", "nowhere"),
        (f"{WITH_URL}\nbroker.url = nonsense://", "broker.url: No such transport"),
        (
            f"{WITH_URL}\nbroker.url = filesystem://\nbroker.folder = .",
            "streamer.address is missing",
        ),
    ],
)
def test_ini_that_cannot_be_used(
    start_demo: StartDemo, tmp_path: Path, content: str | None, why: str
) -> None:
    """An ini file that is not there, or not right, is an error with its name and the reason."""
    path = tmp_path / "my.ini"
    if content is not None:
        path.write_text(content)
    line = one_line(start_demo(str(path)))
    assert why in line


def test_machine_without_postgres(folder: Path) -> None:
    """Where no PostgreSQL can be had, the demo says how to get it."""
    line = one_line(Program("-c", NO_POSTGRES, "--folder", str(folder)))
    assert "install PostgreSQL" in line
