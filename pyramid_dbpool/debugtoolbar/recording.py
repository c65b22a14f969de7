"""What is written down of one request: texts and numbers, and nothing that would be kept alive."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Self, TypeVar

from ..clock import monotonic
from ..pool.labels import current_label
from ..pool.leases import NAMED_FRAMES, is_the_apps, label_text

__all__ = [
    "COMMITTED",
    "FAILED",
    "LEFT",
    "LOST",
    "PREPARED",
    "ROLLED_BACK",
    "UNKNOWN",
    "Checkout",
    "Place",
    "RecordedBody",
    "Recording",
    "Transaction",
    "edge",
    "places",
]

# How a transaction ends; the template has a colour for each.
COMMITTED, ROLLED_BACK, UNKNOWN = "committed", "rolled back", "commit unknown"
FAILED, LOST, PREPARED, LEFT = "commit failed", "lost", "prepared", "left open"

F = TypeVar("F", bound=Callable[..., Any])

_current: ContextVar[Recording | None] = ContextVar("dbpool_recording", default=None)

# Where the app's code is called by a server, or by what stands between: a frame of one of these,
# and those around it, say nothing of the app.
_edges: set[CodeType] = set()


def edge(function: F) -> F:
    """Have places end at a function: who calls it is none of the app's business."""
    _edges.add(function.__code__)
    return function


@dataclass(frozen=True)
class Place:
    """A function of the app, and a line of it."""

    function: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.function} ({self.file}:{self.line})"

    @property
    def short(self) -> str:
        """The file in its folder, and the line."""
        return f"{'/'.join(Path(self.file).parts[-2:])}:{self.line}"


@dataclass
class Transaction:
    """One transaction on a connection.

    - `begun`, `ended`: by the clock, in seconds; `ended` is None while it is open.
    - `end`: how it ended, such as `COMMITTED`; None while it is open.
    """

    begun: float
    ended: float | None = None
    end: str | None = None


@dataclass
class Checkout:
    """A connection that a request asked for: had, or was refused.

    - `asked`, `taken`, `returned`: by the clock, in seconds; `returned` is None while it is held,
      and where it was refused.
    - `by`: who has taken it: a session of the request's by its name, else the holder's label.
    - `thread`: the name of a thread that is not the request's.
    - `where`, `returned_where`: in the app's code, the innermost function first.
    - `refusal`: what was said in the place of a connection.
    - `statements`: how many were sent.
    - `idle`: for how long it was held and nothing was asked of it, in seconds; `longest_idle`: at
      a stretch; `idle_after`: after the statement that was sent there.
    """

    pool: str
    asked: float
    taken: float | None = None
    returned: float | None = None
    server_pid: int | None = None
    by: str = ""
    thread: str | None = None
    where: tuple[Place, ...] = ()
    returned_where: tuple[Place, ...] = ()
    refusal: str | None = None
    was_detached: bool = False
    statements: int = 0
    idle: float = 0.0
    longest_idle: float = 0.0
    idle_after: Place | None = None
    transactions: list[Transaction] = field(default_factory=list)
    # Whether it is written down with a request.
    is_noted: bool = False
    # Since when nothing is asked of it, by the clock; None: something is.
    _at_rest: float | None = None
    # Where the last statement was sent.
    _asked_in: Place | None = None

    def waited(self, now: float) -> float:
        """Say for how long it was waited for, in seconds."""
        return (now if self.taken is None else self.taken) - self.asked

    def held(self, now: float) -> float:
        """Say for how long it was held, in seconds."""
        if self.taken is None or self.refusal is not None:
            return 0.0
        return (now if self.returned is None else self.returned) - self.taken

    def is_taken(self) -> None:
        """Note that the connection is there."""
        self.taken = self._at_rest = monotonic()

    def is_returned(self, where: tuple[Place, ...] = ()) -> None:
        """Note that it was given back."""
        self.is_asked()
        self.returned, self.returned_where = monotonic(), where

    def is_asked(self) -> None:
        """Note that something is asked of it."""
        if self._at_rest is not None:
            idle, self._at_rest = monotonic() - self._at_rest, None
            self.idle += idle
            if idle > self.longest_idle:
                self.longest_idle, self.idle_after = idle, self._asked_in

    def is_sent(self, where: tuple[Place, ...]) -> None:
        """Note that a statement is sent."""
        self.is_asked()
        self.statements += 1
        self._asked_in = where[0] if where else None

    def is_answered(self) -> None:
        """Note that it has answered, or failed to."""
        self._at_rest = monotonic()

    def begin(self) -> None:
        """Note that a transaction begins."""
        self.transactions.append(Transaction(monotonic()))

    def end(self, how: str) -> None:
        """Note how the transaction ends, unless that is known."""
        if self.transactions and self.transactions[-1].end is None:
            self.transactions[-1].ended, self.transactions[-1].end = monotonic(), how

    def end_otherwise(self, how: str) -> None:
        """Note that the end that was noted has failed."""
        if self.transactions and self.transactions[-1].end is not None:
            self.transactions[-1].ended, self.transactions[-1].end = monotonic(), how


