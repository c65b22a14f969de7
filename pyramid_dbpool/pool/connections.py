"""The life of a pool's connections: opened, checked, suspected, closed.

Does I/O, so never with the pool's lock held.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .health import Checks, PooledEntry

if TYPE_CHECKING:
    from .core import Service
    from .managed import ManagedPool

log = logging.getLogger(__name__)


class Connections:
    """Open, check and close the connections of one pool.

    `husks` are records whose connection is gone: SQLAlchemy's suite wants the same
    record to come back, and counts it among the returned ones.
    """

    def __init__(self, service: Service, source: ManagedPool, checks: Checks) -> None:
        self._service = service
        self._source = source
        self._lock = service.lock
        self._line = service.line
        self._stats = service.stats
        self._checks = checks
        self.husks: list[Any] = []

    def reason_against(self, entry: PooledEntry, seconds: float) -> str | None:
        """Say why a connection must not be handed out; None if it may."""
        reason = self._checks.unfit(entry, self._source, time.monotonic(), seconds)
        if reason == "dead":
            self.suspect_others(entry)
        return reason

    def suspect_others(self, dead: PooledEntry) -> None:
        """Have every connection that is as old as a dead one looked at before it is used."""
        with self._lock:
            self._stats.suspicions += 1
            for each in list(self._line.members):
                if each is not dead:
                    each.doubt()
        if self._service.options.background:
            self._service.upkeep.examine_suspects()

    def doubt_all(self) -> None:
        """Have SQLAlchemy's own rules asked before any connection is used again."""
        with self._lock:
            for each in list(self._line.members):
                each.doubt()

    def keep_husk_locked(self, record: Any) -> None:
        """Keep a record whose connection is gone, as long as there is room for it."""
        if not self._line.keep or len(self.husks) + len(self._line.idle) < self._line.keep:
            self.husks.append(record)

    def open_entry(self, record: Any = None) -> PooledEntry:
        """Open a connection, in an empty record if there is one."""
        if record is None and self.husks:
            with self._lock:
                record = self.husks.pop() if self.husks else None
        if record is None:
            record = self._source._create_connection()
        else:
            try:
                record.renew()
            except BaseException:
                with self._lock:
                    self.keep_husk_locked(record)
                raise
        now = time.monotonic()
        entry = record.dbpool_entry = PooledEntry(record, now)
        try:
            self._checks.admit(entry, now, self._source)
        except BaseException:
            record.close()
            raise
        if not self._line.retired:
            # Else the housekeeper would come for a pool that is over.
            self._service.holds.watch()
        return entry

    def readmit(self, entry: PooledEntry, now: float) -> None:
        """Look at what SQLAlchemy has put in the place of an entry's connection."""
        entry.stop_looking()
        entry.look = entry.glance = entry.closed = None
        entry.started = entry.record.starttime
        entry.suspect = False
        self._checks.admit(entry, now, self._source)

    def close_record(self, record: Any, reason: str) -> None:
        """Close what is behind a record."""
        with self._lock:
            self._stats.closed[reason] += 1
        record.dbpool_entry.stop_looking()
        if reason == "dead":
            record.invalidate()
        elif reason != "invalidated":
            record.close()

    def close_entry(self, entry: PooledEntry, reason: str) -> None:
        """Close a connection that is leased or held; its slot is free afterwards."""
        record = entry.record
        try:
            self.close_record(record, reason)
            record.close()
        finally:
            with self._lock:
                self._line.lost(entry)
            self._service.replan()

    def close_held(self, doomed: Iterable[tuple[PooledEntry, str]]) -> None:
        """Close several that are held; one that raises keeps none of the others open."""
        for entry, reason in doomed:
            try:
                self.close_entry(entry, reason)
            except Exception:
                log.exception("A connection could not be closed in order")

    def examine(self, entry: PooledEntry) -> None:
        """Ping a connection that is held; put it back, or close it if it is dead."""
        try:
            alive = self._checks.ping(entry, self._source, self._service.options.ping_timeout)
        except Exception:
            # Nobody waits for this one's error; held for ever, it would be a lost slot.
            alive = False
        with self._lock:
            if alive and not self._line.retired:
                self._line.unhold(entry, time.monotonic())
                return
        self.close_entry(entry, "disposed" if alive else "dead")
        if not alive:
            self.suspect_others(entry)
