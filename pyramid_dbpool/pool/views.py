"""A service as SQLAlchemy sees it: under the names that its `QueuePool` has for things."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sqlalchemy.pool import ConnectionPoolEntry, Pool, QueuePool
from sqlalchemy.util.queue import QueueCommon

from .outage import Trouble
from .stats import PoolSnapshot

if TYPE_CHECKING:
    from .core import Service


class IdleView(QueueCommon[Any]):
    """Stands in for `QueuePool._pool`: the idle records, the empty ones included."""

    def __init__(self, pool: ServicedPool, maxsize: int, use_lifo: bool) -> None:
        self.maxsize = maxsize
        self.use_lifo = use_lifo
        self._owner = pool

    def qsize(self) -> int:
        """Count the records that are not checked out."""
        return len(self._owner._service.line.idle) + len(self._owner._service.connections.husks)

    def empty(self) -> bool:
        """Tell whether every record is checked out."""
        return self.qsize() == 0

    def full(self) -> bool:
        """Tell whether a returned connection would be closed."""
        return 0 < self.maxsize <= self.qsize()

    @property
    def queue(self) -> deque[ConnectionPoolEntry]:
        """The records that are not checked out (a copy)."""
        idle: Iterable[Any] = self._owner._service.line.idle
        return deque([each.record for each in idle] + self._owner._service.connections.husks)

    @queue.setter
    def queue(self, records: Iterable[ConnectionPoolEntry]) -> None:
        # SQLAlchemy's suite throws out the empty ones in this way.
        kept, husks = set(records), self._owner._service.connections.husks
        husks[:] = [each for each in husks if each in kept]


class ServicedPool(QueuePool):
    """A `QueuePool` whose numbers are those of its service."""

    _service: Service
    # SQLAlchemy is silent below WARNING there; else an app that logs at DEBUG would
    # have two lines for each checkout, and at INFO one at each end of a process.
    _sqla_logger_namespace = "sqlalchemy.pool.ManagedPool"

    def __init__(
        self,
        creator: Any,
        pool_size: int,
        max_overflow: int,
        timeout: float | None,
        use_lifo: bool,
        **kw: Any,
    ) -> None:
        # Not QueuePool's own, which counts in `_overflow`.
        Pool.__init__(self, creator, **kw)
        self._pool = IdleView(self, pool_size, use_lifo)
        self._max_overflow = -1 if pool_size == 0 else max_overflow
        self._timeout = timeout  # type: ignore[assignment]  # QueuePool takes None too

    @property
    def trouble(self) -> Trouble | None:
        """What keeps openings from succeeding, as far as the pool knows."""
        return self._service.opener.trouble

    @property
    def contacts(self) -> int:
        """How often somebody has seen that the server is there."""
        return self._service.stats.contacts

    def checkedout(self) -> int:
        """Count the connections that are checked out.

        Not one that is being opened, or that was just opened in the background and
        has had no holder yet.
        """
        return self._service.checked_out()

    @property
    def _overflow(self) -> int:  # type: ignore[override]
        return self._service.overflow()

    def snapshot(self) -> PoolSnapshot:
        """Return what the pool has counted, and who holds what, as of now."""
        return self._service.snapshot()
