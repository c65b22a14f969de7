"""What of the line is shown under the names that SQLAlchemy's `QueuePool` has for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util.queue import QueueCommon

if TYPE_CHECKING:
    from .pool import ManagedPool


class IdleView(QueueCommon[Any]):
    """Stands in for `QueuePool._pool`: the idle records, the empty ones included."""

    def __init__(self, pool: ManagedPool, maxsize: int, use_lifo: bool) -> None:
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
        kept = set(records)
        self._owner._service.connections.husks[:] = [
            each for each in self._owner._service.connections.husks if each in kept
        ]
