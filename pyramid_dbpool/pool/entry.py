"""A pool's connection in the line, and what a look at it can tell."""

from __future__ import annotations

import math
from collections.abc import Callable
from os import getpid
from typing import Protocol

from ..drivers.sockets import Look
from .line import Entry

# A connection that goes from hand to hand is not looked at again within so many seconds: its
# server could go away between the look and the caller's statement as well. The look is a tenth of
# what each of 64 threads does under the interpreter's lock, where none holds one for long.
LOOK_STANDS = 0.001


class Record(Protocol):
    """What a pool's source knows a connection by; it finds its entry again by its record."""

    dbpool_entry: PooledEntry | None


class PooledEntry(Entry):
    """One open connection.

    - `record`: what the pool's source knows it by.
    - `connection`: the driver's; None once nobody looks at it any more.
    - `began_at`: when its opening began.
    - `condemned`: not to be handed out again, as its holder or SQLAlchemy has said.
    - `pid`: the process that opened it.
    - `server_pid`: what the server's list of sessions calls it; None: the driver does not say.
    - `check_at`: from when on a checkout needs more than a look at the socket.
    - `awaited`: whether it is in the queue of the `Examiners`.
    - `taken`: with `trace_checkouts`, where in the app's code its holder has taken it.
    """

    __slots__ = (
        "at_rest",
        "awaited",
        "began_at",
        "check_at",
        "checked_at",
        "closed",
        "condemned",
        "connection",
        "expires_at",
        "glance",
        "look",
        "looked_at",
        "patience",
        "pid",
        "record",
        "server_pid",
        "suspect",
        "taken",
    )

    def __init__(
        self, record: Record, connection: object, now: float, began_at: float | None = None
    ) -> None:
        super().__init__()
        self.record = record
        self.began_at = now if began_at is None else began_at
        # SQLAlchemy may reconnect a record behind our back, for a checkout listener
        # that raises DisconnectionError: then what is known here is out of date.
        self.connection: object = connection
        # SQLAlchemy compares times of the wall clock for it: one that was set, or frozen by a
        # test, would keep what is dead, or have all that is ever opened closed at once.
        self.condemned = False
        self.pid = getpid()
        self.server_pid: int | None = None
        self.look: Look | None = None
        # The quicker look, called with (0, 1) on every checkout while nobody waits.
        self.glance: Callable[[int, int], object] | None = None
        # Whether the driver has closed it on its side: then its socket tells nothing,
        # and may be another file's by now.
        self.closed: Callable[[], object] | None = None
        # Whether a rollback would do nothing, where the driver shows it.
        self.at_rest: Callable[[], bool] | None = None
        self.suspect = self.awaited = False
        self.expires_at = math.inf
        self.check_at = math.inf
        self.checked_at = now
        self.looked_at = -math.inf
        self.taken: tuple[str, ...] = ()
        # How long after a return (seconds) a look at the socket is enough.
        self.patience = math.inf

    def doubt(self) -> None:
        """Have it looked at more closely before it is handed out again."""
        self.suspect = True
        self.check_at = 0.0

    def condemn(self) -> None:
        """Have it closed when it comes back, or when somebody asks for it."""
        self.condemned = True
        self.doubt()

    def retire(self) -> None:
        """Have it closed when it comes back; idle, it is due."""
        self.condemn()
        self.expires_at = 0.0

    @property
    def quiet_since(self) -> float:
        """When it was last returned or pinged."""
        return max(self.since, self.checked_at)

    def passes(self, now: float) -> bool:
        """Tell whether it may be handed out, for all that a look at it can see.

        Keeps the interpreter's lock: whoever waits for that while he has a connection
        keeps it from those in the line, which halves what 64 threads get done.
        """
        return (
            now < self.check_at
            and (self.closed is None or not self.closed())
            and (self.look is None or not self.look.speaks())
        )

    def passes_on(self, now: float) -> bool:
        """Tell the same of a connection that its last holder has given back just now."""
        if now - self.looked_at < LOOK_STANDS:
            return now < self.check_at and (self.closed is None or not self.closed())
        passes = self.passes(now)
        if passes:
            # Only now: should this caller be killed, the next one is not to be spared the look.
            self.looked_at = now
        return passes

    def stop_looking(self) -> None:
        """Let the descriptors for the looks go, and the connection.

        All of it: a connection that its holder has detached is closed when he drops it.
        """
        self.connection = self.glance = self.closed = self.at_rest = None
        if self.look is not None:
            self.look.close()
            self.look = None