class Recording:
    """What one attempt at a request has done with the pools.

    :ivar number: which attempt this is; the first is 1.
    :ivar attempts: all attempts at the request, this one included; those that follow come later.
    :ivar error: what the attempt has ended in, in words; None: in an answer.
    :ivar is_of_database: whether that is the database's, or a pool's.
    :ivar pools: the state of each pool at the end.
    """

    def __init__(self, attempts: list[Recording]) -> None:
        attempts.append(self)
        self.attempts, self.number = attempts, len(attempts)
        self.checkouts: list[Checkout] = []
        self.sessions: list[str] = []
        self.pools: list[dict[str, Any]] = []
        self.error: str | None = None
        self.is_of_database = False
        self.began = monotonic()
        self.ended: float | None = None
        self._thread = threading.get_ident()
        self._outer: Recording | None = None

    @staticmethod
    def current() -> Recording | None:
        """Return that of the request which is at work here."""
        return _current.get()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Write down what is done here with this request."""
        former = _current.get()
        if former is not self:
            # A request in a request: the one around it waits for it, and pays for it.
            self._outer = former
        _current.set(self)
        try:
            yield
        finally:
            # By no token: a body may be closed in another context than it was begun in.
            if _current.get() is self:
                _current.set(former)

    def note(self, checkout: Checkout, frame: FrameType) -> None:
        """Write a checkout down, as made by `frame` and those that called it."""
        checkout.is_noted = True
        checkout.where = places(frame)
        checkout.by = label_text(current_label())
        each: Recording | None = self
        while each is not None:
            if threading.get_ident() != each._thread:
                checkout.thread = threading.current_thread().name
            each.checkouts.append(checkout)
            each = each._outer

    @property
    def seconds(self) -> float:
        """For how long the request was at work until it was answered, in seconds."""
        return (monotonic() if self.ended is None else self.ended) - self.began


def places(frame: FrameType | None) -> tuple[Place, ...]:
    """Say where in the app's code a frame is, the innermost function first."""
    found: list[Place] = []
    while frame is not None and frame.f_code not in _edges and len(found) < NAMED_FRAMES:
        if is_the_apps(frame):
            code = frame.f_code
            found.append(Place(code.co_qualname, code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return tuple(found)


class RecordedBody:
    """The body of an answer, which is a part of its request although that is over."""

    def __init__(self, body: Iterable[bytes], recording: Recording) -> None:
        self._body, self._recording = body, recording
        self._chunks: Iterator[bytes] | None = None

    def __iter__(self) -> Self:
        return self

    @edge
    def __next__(self) -> bytes:
        with self._recording.at_work():
            if self._chunks is None:
                self._chunks = iter(self._body)
            return next(self._chunks)

    @edge
    def close(self) -> None:
        """Close the body, if it can be."""
        close = getattr(self._body, "close", None)
        if close is not None:
            with self._recording.at_work():
                close()
