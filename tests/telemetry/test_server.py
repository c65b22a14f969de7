"""What a process does with whoever asks, whatever they say."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.support.asked import Asked, asked, said_to
from tests.support.makers import wait_for


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    """Run one process for all of these."""
    with asked(tmp_path_factory.mktemp("server") / "run") as made:
        yield made


def status(said: bytes) -> tuple[int, Any]:
    """Return status and content of an answer."""
    head, _, body = said.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def get(process: Asked, target: str, method: str = "GET", body: str = "") -> tuple[int, Any]:
    request = f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    return status(said_to(process.socket, request.encode()))


@pytest.mark.parametrize(
    ("target", "method", "code", "why"),
    [
        ("/", "GET", 404, "there is nothing here; there are /report, /refresh, /resize,"),
        ("/report", "POST", 405, "/report is asked for with GET"),
        ("/report", "DELETE", 405, "/report is asked for with GET"),
        ("/refresh", "GET", 405, "/refresh is asked for with POST"),
        ("/report?after=x", "GET", 400, "after has to be a number"),
        ("/report?after=-1", "GET", 400, "after has to be a number"),
        ("/report?after=" + "9" * 30, "GET", 400, "after has to be a number"),
        ("//[", "GET", 400, "the path cannot be read"),
    ],
)
def test_a_question_that_has_no_answer_is_told_why(
    process: Asked, target: str, method: str, code: int, why: str
) -> None:
    """With a status, and a sentence."""
    found, content = get(process, target, method)
    assert found == code
    assert why in content["error"]


@pytest.mark.parametrize(
    ("body", "code", "why"),
    [
        ("[", 400, "the body is no JSON object"),
        ("[]", 400, "the body is no JSON object"),
        ("[" * 60_000, 400, "the body is no JSON object"),
        ('{"pool": "x"}', 404, "this process has no pool 'x'; it has default"),
        ('{"pool": []}', 404, "this process has no pool []; it has default"),
        ('{"by": 1}', 400, "by has to be a text that says who asks"),
        ('{"size": 1}', 400, "refresh takes no 'size'"),
    ],
)
def test_a_command_that_makes_no_sense_is_told_why(
    process: Asked, body: str, code: int, why: str
) -> None:
    """And nothing is done."""
    found, content = get(process, "/refresh", "POST", body)
    assert (found, content) == (code, {"error": why})


def test_a_command_is_done_and_told_of(process: Asked) -> None:
    """In the words of the log, and who has asked."""
    body = json.dumps({"pool": None, "by": "the\nrunbook", "size": 7, "max_overflow": 1})
    assert get(process, "/resize", "POST", body) == (200, {"pools": ["default"]})
    _, report = get(process, "/report")
    assert (report["pools"][0]["size"], report["pools"][0]["capacity"]) == (7, 8)
    (event,) = [each for each in report["events"] if each["kind"] == "resize"]
    assert "the runbook" in event["text"]
    _, report = get(process, f"/report?after={event['number']}")
    assert report["events"] == []
    for name in ("pause", "resume", "refresh"):
        assert get(process, f"/{name}", "POST", "{}") == (200, {"pools": ["default"]})
    found, content = get(process, "/resize", "POST", json.dumps({"size": -7}))
    assert found == 400
    assert "-7" in content["error"]


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"\0\xff\n" * 10, 400),
        (b"hello\r\n\r\n", 400),
        (b"GET /report HTTP/2\r\n\r\n", 400),
        (b"GET " + b"x" * 5000, 400),
        (b"GET /report HTTP/1.1\r\n" + b"X: y\r\n" * 5000, 431),
        (b"POST /refresh HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", 413),
        (b"POST /refresh HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
    ],
)
def test_nonsense_is_refused(process: Asked, sent: bytes, code: int) -> None:
    """At once, and the next one is served."""
    assert status(said_to(process.socket, sent))[0] == code
    assert get(process, "/report")[0] == 200


def test_a_request_may_come_in_pieces(process: Asked) -> None:
    """As the kernel happens to cut it."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(30)
        asking.connect(str(process.socket))
        for byte in b"GET /report HTTP/1.1\r\n\r\n":
            asking.sendall(bytes([byte]))
        assert asking.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")


def test_whoever_says_nothing_holds_nobody_up(process: Asked) -> None:
    """More of them than are served at a time; they are sent away when their time is over."""
    silent = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    for each in silent:
        each.settimeout(30)
        each.connect(str(process.socket))
    for each in silent[:10]:
        each.close()
    answer = process.answer()
    assert answer is not None
    assert answer.report is not None
    for each in silent[10:]:
        # Here, and not by this side.
        assert each.recv(1) == b""
        each.close()


def test_whoever_does_not_read_holds_nobody_up(process: Asked) -> None:
    """Nor does one who hangs up in the middle."""
    deaf = [socket.socket(socket.AF_UNIX) for _ in range(8)]
    for each in deaf:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        each.connect(str(process.socket))
        each.sendall(b"GET /report HTTP/1.1\r\n\r\n")
    assert get(process, "/report")[0] == 200
    for each in deaf:
        each.close()
    assert get(process, "/report")[0] == 200


def switches(pid: int) -> int:
    """Count how often a process has gone to sleep and come back, all threads together."""
    tasks = Path(f"/proc/{pid}/task")
    lines = [
        line
        for task in tasks.iterdir()
        for line in (task / "status").read_text().splitlines()
        if line.startswith("voluntary_ctxt_switches")
    ]
    return sum(int(line.split()[1]) for line in lines)


@pytest.mark.slow
def test_an_idle_process_does_nothing(process: Asked) -> None:
    """Its thread sleeps until somebody asks."""
    wait_for(process.answer)
    time.sleep(0.2)
    before = switches(process.pid)
    time.sleep(2)
    assert switches(process.pid) - before == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user_gets_nothing() -> None:
    """Also where the folder lets him in; root does."""
    with TemporaryDirectory() as folder, asked(Path(folder) / "run") as process:
        for place in (Path(folder), process.run_dir, process.socket):
            place.chmod(0o777)
        pid = os.fork()
        if pid == 0:
            os.setuid(65534)
            os._exit(_learned(process.socket))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert get(process, "/report")[0] == 200


def _learned(place: Path) -> int:
    """Ask; return 7 if nothing is said."""
    try:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(30)
            asking.connect(str(place))
            with suppress(BrokenPipeError):
                asking.sendall(b"GET /report HTTP/1.1\r\n\r\n")
            return 7 if asking.recv(65536) == b"" else 1
    except ConnectionResetError:
        return 7
    except BaseException:
        return 2
