"""Where `consume` takes messages from."""

import contextlib
import multiprocessing
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import gevent.queue
import kombu
import pytest
from kombu.exceptions import DecodeError
from sqlalchemy.orm import Session

from tests.support.workers import Worker, pumps, store


@pytest.fixture
def worker(sqlite_url: str) -> Worker:
    """Give a worker; the database does not matter here."""
    return Worker(sqlite_url)


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
@pytest.mark.parametrize("kind", [ConnectionResetError, queue.Empty, SystemExit])
def test_an_error_of_the_source_is_raised(
    worker: Worker, kind: type[BaseException], make_stop: Callable[[], threading.Event | None]
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


def test_an_iterator_is_asked_where_an_app_has_replaced_threads(worker: Worker) -> None:
    """Nobody would ever answer from a thread that is a mock."""
    with mock.patch("threading.Thread"):
        worker.run(iter("ab"), stop=threading.Event())
    assert worker.acked == ["a", "b"]
    assert not pumps()


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


def test_a_mapping_is_no_queue(worker: Worker) -> None:
    """Its `get` is for something else; one iterates over it, as over any iterable."""
    worker.run({"a": 1, "b": 2})
    assert worker.acked == ["a", "b"]
