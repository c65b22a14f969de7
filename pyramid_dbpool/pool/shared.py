"""What the parts of a pool share: its lock, its door, its books, its clock, its source.

A part gets this and the parts below it, never the pool.  So each can be driven alone,
with a clock and a source of a test's own.
"""

from __future__ import annotations

import functools
import logging
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from ..drivers.connect_failures import ConnectFailure
from .entry import PooledEntry, Record
from .housekeeper import Task
from .line import Line
from .options import PoolOptions
from .stats import Stats

log = logging.getLogger(__name__)

R = TypeVar("R", bound=Record)


class Source(Protocol[R]):
    """Where a pool's connections come from, and what only their maker knows of them.

    A *record* stands for one connection of the driver; it can be empty, and be used again
    for the next one.  Everything but the questions does I/O, so it is never called with the
    pool's lock held.
    """

    def spelled(self, keyword: str) -> str:
        """Say what a setting is called where the pool was configured, for errors."""

    @property
    def recycle_seconds(self) -> float | None:
        """The age at which a connection is outdated; None: it never is."""

    @property
    def may_look(self) -> bool:
        """Whether a driver's connection has a socket that tells something."""

    def open(self, empty: R | None = None) -> R:
        """Return a record with an open connection, the empty one if there is one."""

    def close(self, record: R) -> None:
        """Close the connection in order."""

    def drop(self, record: R) -> None:
        """Close a connection that is dead."""

    def ping(self, record: R) -> bool:
        """Ask the server; false if the connection is dead.

        :raises NotImplementedError: nobody here knows how to ask.
        """

    def connection(self, record: R) -> Any:
        """Return the driver's connection; None in an empty record."""

    def is_outdated(self, record: R) -> bool:
        """Tell whether the connection is gone or was condemned."""

    def is_received(self, record: R) -> bool:
        """Tell whether a caller has the connection, all of its checkout being done."""

    def tell_return(self, record: R, call: Callable[[], None]) -> None:
        """Have something called when the holder gives the connection back, in his thread."""

    def classify(self, error: BaseException) -> ConnectFailure | None:
        """Say what a failed opening means; None: a fault of the program."""


class Timer(Protocol):
    """Calls functions when they are due; this process's `Housekeeper`."""

    @property
    def runs(self) -> bool:
        """Whether anything is ever called: not where no thread may be started."""

    def call_at(self, due: float, run: Callable[[], object]) -> Task | None:
        """Call `run` at `due`, on the pool's clock; None: it will not, so ask again later."""

    def call_off(self, task: Task) -> None:
        """Forget a task."""


class Door:
    """Where calls wait that come from inside of the pool's lock, until it is left.

    The collector may return a connection anywhere, so also in the middle of what its own
    thread does under the lock, and a signal's handler may use the pool there.  What they change
    is put off until that thread has left the lock: whoever takes it says `with door, lock:`.
    Two, because the lock's own code must be C's: an interrupt that came into a Python method
    between the taking and the giving back would leave it taken for ever.

    :param is_inside: tells whether this thread has the lock, or could not wait for it.
    :param let_in: makes a return.
    """

    __slots__ = ("_let_in", "is_inside", "late")

    def __init__(self, is_inside: Callable[[], bool], let_in: Callable[[Record], object]) -> None:
        self.is_inside = is_inside
        self._let_in = let_in
        self.late: deque[Callable[[], object]] = deque()

    def put_off(self, record: Record) -> None:
        """Have a record returned when this thread has left the lock."""
        self.call_later(functools.partial(self._return, record))

    def call_later(self, call: Callable[[], object]) -> None:
        """Have something called when this thread has left the lock."""
        self.late.append(call)

    def _return(self, record: Record) -> None:
        self._let_in(record)

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, *_error: object) -> None:
        """Let in who waits."""
        if self.late:
            self.let_in()

    def let_in(self) -> None:
        """Make the calls that were put off.

        Inside of the lock still, each of them is put off again.
        """
        mine: deque[Callable[[], object]] = deque()
        try:
            # All of them first: each return comes to the door as it leaves the lock, and would
            # make the next one from within, deeper and deeper.
            with suppress(IndexError):  # another thread took the last one
                while self.late:
                    mine.append(self.late.popleft())
            while mine:
                _make(mine.popleft())
        finally:
            # Interrupted, it leaves them to whoever comes next.
            self.late += mine


def _make(call: Callable[[], object]) -> None:
    try:
        call()
    except Exception:
        # As of a listener of the app's. Whoever happens to leave the lock has nothing to
        # do with it; the collector would have told nobody either.
        log.exception("A connection could not be taken back in order")


@dataclass
class Shared:
    """What the parts of one pool share.

    - `lock`: guards the line, the statistics, the empty records and what is known of openings
      and outages. Held for a few microseconds, never during I/O or a wait, but that for the
      timer's thread to start. Always taken after `door`: `with shared.door, shared.lock:`.
    - `empties`: records whose connection is gone: SQLAlchemy's suite wants the same record to
      come back, and counts it among the returned ones.
    - `sizes`: `pool_size` and `max_overflow` (-1: no limit). Of all this only these ever change:
      with a resize, under the lock, and both at once, for who is killed in a resize, or forked,
      would leave a size with the other's overflow.
    - `timeout`: how long a caller waits, in seconds; None: for ever.
    - `clock`: monotonic, in seconds.
    """

    lock: AbstractContextManager[object]
    door: Door
    line: Line[PooledEntry]
    stats: Stats
    options: PoolOptions
    source: Source[Any]
    clock: Callable[[], float]
    timer: Timer
    sizes: tuple[int, int]
    timeout: float | None
    empties: list[Record] = field(default_factory=list)

    @property
    def size(self) -> int:
        """How many connections to keep; 0: all."""
        return self.sizes[0]

    @property
    def max_overflow(self) -> int:
        """How many connections there may be beyond the size; -1: no limit."""
        return self.sizes[1]

    @property
    def overflow(self) -> int:
        """Count the records beyond the size, as QueuePool does: negative while there are fewer."""
        return self.line.total + len(self.empties) - self.size
