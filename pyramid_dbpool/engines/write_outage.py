"""A server that takes no writes: one that is read-only as after a failover, and one that is full.

The old primary may come back as a standby, and its connections answer every ping: what was opened
before has to go, and whoever writes waits until the address leads to a server that takes writes.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from contextvars import Context
from functools import partial
from os import getpid
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from ..clock import monotonic, sleep
from ..drivers.driver_errors import driver_text
from ..drivers.writability import (
    WriteRefusal,
    defaults_to_read_only,
    is_read_only,
    refuses_all,
    refuses_as_standby,
    says_read_only,
    storage_refusal,
)
from ..errors import DatabaseUnavailable
from ..events import Kind, tell
from ..pool.deadlines import current_deadline
from ..pool.estimates import SHORTEST, bounded
from ..pool.housekeeper import run_beside
from ..pool.managed import ManagedPool, is_condemned
from ..pool.options import PLUGIN_DEFAULTS
from ..pool.outage import FRESH, LONGEST_PAUSE, LONGEST_PROBE, pause_before
from ..settings import PoolSettings
from ..stopping import SLICE, current_stopped
from .apart import opened_apart
from .hearing import Heard

__all__ = ["WriteOutage"]

log = logging.getLogger(__name__)

# A key of a connection's `info`: when it was opened.
_OPENED_AT = "pyramid_dbpool.opened_at"

# What nobody has seen for so long (seconds) may be over: that a server is read-only, or full.
QUIET = 60.0


class WriteOutage:
    """What is known of one engine's server: whether it takes writes, and since when not.

    Whoever waits for it has it looked at, one at a time: where nobody writes, nothing is asked.
    """

    def __init__(self, pool: PoolSettings) -> None:
        self.name = pool.name
        timeout = pool.pool_timeout
        # A pool without a line has none, and its callers wait for the server as well.
        self.patience: float = PLUGIN_DEFAULTS["timeout"] if timeout is None else timeout
        self._grace = None if pool.managed is None else pool.managed.outage_grace
        self._key = pool.source("read_only")
        self._is_meant = pool.options.read_only
        # A named pool may be a replica's, though no setting says so; what has once been at a
        # primary is none.
        self._was_primary = pool.name == "default"
        # What a role, a database or the settings have made read-only by default, never does.
        self._took_writes = False
        # When what was open was retired last.
        self._retired_at = float("-inf")
        self._watched: weakref.ref[Engine] | None = None
        self._start()

    def _start(self) -> None:
        # Guards what follows; held for a moment, never during a look.
        self._lock = threading.Lock()
        # Set when the look that was begun last is over.
        self._over = threading.Event()
        self._over.set()
        self._since: float | None = None
        # What was said, and not the error, whose traceback would keep a session alive.
        self._said = ""
        self.looks = 0
        self._look_at = self._known_at = self._seen_at = float("-inf")
        # When a new session was last seen to take writes.
        self._took_at = float("-inf")
        self._full_since = self._full_at = float("-inf")
        # At the end: another thread of a child's must not take a lock of the parent's.
        self._pid = getpid()

    def watch(self, engine: Engine) -> None:
        """Be the one for `engine`."""
        self._watched = weakref.ref(engine)
        if not self._is_meant:
            event.listen(engine, "connect", self._note_server)

    def _note_server(self, dbapi_connection: Any, record: ConnectionPoolEntry) -> None:
        record.info[_OPENED_AT] = monotonic()
        if not self._took_writes:
            self._took_writes = defaults_to_read_only(dbapi_connection) is False
        if not self._was_primary:
            engine = self._engine
            name = "" if engine is None else engine.dialect.name
            # A server that does not say may be a replica.
            self._was_primary = is_read_only(dbapi_connection, name) is False

    @property
    def _engine(self) -> Engine | None:
        return None if self._watched is None else self._watched()

    @property
    def _pool(self) -> ManagedPool | None:
        engine = self._engine
        pool = None if engine is None else engine.pool
        return pool if isinstance(pool, ManagedPool) else None

    # Refusals

    def hear(self, heard: Heard) -> WriteRefusal | None:
        """Note an error of a driver's; return how it says that the server stores nothing."""
        self._leave_parent()
        if heard.lost:
            return None
        refusal = storage_refusal(heard.error)
        if refusal is not None:
            self._note_full(heard.error)
        elif self._is_meant or not self._was_primary:
            return None
        elif self._is_not_primary(heard):
            self._note_read_only(heard)
            return WriteRefusal.READ_ONLY
        return refusal

    def _is_not_primary(self, heard: Heard) -> bool:
        """Tell whether the server has refused a statement because it is read-only as a whole."""
        dbapi_connection = heard.connection.dbapi_connection
        if refuses_as_standby(heard.error, dbapi_connection):
            return True
        # It may be another server than the driver knows of, behind a pooler, or fenced; or the
        # transaction's or the session's holder has said so.
        if not says_read_only(heard.error):
            return False
        if self._is_retired(heard.connection):
            return True
        is_fenced = self._took_writes and defaults_to_read_only(dbapi_connection) is True
        # What was found out before may be older than a fence.
        takes_writes = self._takes_writes(asked_before=not is_fenced)
        return is_fenced if takes_writes is None else not takes_writes

    def _takes_writes(self, *, asked_before: bool) -> bool | None:
        """Ask a new connection whether its server takes writes; None: none can be had now.

        :param asked_before: whether what was found out a moment ago will do.
        """
        now = monotonic()
        if self.since is not None:
            return False
        enough = now - FRESH if asked_before else now
        if self._took_at < enough:
            self._begin_look()
            self._await_look(now + self.patience)
        if self._took_at >= enough:
            return True
        return False if self._known_at >= now else None

    def _await_look(self, until: float) -> None:
        """Wait for the look that was begun last, up to a stop or the deadline at the longest."""
        over, deadline, stopped = self._over, current_deadline(), current_stopped()
        until = until if deadline is None else min(until, deadline)
        while (left := until - monotonic()) > 0 and not over.wait(min(left, SLICE)):
            if stopped is not None and stopped():
                return

    def _note_full(self, error: BaseException) -> None:
        now = monotonic()
        with self._lock:
            begins = now - self._full_at >= QUIET
            self._full_at = now
            if begins:
                self._full_since = now
        if begins:
            said = driver_text(error)
            text = (
                f"pool {self.name!r}: the server can store nothing ({said}). Requests that need it"
                " are answered with 503, and messages wait until it can."
            )
            tell(log, Kind.FULL, text, self.name, reason=said)

    def _note_read_only(self, heard: Heard) -> None:
        if self._is_retired(heard.connection):
            # It was opened before, and is about to go: nothing new.
            return
        now = monotonic()
        with self._lock:
            begins = self.since is None
            if begins:
                self._since, self.looks, self._look_at = now, 0, float("-inf")
            self._seen_at, self._said = now, driver_text(heard.error)
        if not begins:
            self.look_beside()
            return
        self._retire()
        said = driver_text(heard.error)
        text = (
            f"pool {self.name!r}: the server is read-only ({said}): it is not the primary, or not"
            " any more. Its connections are replaced, and who writes waits until it takes writes"
            f" or another one has its place. If it is meant to be read-only: {self._key} = true."
        )
        tell(log, Kind.READ_ONLY, text, self.name, reason=said)

    @property
    def replaces(self) -> bool:
        """Whether the engine's pool replaces its connections when it is told to."""
        return self._pool is not None

    def _retire(self) -> None:
        pool, engine = self._pool, self._engine
        self._retired_at = monotonic()
        if pool is not None:
            pool.retire_all()
        elif engine is not None:
            # Those in use come back to a pool that hands out nothing any more, and go with it.
            engine.dispose()

    def _is_retired(self, connection: PoolProxiedConnection) -> bool:
        opened_at: float = connection.info.get(_OPENED_AT, float("inf"))
        # SQLAlchemy's pools do not know it.
        return is_condemned(connection) or opened_at <= self._retired_at

    # Waiting

    @property
    def since(self) -> float | None:
        """Since when the server is known to be read-only; None: it is not."""
        self._leave_parent()
        # It may have ended, and another one begun, while nobody wrote or looked.
        return self._since if monotonic() - self._seen_at < QUIET else None

    @property
    def lasted(self) -> float | None:
        """For how many seconds the server has stored nothing; None: it does."""
        now, since = monotonic(), self.since
        if since is None and now - self._full_at < QUIET:
            since = self._full_since
        return None if since is None else now - since

    @property
    def retry_after(self) -> int:
        """After how many seconds a write may be taken: as long again as that has lasted."""
        return SHORTEST if (lasted := self.lasted) is None else bounded(lasted)

    def wait(self, seconds: float, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Wait until the server takes writes; return whether it does, as far as is known.

        :param stopped: tells that it is time to give up.
        """
        until = monotonic() + seconds
        while self.since is not None:
            self.look_beside()
            left = until - monotonic()
            if left <= 0 or stopped():
                return False
            over = self._over
            if over.is_set():
                sleep(min(left, SLICE, max(0.0, self._look_at - monotonic())))
            else:
                over.wait(min(left, SLICE))
        return True

    def refuses(self) -> bool:
        """Tell whether it has lasted so long that waiting is pointless, as in an outage."""
        now, since, grace = monotonic(), self.since, self._grace
        if since is None or grace is None or now - since < grace:
            return False
        return now - self._known_at < FRESH

    def unavailable(self) -> DatabaseUnavailable:
        """Make the error for one caller who has waited in vain."""
        engine, lasted = self._engine, self.lasted or 0.0
        text = (
            f"pool {self.name!r}: the server has been read-only for {lasted:.1f} s ({self._said})"
        )
        kind = RuntimeError if engine is None else engine.dialect.loaded_dbapi.OperationalError
        error = DatabaseUnavailable.saying(text, kind(self._said), self.name)
        error.fields = {"seconds": lasted}
        error.retry_after = self.retry_after
        return error

    def look_beside(self) -> None:
        """See whether the server takes writes again, unless somebody just does.

        In a thread: a connect that hangs, as to an address that moves, must not outlast the time
        of whoever waits.
        """
        if self.since is not None:
            self._begin_look()

    def _begin_look(self) -> None:
        now = monotonic()
        with self._lock:
            if now < self._look_at:
                return
            self.looks += 1
            next_at = now
            if self._since is not None:
                next_at += pause_before(self.looks, LONGEST_PAUSE)
            # Until this one is over, or has been swallowed by the network.
            self._look_at = now + LONGEST_PROBE
            over = self._over = threading.Event()
        # What is sent there is none of the work in hand, also where no thread can be started.
        look = partial(Context().run, self._look, now, next_at, over)
        try:
            run_beside("dbpool-upkeep", look)
        except BaseException:
            # It may never begin.
            self._look_at = next_at
            over.set()
            raise

    def _look(self, began: float, next_at: float, over: threading.Event) -> None:
        try:
            self._ask_server(began)
        finally:
            self._look_at = next_at
            over.set()

    def _ask_server(self, began: float) -> None:
        """Ask the server that a new connection reaches."""
        engine = self._engine
        if engine is None:
            return
        try:
            with opened_apart(engine) as dbapi_connection:
                read_only = refuses_all(
                    dbapi_connection, engine.dialect.name, by_default=self._took_writes
                )
        except Exception:
            # It is away: the pool, and whoever waits for it, see to that.
            log.debug("pool %r: no look at the server", self.name, exc_info=True)
            return
        self._known_at = monotonic()
        if read_only:
            self._seen_at = self._known_at
        else:
            self._took_at = self._known_at
            self._end(began)

    def _end(self, began: float) -> None:
        """End what a look that was begun then has found over."""
        if self._since is None or self._since > began:
            return
        # What was opened meanwhile may lead to the read-only one still.
        self._retire()
        with self._lock:
            since, self._since = self._since, None
        if since is not None:
            lasted = monotonic() - since
            text = f"pool {self.name!r}: the server takes writes after {lasted:.1f} s."
            tell(log, Kind.WRITABLE, text, self.name, seconds=lasted)

    def _leave_parent(self) -> None:
        if self._pid != getpid():
            # A look of the parent's never ends here, and its lock may be held for ever.
            self._start()
