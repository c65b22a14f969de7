"""Processes of real servers answer, whatever they fork, and leave nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pyramid_dbpool.embedded import free_port
from pyramid_dbpool.telemetry.host import RunDirError, ask
from tests.support.makers import in_thread, wait_for

pytestmark = [pytest.mark.programs, pytest.mark.slow]

GUNICORN = [sys.executable, "-m", "gunicorn", "tests.support.asked_app:application"]
UWSGI = [
    str(Path(sys.executable).with_name("uwsgi")),
    *("--wsgi", "tests.support.asked_app", "--die-on-term", "--processes", "2"),
]
WORKERS = {
    "sync": ["-k", "sync"],
    "gthread": ["-k", "gthread", "--threads", "2"],
    "gevent": ["-k", "gevent"],
}


class Server:
    """A WSGI server of two workers, and where its processes answer."""

    def __init__(self, folder: Path, *program: str) -> None:
        self.run_dir = folder / "run"
        self.port = free_port()
        self.log = folder / "server.log"
        bound = "--http-socket" if "uwsgi" in program[0] else "--bind"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*program, bound, f"127.0.0.1:{self.port}"],
                stdout=log,
                stderr=log,
                env={**os.environ, "RUN_DIR": str(self.run_dir), "PYTHONPATH": os.getcwd()},
                start_new_session=True,
            )

    def get(self, path: str = "/") -> int:
        """Return the process that has answered a request."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=70) as answer:
            return int(json.load(answer)["pid"])

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait, and show the log if that is in vain."""

        def holds() -> object:
            assert self.process.poll() is None, self.log.read_text()
            with suppress(OSError, RunDirError):
                return condition()
            return False

        try:
            wait_for(holds)
        except AssertionError:
            raise AssertionError(self.log.read_text(), self.answers()) from None

    def workers(self) -> set[int]:
        """List the children of the master."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return {int(each) for each in children}

    def answers(self) -> dict[int, Any]:
        """Ask all processes; the report of each, or why there is none."""
        return {each.pid: each.report or each.silent for each in ask(str(self.run_dir))}

    def reporting(self) -> set[int]:
        """List the processes that answer."""
        return {pid for pid, said in self.answers().items() if isinstance(said, dict)}

    def stop(self) -> None:
        """End it and its workers."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextmanager
def serving(folder: Path, *program: str) -> Iterator[Server]:
    """Run a server."""
    server = Server(folder, *program)
    try:
        yield server
    finally:
        server.stop()


@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
@pytest.mark.parametrize("kind", WORKERS)
def test_all_workers_of_gunicorn_answer(tmp_path: Path, kind: str, preload: bool) -> None:
    """Before their first request; also those that take the place of killed ones."""
    options = [*WORKERS[kind], "--workers", "2", *(["--preload"] if preload else [])]
    with serving(tmp_path, *GUNICORN, *options) as server:
        server.wait_until(lambda: len(server.workers()) == 2)
        server.wait_until(lambda: server.workers() <= server.reporting())
        assert (server.process.pid in server.reporting()) == preload
        assert server.get() in server.workers()
        killed = server.workers()
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        server.wait_until(lambda: not server.workers() & killed and len(server.workers()) == 2)
        server.wait_until(lambda: server.workers() <= server.reporting())
        in_thread(lambda: suppressed(server.get, "/slow"))
        server.wait_until(lambda: "hold (" in stacks(server))
        server.wait_until(lambda: set(server.answers()) == server.reporting())
        for pid in server.workers():
            os.kill(pid, signal.SIGKILL)
    assert not ask(str(server.run_dir))
    assert list(server.run_dir.iterdir()) == []
    assert "Traceback" not in server.log.read_text()


def suppressed(call: Callable[..., object], *arguments: object) -> None:
    """Call something that may be killed meanwhile."""
    with suppress(OSError):
        call(*arguments)


def stacks(server: Server) -> str:
    """Return all that is said of where holders are."""
    return "\n".join(
        place
        for report in server.answers().values()
        if isinstance(report, dict)
        for pool in report["pools"]
        for holder in pool["holders"]
        for place in holder["stack"]
    )


@pytest.mark.parametrize("threads", [[], ["--enable-threads", "--threads", "2"]])
@pytest.mark.parametrize("how", ["lazy", "master", "no-master"])
def test_uwsgis_workers_answer(tmp_path: Path, how: str, threads: list[str]) -> None:
    """From their first use of an engine on; its master must have no thread, and has no socket."""
    options = {"lazy": ["--master", "--lazy-apps"], "master": ["--master"], "no-master": []}[how]
    with serving(tmp_path, *UWSGI, *threads, *options) as server:
        served: set[int] = set()

        def all_served() -> bool:
            served.add(server.get())
            return served <= server.reporting() and len(served) > (how != "no-master")

        server.wait_until(all_served)
        if how != "no-master":
            assert server.reporting() <= server.workers()
        if how == "lazy":
            # uWSGI forgets to end a worker that is being loaded.
            server.wait_until(lambda: server.reporting() == server.workers())
    wait_for(lambda: not ask(str(server.run_dir)))


CELERY = """
import os, sys, time
from celery import Celery, signals
from pyramid_dbpool import get_engine
settings = {"sqlalchemy.url": "sqlite://", "sqlalchemy.poolclass": "pyramid_dbpool.ManagedPool",
            "dbpool.run_dir": sys.argv[1]}
if sys.argv[2] == "parent":
    get_engine(settings)
app = Celery("asked", broker="memory://")
app.conf.update(worker_hijack_root_logger=False, worker_redirect_stdouts=False)
signals.worker_process_init.connect(lambda **_: get_engine(settings), weak=False)
app.Worker(pool="prefork", concurrency=2, loglevel="ERROR", quiet=True).start()
"""


@pytest.mark.parametrize("maker", ["parent", "children"])
def test_celerys_children_answer(tmp_path: Path, maker: str) -> None:
    """Whoever made the engine; children that end by `os._exit` are dead to whoever looks."""
    run_dir = tmp_path / "run"
    program = [sys.executable, "-c", CELERY, str(run_dir), maker]
    worker = subprocess.Popen(program, stderr=subprocess.PIPE, text=True)

    def reporting() -> int:
        assert worker.poll() is None
        with suppress(RunDirError):
            return sum(each.report is not None for each in ask(str(run_dir)))
        return 0

    try:
        wait_for(lambda: reporting() == (3 if maker == "parent" else 2))
        worker.send_signal(signal.SIGTERM)
        worker.wait(30)
    finally:
        worker.kill()
        worker.communicate()
    wait_for(lambda: ask(str(run_dir)) == [])
    assert list(run_dir.iterdir()) == []


CONSUME = """
import queue, sys
from pyramid_dbpool import consume
settings = {"sqlalchemy.url": "sqlite://", "dbpool.run_dir": sys.argv[1]}
consume(queue.Queue(), lambda session, message: None, settings, stop_on_sigterm=True)
"""


def test_a_loop_of_messages_answers(tmp_path: Path) -> None:
    """Also while there is none; and is gone after SIGTERM."""
    run_dir = tmp_path / "run"
    loop = subprocess.Popen([sys.executable, "-c", CONSUME, str(run_dir)])

    def role() -> str:
        with suppress(RunDirError):
            return "".join(each.report["role"] for each in ask(str(run_dir)) if each.report)
        return ""

    try:
        wait_for(lambda: role() == "worker")
        # By now it minds SIGTERM, too.
        time.sleep(0.5)
        loop.terminate()
        assert loop.wait(30) == 0
    finally:
        loop.kill()
        loop.wait()
    assert list(run_dir.iterdir()) == []
