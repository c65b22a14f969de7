"""Where `consume` takes messages from, and how it stops."""

import contextlib
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent.queue
import kombu
import pytest
from kombu.exceptions import DecodeError
from sqlalchemy.orm import Session

from pyramid_dbpool import sources
from pyramid_dbpool.sources import Stop, messages_of, stop_signal
from tests.workers import Worker, ended_within, store

SCRIPT = Path(__file__).with_name("worker_script.py")


@pytest.fixture
def worker(sqlite_url: str) -> Worker:
    """Give a worker; the database does not matter here."""
    return Worker(sqlite_url)


class Watched:
    """A queue that tells when it is asked for a message while it has none."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.asked = threading.Event()

    def get(self, *, timeout: float) -> Any:
        """Pass on to the real queue."""
        try:
            return self.real.get(timeout=timeout)
        except queue.Empty:
            self.asked.set()
            raise


QUEUES: dict[str, Callable[[], Any]] = {
    "queue": queue.Queue,
    "multiprocessing": multiprocessing.Queue,
    "gevent": gevent.queue.Queue,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", QUEUES)
def test_a_stop_ends_the_wait_for_a_queue(worker: Worker, kind: str) -> None:
    """Within a second, with nothing in the queue; what was in it is done."""
    watched, stop = Watched(QUEUES[kind]()), threading.Event()
    watched.real.put("a")
    thread = worker.start(watched, stop=stop)
    assert watched.asked.wait(30)
    stop.set()
    assert ended_within(thread, 1)
    assert worker.acked == ["a"]
    if kind == "multiprocessing":
        watched.real.close()
        watched.real.join_thread()


@pytest.mark.slow
def test_a_stop_ends_the_wait_for_an_iterator_that_blocks(worker: Worker) -> None:
    """What it delivers afterwards is not handled, so not acknowledged."""
    asked, deliver, delivered = threading.Event(), threading.Event(), threading.Event()

    def blocking() -> Iterator[str]:
        yield "a"
        asked.set()
        deliver.wait(30)
        delivered.set()
        yield "late"

    stop = threading.Event()
    thread = worker.start(blocking(), stop=stop)
    assert asked.wait(30)
    stop.set()
    assert ended_within(thread, 1)
    deliver.set()
    assert delivered.wait(30)
    pump_ends()
    assert worker.acked == worker.stored() == ["a"]


def pumps() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "dbpool-messages"]


def pump_ends() -> None:
    for thread in pumps():
        thread.join(30)
    assert not pumps()


@pytest.mark.slow
def test_a_stop_ends_an_idle_iterator(worker: Worker) -> None:
    """None means that there is nothing yet."""
    stop, idle = threading.Event(), threading.Event()

    def idling() -> Iterator[str | None]:
        yield "a"
        while True:
            idle.set()
            time.sleep(0.01)
            yield None

    thread = worker.start(idling(), stop=stop)
    assert idle.wait(30)
    stop.set()
    assert ended_within(thread, 1)
    assert worker.acked == ["a"]
    assert not pumps()


def test_a_stop_waits_for_the_message_in_hand(worker: Worker) -> None:
    """It is handled and acknowledged; the next one is not begun."""
    stop = threading.Event()

    def handle(message: str, session: Session) -> None:
        stop.set()
        store(message, session)

    worker.run(iter("ab"), handle, stop=stop)
    assert worker.acked == worker.stored() == ["a"]


def test_after_the_stop_no_message_is_taken(worker: Worker) -> None:
    """Not even the first."""
    stop = threading.Event()
    stop.set()
    work: queue.Queue[str] = queue.Queue()
    work.put("a")
    worker.run(work, stop=stop)
    left = iter("ab")
    worker.run(left, stop=stop)
    assert (work.qsize(), list(left), worker.acked) == (1, ["a", "b"], [])


def test_a_message_that_comes_with_the_stop_is_handled() -> None:
    """It has been taken from the source: dropping it would lose it."""
    pump = sources._Pump(iter("ab"))

    class StopWithMessage(threading.Event):
        def is_set(self) -> bool:
            while pump._pending and not pump._replies.qsize():
                pass
            return True

    with contextlib.closing(pump):
        assert pump.next(Stop(StopWithMessage())) == "a"


@pytest.mark.parametrize("make_stop", [lambda: None, threading.Event])
@pytest.mark.parametrize("several", [list, iter, lambda text: (each for each in text)])
def test_an_iterable_is_handled_to_its_end(
    worker: Worker, several: Callable[[str], Any], make_stop: Callable[[], threading.Event | None]
) -> None:
    """Then `consume` returns, and no thread of it is left."""
    worker.run(several("abc"), stop=make_stop())
    assert worker.acked == ["a", "b", "c"]
    assert not pumps()


def test_idle_iterators_may_yield_none(worker: Worker) -> None:
    """None is no message."""
    worker.run(["a", None, "b"])
    assert worker.acked == ["a", "b"]


def test_a_queue_may_hold_none(worker: Worker) -> None:
    """There None is what somebody put in."""
    work: queue.Queue[Any] = queue.Queue()
    for each in (None, "end"):
        work.put(each)
    stop = threading.Event()
    worker.run(work, stop=stop, ack=lambda message: message and stop.set())
    assert worker.stored() == ["None", "end"]


def test_a_gevent_queue_that_says_stop_iteration_ends_the_loop(worker: Worker) -> None:
    """As iterating over it does."""
    work = gevent.queue.Queue()
    for each in ("a", StopIteration, "b"):
        work.put(each)
    worker.run(work)
    assert worker.acked == ["a"]


def test_a_queue_that_is_shut_down_ends_the_loop(worker: Worker) -> None:
    """After its last message."""
    work: Any = gevent.queue.Queue() if sys.version_info < (3, 13) else queue.Queue()
    work.put("a")
    work.shutdown()
    worker.run(work)
    assert worker.acked == ["a"]


@pytest.mark.parametrize("make_stop", [lambda: None, threading.Event])
@pytest.mark.parametrize("kind", [ConnectionResetError, queue.Empty])
def test_an_error_of_the_source_is_raised(
    worker: Worker, kind: type[Exception], make_stop: Callable[[], threading.Event | None]
) -> None:
    """It concerns no message. An iterator's queue.Empty is one too: it is at its end."""

    def failing() -> Iterator[str]:
        yield "a"
        raise kind

    with pytest.raises(kind):
        worker.run(failing(), stop=make_stop())
    assert (worker.acked, worker.failed) == (["a"], [])
    assert not pumps()


