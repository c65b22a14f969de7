"""How `consume` ends: at its event, and at an interrupt."""

import contextlib
import multiprocessing
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent.queue
import pytest
from sqlalchemy.orm import Session

from pyramid_dbpool.stopping import Stop
from pyramid_dbpool.worker import sources
from tests.support.pool_load import until
from tests.support.workers import Worker, ended_within, pumps, store


@pytest.fixture
def worker(sqlite_url: str) -> Worker:
    """Give a worker; the database does not matter here."""
    return Worker(sqlite_url)


class Watched:
    """A queue that tells when it is asked for a message after it has given its last one."""

    def __init__(self, real: Any, count: int) -> None:
        self.real = real
        self.asked = threading.Event()
        self._left = count

    def get(self, *, timeout: float) -> Any:
        """Pass on to the real queue."""
        if not self._left:
            self.asked.set()
        message = self.real.get(timeout=timeout)
        self._left -= 1
        return message


QUEUES: dict[str, Callable[[], Any]] = {
    "queue": queue.Queue,
    "multiprocessing": multiprocessing.Queue,
    "gevent": gevent.queue.Queue,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", QUEUES)
def test_a_stop_ends_the_wait_for_a_queue(worker: Worker, kind: str) -> None:
    """Within a second, with nothing in the queue; what was in it is done."""
    watched, stop = Watched(QUEUES[kind](), 1), threading.Event()
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
    for thread in pumps():
        thread.join(30)
    assert not pumps()
    assert worker.acked == worker.stored() == ["a"]


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
    # One that was just asked ends when it has answered.
    until(lambda: not pumps(), "no thread is left")


def test_a_stop_waits_for_the_message_in_hand(worker: Worker) -> None:
    """It is handled and acknowledged; the next one is not begun."""
    stop = threading.Event()

    def handle(message: str, session: Session) -> None:
        stop.set()
        store(message, session)

    worker.run(iter("ab"), handle, stop=stop)
    assert worker.acked == worker.stored() == ["a"]


def test_after_the_stop_no_message_is_taken(worker: Worker) -> None:
    """What is in the queue stays there."""
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


def test_an_interrupt_in_the_handler_ends_the_thread_too(worker: Worker) -> None:
    """Nothing of `consume` outlives it."""

    def handle(message: str, session: Session) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        worker.run(iter("ab"), handle, stop=threading.Event())
    assert not pumps(), f"kept alive by {caught.tb}"
