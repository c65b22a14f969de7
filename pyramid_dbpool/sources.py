"""Where a worker's messages come from, and what tells it to stop; knows no database."""

import contextlib
import logging
import queue
import signal
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import FrameType
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

__all__ = ["Event", "MessageName", "Stop", "SupportsGet", "messages_of", "stop_signal"]

log = logging.getLogger(__name__)

M = TypeVar("M")
R = TypeVar("R")
M_co = TypeVar("M_co", covariant=True)

# Not just anything: an attribute of a message may be its content, or another object.
IDENTITY_TYPES = (str, int, bytes, uuid.UUID)

SLICE = 0.25  # seconds: how long a wait may go on after the stop


class SupportsGet(Protocol[M_co]):
    """A queue: `queue.Queue`, multiprocessing's, gevent's, kombu's `SimpleQueue`."""

    def get(self, *, timeout: float) -> M_co:
        """Return a message, or raise `queue.Empty` after `timeout` seconds."""
        ...


@runtime_checkable
class Event(Protocol):
    """What ends a worker: `threading.Event`, multiprocessing's, gevent's."""

    def is_set(self) -> bool:
        """Tell whether it is time to stop."""
        ...

    def wait(self, timeout: float | None = None, /) -> object:
        """Return when it is time to stop, at the latest after `timeout` seconds."""
        ...


class Stop:
    """The caller's event and SIGTERM in one.

    The signal sets a plain attribute and takes no lock: a handler that called `Event.set` would
    wait for ever where it interrupted its own thread inside `Event.wait`. Waits look at the
    attribute every `SLICE` seconds.
    """

    def __init__(self, event: Event | None = None) -> None:
        self._event = event
        self.signalled = False

    def is_set(self) -> bool:
        """Tell whether it is time to stop."""
        return self.signalled or (self._event is not None and self._event.is_set())

    def wait(self, seconds: float) -> bool:
        """Wait so long or until it is time to stop; return whether it is."""
        end = time.monotonic() + seconds
        while not self.is_set() and (left := end - time.monotonic()) > 0:
            if self._event is None:
                time.sleep(min(left, SLICE))
            else:
                self._event.wait(min(left, SLICE))
        return self.is_set()


@contextlib.contextmanager
def stop_signal(stop: Stop, number: signal.Signals = signal.SIGTERM) -> Iterator[None]:
    """Set `stop` on a signal, and give the signal back to its former handler at the end.

    :raises ValueError: outside the main thread.
    """

    def note(number: int, frame: FrameType | None) -> None:
        stop.signalled = True

    try:
        former = signal.signal(number, note)
    except ValueError as error:
        raise ValueError(
            "stop_on_sigterm works in the main thread only; elsewhere pass stop=threading.Event()"
            " and set it from the program's own signal handler."
        ) from error
    try:
        yield
    finally:
        # None stands for a handler that was not installed from Python: it cannot be put back.
        signal.signal(number, signal.SIG_DFL if former is None else former)


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
        # A daemon: an iterator that never returns must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="dbpool-messages", daemon=True)
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


@dataclass(frozen=True)
class MessageName(Generic[M]):
    """What a log line calls a message; never its content, which may be secret."""

    message: M
    number: int
    identify: Callable[[M], object] | None

    def __str__(self) -> str:
        return self._text

    @cached_property
    def _text(self) -> str:
        # Once for all log lines: an `identify` that fails warns once a message.
        try:
            found = (self.identify or _find_identity)(self.message)
        except Exception as error:
            found = None
            log.warning("message #%d cannot be identified: %s", self.number, type(error).__name__)
        if found is None:
            return f"message #{self.number}"
        text = found.decode(errors="replace") if isinstance(found, bytes) else str(found)
        # As a literal: a line break in it must not look like another line of the log.
        return f"message {text[:100]!r}"


def _find_identity(message: Any) -> object:
    properties = getattr(message, "properties", None)
    candidates = (
        getattr(message, "message_id", None),
        getattr(message, "id", None),
        properties.get("message_id") if isinstance(properties, Mapping) else None,
        getattr(message, "delivery_tag", None),
        message.get("id") if isinstance(message, Mapping) else None,
    )
    return next((found for found in candidates if isinstance(found, IDENTITY_TYPES)), None)
