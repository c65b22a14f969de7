"""SQLAlchemy's record of a connection, taught to reconnect through the line.

SQLAlchemy reconnects a record by itself when a checkout listener (or its own
pre-ping) raises `DisconnectionError`: there and then, outside every deadline, and
in an outage each caller for himself.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool.base import _ConnectionRecord

from .checkout import Checkout
from .entries import LEASED
from .health import PooledEntry
from .labels import current_label

if TYPE_CHECKING:
    from .managed import ManagedPool


class PooledRecord(_ConnectionRecord):
    """A record whose second connection comes from the line, as its first one did."""

    dbpool_entry: PooledEntry | None = None

    def __init__(self, pool: ManagedPool, connect: bool = True) -> None:
        self._owner = pool
        super().__init__(pool, connect)

    def get_connection(self) -> DBAPIConnection:
        """Return the connection; one that is gone is replaced from the line.

        What SQLAlchemy asks here of every checkout (is it outdated, was it invalidated?)
        has been asked before the record was handed out.
        """
        if self.dbapi_connection is not None:
            return self.dbapi_connection
        entry = self.dbpool_entry
        if (
            self.fairy_ref is not None
            and self._owner._options.background
            and entry is not None
            and entry.state is LEASED
            and entry.pid == os.getpid()
        ):
            self._obtain_again(entry)
            return cast("DBAPIConnection", self.dbapi_connection)
        return super().get_connection()

    def renew(self) -> None:
        """Open a connection, in the place of one that is outdated if need be."""
        super().get_connection()

    def invalidate(self, e: BaseException | None = None, soft: bool = False) -> None:
        """Close the connection, or (`soft`) have it closed when it comes back."""
        if self.dbpool_entry is not None:
            self.dbpool_entry.doubt()
        super().invalidate(e, soft)

    def _obtain_again(self, gone: PooledEntry) -> None:
        service = self._owner._service
        gone.stop_looking()
        with service.lock:
            service.stats.closed["invalidated"] += 1
            # Before the wait: in a pool of one it is the only slot there is.
            service.line.lost(gone)
        service.replan()
        entry = Checkout(service, None, time.monotonic(), again=True).run()
        entry.label = current_label()
        self._take_over(entry)

    def _take_over(self, entry: PooledEntry) -> None:
        """Become the record of a connection that was opened for another one."""
        other: Any = entry.record
        self.info.clear()
        self.info.update(other.info)
        self.finalize_callback, other.finalize_callback = (
            other.finalize_callback,
            self.finalize_callback,
        )
        self.starttime, self.fresh = other.starttime, other.fresh
        entry.record, self.dbpool_entry = self, entry
        self.dbapi_connection = cast("DBAPIConnection", other.dbapi_connection)
        other.dbapi_connection = other.dbpool_entry = None
