"""Where a worker's messages come from: a queue or an iterator, asked until it is time to stop."""

import contextlib
import queue
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Generic, Protocol, TypeVar

from ..pool.housekeeper import new_thread
from ..stopping import SLICE, Stop

__all__ = ["SupportsGet", "messages_of"]

M = TypeVar("M")
R = TypeVar("R")
M_co = TypeVar("M_co", covariant=True)


class SupportsGet(Protocol[M_co]):
    """A queue: `queue.Queue`, multiprocessing's, gevent's, kombu's `SimpleQueue`."""

    def get(self, *, timeout: float) -> M_co:
        """Return a message, or raise `queue.Empty` after `timeout` seconds."""
        ...


def messages_of(
    source: SupportsGet[M] | Iterable[M | None], stop: Stop | None
) -> Generator[M, None, None]:
    """Return a generator that asks `source` for a message only when it is asked for one.

    It ends where the source does, or at `stop`.

    :raises TypeError: `source` is no source of messages.
    """
    if callable(get := getattr(source, "get", None)) and not isinstance(source, Mapping):
        return _from_queue(get, stop or Stop())
    if not isinstance(source, Iterable):
        raise TypeError(
            f"messages is {type(source).__name__}; it has to be iterable, or to have"
            " get(timeout=)."
        )
    iterator = iter(source)
    return _from_iterator(iterator) if stop is None else _from_pump(_Pump(iterator), stop)


def _from_queue(get: Callable[..., M], stop: Stop) -> Generator[M, None, None]:
    while not stop.is_set():
        try:
            message = get(timeout=SLICE)
        except queue.Empty:
            continue
        except Exception as error:
            # Python 3.13 has queue.ShutDown, gevent one of its own.
            if type(error).__name__ == "ShutDown":
                return
            raise
        if message is StopIteration:
            return  # how gevent's queues say that no more will come
        yield message


def _from_iterator(iterator: Iterator[M | None]) -> Generator[M, None, None]:
    for message in iterator:
        if message is not None:
            yield message


def _from_pump(pump: "_Pump[M]", stop: Stop) -> Generator[M, None, None]:
    with contextlib.closing(pump):
        while not stop.is_set():
            try:
                message = pump.next(stop)
            except StopIteration:
                return
            if message is not None:
                yield message


class _Pump(Generic[M]):
    """Calls `next` in a thread of its own, once each time that it is asked to.

    So a worker whose iterator blocks can stop, and the iterator never runs beside the worker's
    handling and acknowledging. Under gevent the thread is a greenlet.
    """

    def __init__(self, iterator: Iterator[M | None]) -> None:
        self._iterator = iterator
        self._asked: queue.Queue[bool] = queue.Queue()
        self._replies: queue.Queue[tuple[M | None, BaseException | None]] = queue.Queue()
        self._pending = False
        self._thread = new_thread(target=self._run, name="dbpool-messages")
        self._thread.start()

    def next(self, stop: Stop) -> M | None:
        """Return the next message; None if it is time to stop before there is one."""
        self._pending = True
        self._asked.put(True)
        message, error = self._reply(stop)
        if error is not None:
            raise error
        return message

    def close(self) -> None:
        """End the thread: now, or when the iterator returns."""
        self._asked.put(False)
        if not self._pending:
            self._thread.join()

    def _reply(self, stop: Stop) -> tuple[M | None, BaseException | None]:
        while not stop.is_set():
            with contextlib.suppress(queue.Empty):
                return self._received(self._replies.get(timeout=SLICE))
        # One that arrived together with the stop is still handled, not lost.
        with contextlib.suppress(queue.Empty):
            return self._received(self._replies.get_nowait())
        return None, None

    def _received(self, reply: R) -> R:
        self._pending = False
        return reply

    def _run(self) -> None:
        while self._asked.get():
            try:
                self._replies.put((next(self._iterator), None))
            except BaseException as error:
                self._replies.put((None, error))