def test_an_error_of_a_queue_is_raised(worker: Worker) -> None:
    """Here, of one that is closed."""
    work: multiprocessing.Queue[str] = multiprocessing.Queue()
    work.close()
    with pytest.raises(ValueError, match="closed"):
        worker.run(work)


def test_the_iterator_runs_in_the_callers_thread_where_it_can(worker: Worker) -> None:
    """Without a stop no thread is started."""
    threads = []

    def noting() -> Iterator[str]:
        threads.append(threading.current_thread())
        yield "a"

    worker.run(noting())
    assert threads == [threading.current_thread()]


def test_the_iterator_never_runs_beside_the_handler(worker: Worker) -> None:
    """A broker's connection is no place for two threads at once."""
    at_work = threading.Lock()
    overlaps = []

    def alone() -> Iterator[str]:
        for each in "abc":
            with contextlib.ExitStack() as stack:
                overlaps.append(not at_work.acquire(blocking=False))
                stack.callback(at_work.release)
            yield each

    def handle(message: str, session: Session) -> None:
        with at_work:
            store(message, session)
            # Time for a source that does not wait until it is asked.
            threading.Event().wait(0.05)

    worker.run(alone(), handle, stop=threading.Event())
    assert (worker.acked, any(overlaps)) == (["a", "b", "c"], False)


def test_an_interrupt_in_the_handler_ends_the_thread_too(worker: Worker) -> None:
    """Nothing of `consume` outlives it."""

    def handle(message: str, session: Session) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        worker.run(iter("ab"), handle, stop=threading.Event())
    assert not pumps(), f"kept alive by {caught.tb}"


# SIGTERM


