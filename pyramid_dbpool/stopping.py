"""What tells the process, or the work in hand, that it is time to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from types import FrameType
from typing import Protocol, runtime_checkable

from .clock import monotonic, sleep

__all__ = [
    "SLICE",
    "Event",
    "Stop",
    "current_stopped",
    "noting_sigterm",
    "stop_signal",
    "stoppable",
]

SLICE = 0.25  # seconds: how long a wait may go on after the stop

_stopped: ContextVar[Callable[[], bool] | None] = ContextVar("dbpool_stopped", default=None)

# A bound method: it is read on every wait.
current_stopped = _stopped.get


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
        end = monotonic() + seconds
        while not self.is_set() and (left := end - monotonic()) > 0:
            if self._event is None:
                sleep(min(left, SLICE))
            else:
                self._event.wait(min(left, SLICE))
        return self.is_set()


@contextmanager
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


@contextmanager
def noting_sigterm() -> Iterator[Stop]:
    """Yield what is set when SIGTERM comes and its handler goes on, as that of gunicorn's workers.

    Such a handler makes a note for the server's loop, which is not reached before the wait for
    the database is over. A process without a handler ends at once by itself.
    """
    stop, handler = Stop(), signal.getsignal(signal.SIGTERM)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, frame: FrameType | None) -> None:
        stop.signalled = True
        handler(number, frame)

    signal.signal(signal.SIGTERM, note)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, handler)


class stoppable:  # as `contextlib.suppress`; a class, since each message enters one
    """Let waits for a connection inside the block end soon after `stopped()` becomes true."""

    __slots__ = ("_stopped", "_token")

    _token: Token[Callable[[], bool] | None]

    def __init__(self, stopped: Callable[[], bool]) -> None:
        self._stopped = stopped

    def __enter__(self) -> None:
        self._token = _stopped.set(self._stopped)

    def __exit__(self, *_: object) -> None:
        _stopped.reset(self._token)
