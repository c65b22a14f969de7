"""How `consume` ends at SIGTERM."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from pyramid_dbpool.stopping import Stop, stop_signal
from tests.support.workers import Worker


@pytest.fixture
def worker(sqlite_url: str) -> Worker:
    """Give a worker; the database does not matter here."""
    return Worker(sqlite_url)


@pytest.mark.parametrize("raising", [False, True])
def test_the_former_handler_of_sigterm_comes_back(worker: Worker, raising: bool) -> None:
    """However the loop ends."""
    former = signal.getsignal(signal.SIGTERM)
    during = []

    def handle(message: str, session: Session) -> None:
        during.append(signal.getsignal(signal.SIGTERM))
        if raising:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) if raising else contextlib.nullcontext():
        worker.run("a", handle, stop_on_sigterm=True)
    assert during != [former]
    assert signal.getsignal(signal.SIGTERM) is former


def test_sigterm_needs_no_lock() -> None:
    """It interrupts the very lock that a handler calling `Event.set` would wait for."""
    event = threading.Event()
    stop = Stop(event)
    with stop_signal(stop), event._cond:  # type: ignore[attr-defined]
        os.kill(os.getpid(), signal.SIGTERM)
        # Python runs the handler before it goes on here, in this thread.
        assert stop.signalled
    assert not event.is_set()


def test_a_storm_of_sigterms_ends_the_loop_once(worker: Worker) -> None:
    """They come while the loop waits on the caller's own event and in the queue's lock."""
    done = threading.Event()

    def storm() -> None:
        while not done.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
            done.wait(0.001)

    with stop_signal(Stop()):
        thread = threading.Thread(target=storm)
        thread.start()
        for _ in range(5):
            worker.run(queue.Queue(), stop=threading.Event(), stop_on_sigterm=True)
        done.set()
        thread.join()
    assert worker.acked == []


class Process:
    """A worker in a process of its own."""

    def __init__(self, kind: str, url: str, file: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.worker_script", kind, url, str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def read_until(self, said: str) -> list[str]:
        """Read lines until one says so."""
        assert self.process.stdout
        lines = []
        for line in self.process.stdout:
            lines.append(line.strip())
            if lines[-1] == said:
                return lines
        raise AssertionError(f"the worker ended without saying {said!r}: {lines}")

    def say(self) -> None:
        """Send a line."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["queue", "iterator", "gevent-queue", "gevent-iterator", "gevent-iterator-event"]
)
def test_a_worker_process_stops_while_it_waits(kind: str, worker: Worker, tmp_path: Path) -> None:
    """At SIGTERM, or at its event, also under gevent; it ends in order.

    How soon, the tests of threads say: a process alone takes seconds to end on a busy machine.
    """
    file = tmp_path / "stop"
    with Process(kind, worker.settings["sqlalchemy.url"], file) as process:
        assert "acked a" in process.read_until("waiting")
        if "event" in kind.split("-"):
            file.touch()
        else:
            process.process.terminate()
        process.read_until("ended")
        assert process.process.wait(30) == 0


@pytest.mark.programs
def test_a_worker_process_finishes_its_message_after_sigterm(
    worker: Worker, tmp_path: Path
) -> None:
    """The signal comes in the middle of the handler."""
    with Process("busy-queue", worker.settings["sqlalchemy.url"], tmp_path) as process:
        process.read_until("waiting")
        process.process.terminate()
        process.say()
        assert process.read_until("ended") == ["acked a", "ended"]
        assert process.process.wait(30) == 0


def test_a_handler_that_is_not_pythons_becomes_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It cannot be put back; a signal that does nothing any more would be worse."""
    given: list[Any] = []
    monkeypatch.setattr(signal, "signal", lambda number, handler: given.append(handler))
    with stop_signal(Stop()):
        pass
    assert given[-1] is signal.SIG_DFL