def test_sigterm_is_for_the_main_thread(worker: Worker) -> None:
    """Elsewhere Python cannot take signals; the error says what to do instead."""
    said: list[str] = []

    def run() -> None:
        try:
            worker.run("a", stop_on_sigterm=True)
        except ValueError as error:
            said.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "main thread only" in said[0]
    assert "stop=threading.Event()" in said[0]
    assert worker.acked == []


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
            [sys.executable, str(SCRIPT), kind, url, str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(SCRIPT.parent.parent)},
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
    """Within a second of SIGTERM, or of its event, also under gevent; it ends in order."""
    file = tmp_path / "stop"
    with Process(kind, worker.settings["sqlalchemy.url"], file) as process:
        assert "acked a" in process.read_until("waiting")
        begun = time.monotonic()
        if "event" in kind.split("-"):
            file.touch()
        else:
            process.process.terminate()
        process.read_until("ended")
        assert time.monotonic() - begun < 1.5
        assert process.process.wait(30) == 0


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


# kombu


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[kombu.Connection]:
    """Give a broker in a folder.

    Each test has a queue of its own: kombu remembers bindings for all connections of a process.
    Messages of the same millisecond may come in any order.
    """
    folders = {
        "data_folder_in": str(tmp_path / "data"),
        "data_folder_out": str(tmp_path / "data"),
        "control_folder": str(tmp_path / "control"),
    }
    (tmp_path / "data").mkdir()
    options = {**folders, "store_processed": False, "polling_interval": 0.05}
    with kombu.Connection("filesystem://", transport_options=options) as connection:
        yield connection


def test_a_kombu_queue_is_a_source(broker: kombu.Connection, worker: Worker) -> None:
    """Its messages are decoded already, and are acknowledged by themselves."""
    stop = threading.Event()

    def handle(message: kombu.Message, session: Session) -> None:
        store(message.payload["name"], session)

    def ack(message: kombu.Message) -> None:
        message.ack()
        worker.acked.append(message.payload["name"])
        if len(worker.acked) == 2:
            stop.set()

    with contextlib.closing(broker.SimpleQueue("worker_sources")) as notes:
        notes.put({"name": "a"})
        notes.put({"name": "b"})
        worker.run(notes, handle, ack=ack, stop=stop)
        assert notes.qsize() == 0
    assert sorted(worker.stored()) == ["a", "b"]


def test_a_kombu_consumer_is_a_source(broker: kombu.Connection, worker: Worker) -> None:
    """It hands its messages over undecoded, so one that cannot be decoded stops nothing."""
    stop, settled = threading.Event(), []

    def drained() -> Iterator[kombu.Message | None]:
        got: list[kombu.Message] = []
        with broker.Consumer(kombu.Queue("letters"), on_message=got.append, auto_declare=False):
            while True:
                with contextlib.suppress(TimeoutError):
                    broker.drain_events(timeout=0.05)
                yield got.pop(0) if got else None

    def handle(message: kombu.Message, session: Session) -> None:
        store(message.decode()["name"], session)

    def settle(message: kombu.Message) -> None:
        settled.append(message.body)
        if len(settled) == 3:
            stop.set()

    def ack(message: kombu.Message) -> None:
        message.ack()
        settle(message)

    def on_error(message: kombu.Message, error: Exception) -> None:
        assert isinstance(error, DecodeError)
        message.reject()
        worker.failed.append((message.body, error))
        settle(message)

    with contextlib.closing(broker.SimpleQueue("letters")) as letters:
        letters.put({"name": "a"})
        kinds = {"content_type": "application/json", "content_encoding": "utf-8"}
        letters.producer.publish("{not json", **kinds)
        letters.put({"name": "b"})
    worker.run(drained(), handle, ack=ack, on_error=on_error, stop=stop)
    assert sorted(worker.stored()) == ["a", "b"]
    assert [body for body, _ in worker.failed] == [b"{not json"]


def test_what_is_no_source_is_refused() -> None:
    """At once, not at the first message."""
    with pytest.raises(TypeError, match="has to be iterable"):
        messages_of(3, None)  # type: ignore[arg-type]
