"""Whether a connection may be handed out: the pool's entries and their health."""

from __future__ import annotations

import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from ..drivers.sockets import Look, closed_by, guard_silence, shut, socket_of
from .entries import Entry
from .housekeeper import housekeeper
from .options import PoolOptions
from .stats import Stats

if TYPE_CHECKING:
    from sqlalchemy.pool.base import _ConnectionRecord

# Where a driver shows no socket, a connection returned so lately (seconds) is taken
# to be alive without a ping: HikariCP's "alive bypass window".
NO_SOCKET_BYPASS = 0.5


class PooledEntry(Entry):
    """A SQLAlchemy connection record in the line.

    `check_at`: from when on a checkout needs more than a look at the socket.
    """

    __slots__ = (
        "check_at",
        "checked_at",
        "closed",
        "expires_at",
        "glance",
        "look",
        "patience",
        "pid",
        "record",
        "started",
        "suspect",
    )

    def __init__(self, record: _ConnectionRecord, now: float) -> None:
        super().__init__()
        self.record = record
        # SQLAlchemy may reconnect a record behind our back, for a checkout listener
        # that raises DisconnectionError: then what is known here is out of date.
        self.started: float = self.record.starttime
        self.pid = os.getpid()
        self.look: Look | None = None
        # The quicker look, called with (0, 1) on every checkout while nobody waits.
        self.glance: Callable[[int, int], object] | None = None
        # Whether the driver has closed it on its side: then its socket tells nothing,
        # and may be another file's by now.
        self.closed: Callable[[], object] | None = None
        self.suspect = False
        self.expires_at = math.inf
        self.check_at = math.inf
        self.checked_at = now
        # How long after a return (seconds) a look at the socket is enough.
        self.patience = math.inf

    def doubt(self) -> None:
        """Have it looked at more closely before it is handed out again."""
        self.suspect = True
        self.detain()

    def detain(self) -> None:
        """Let its next checkout go the slow way, where second connections are noticed."""
        self.check_at = 0.0

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

    def stop_looking(self) -> None:
        """Let the descriptors for the looks go."""
        if self.look is not None:
            self.look.close()


class Checks:
    """Judge a pool's connections; does I/O, so never with the pool's lock held."""

    def __init__(
        self,
        options: PoolOptions,
        pre_ping: bool,
        stats: Stats,
        lock: AbstractContextManager[object],
    ) -> None:
        self._options = options
        self._stats = stats
        self._lock = lock
        self._pre_ping = pre_ping
        self._eager = pre_ping or options.liveness

    def admit(self, entry: PooledEntry, now: float, pool: Any) -> None:
        """Prepare what the checks of a new connection will need."""
        options = self._options
        entry.expires_at = options.expiry(now, random.random())
        recycles = pool._recycle > -1
        if recycles and options.liveness:
            # With 0 none would be young enough for the caller for whom it was opened.
            entry.expires_at = min(entry.expires_at, now + max(pool._recycle, 1))
        if self._pre_ping or (recycles and not options.liveness):
            # To be asked each time: the server, or SQLAlchemy's own rule on its own clock.
            entry.patience = 0.0
        elif options.liveness and getattr(pool._dialect, "name", "") != "sqlite":
            entry.patience = options.ping_after
            entry.closed = closed_by(entry.record.dbapi_connection)
            fd = socket_of(entry.record.dbapi_connection)
            if fd is None:
                entry.patience = min(entry.patience, NO_SOCKET_BYPASS)
            else:
                entry.look = Look(fd)
                entry.glance = entry.look.glance
                guard_silence(fd)
        entry.check_at = min(entry.expires_at, now + entry.patience)

    def unfit(self, entry: PooledEntry, pool: Any, now: float, seconds: float) -> str | None:
        """Say why a connection must not be handed out; None if it may.

        :param seconds: how long a ping may take at most.
        """
        record = entry.record
        if (
            record.dbapi_connection is None
            or pool._invalidate_time > record.starttime
            or record._soft_invalidate_time > record.starttime
            or (
                # With liveness it is in `expires_at`.
                -1 < pool._recycle < time.time() - record.starttime and not self._options.liveness
            )
        ):
            return "invalidated"
        if now >= entry.expires_at:
            return "lifetime"
        if entry.closed is not None and entry.closed():
            return "closed"
        look = entry.look
        speaks = look is not None and look.speaks()
        if look is not None and speaks and look.ended():
            return "dead"
        if self._eager and (speaks or entry.suspect or now - entry.since >= entry.patience):
            return None if self.ping(entry, pool, seconds) else "dead"
        entry.suspect = False
        return None

    def ping(self, entry: PooledEntry, pool: Any, seconds: float) -> bool:
        """Ask the server, for so many seconds at most; true if it answers."""
        record = entry.record
        connection = record.dbapi_connection
        limit = min(self._options.ping_timeout, max(seconds, 0.05))
        fd = socket_of(connection) if self._options.liveness else None
        with self._lock:
            self._stats.pings += 1
            self._stats.fallback_pings += self._options.liveness and fd is None
        try:
            with limited(fd, limit) as was_cut:
                alive = bool(pool._dialect._do_ping_w_event(connection))
        except NotImplementedError:
            # A pool without a dialect has no ping: only a socket that is silent passes.
            alive = entry.look is None or not entry.look.speaks()
        except Exception:
            if not self._options.liveness:
                raise
            alive = False
        if alive and not was_cut():
            entry.suspect = False
            entry.checked_at = time.monotonic()
            # It has just been pinged: SQLAlchemy's own pre-ping would be a second one.
            record.fresh = True
            return True
        return False


@contextmanager
def limited(fd: int | None, seconds: float) -> Iterator[Callable[[], bool]]:
    """Shut the socket if the block takes longer than `seconds`; yields "was it shut?".

    This bounds any driver's call that waits on the network: no driver has a limit
    for a ping of its own, and a socket option would outlive it.
    """
    if fd is None:
        yield lambda: False
        return
    # Without the lock the socket could be shut after the block, under its next user.
    lock = threading.Lock()
    state = {"over": False, "shut": False}

    def cut() -> None:
        with lock:
            if not state["over"]:
                state["shut"] = True
                shut(fd)

    task = housekeeper().call_at(time.monotonic() + seconds, cut)
    try:
        yield lambda: state["shut"]
    finally:
        with lock:
            state["over"] = True
        task.cancel()
