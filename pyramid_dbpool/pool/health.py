"""The life of a pool's connections: opened, checked, suspected, closed.

Does I/O, so never with the pool's lock held.
"""

from __future__ import annotations

import functools
import logging
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from ..drivers.server_pids import server_pid
from ..drivers.sockets import Look, closed_by, guard_silence, shut, socket_of
from ..drivers.transactions import at_rest_by
from .entry import PooledEntry, Record
from .examiners import Examiners
from .housekeeper import run_beside
from .line import HELD
from .options import by_chance
from .shared import Shared, Timer

log = logging.getLogger(__name__)

# Where a driver shows no socket, a connection returned so lately (seconds) is taken
# to be alive without a ping: HikariCP's "alive bypass window".
NO_SOCKET_BYPASS = 0.5


class Health:
    """Open, check and close the connections of one pool.

    :param pre_ping: SQLAlchemy's own: ping each connection that is handed out.
    :param examines: whether suspects are pinged at once, in threads; else when they are
        handed out.
    :param freed: called, without the lock, when a slot has become free.
    :param opened: called, without the lock, when a connection was opened, by whomever.
    :param answered: called, without the lock, when the server has answered a ping.
    :param settled: called, without the lock, when one has become idle and nobody has returned it.
    """

    def __init__(
        self,
        shared: Shared,
        *,
        pre_ping: bool,
        examines: bool,
        freed: Callable[[], object],
        opened: Callable[[], object],
        answered: Callable[[], object],
        settled: Callable[[], object],
    ) -> None:
        self._shared = shared
        self._door, self._lock, self._line = shared.door, shared.lock, shared.line
        self._stats, self._options, self._source = shared.stats, shared.options, shared.source
        self._pre_ping = pre_ping
        self._pings = pre_ping or shared.options.liveness
        self._examines = examines
        self._freed, self._was_opened, self.settled = freed, opened, settled
        self._has_answered = answered
        self._retired_at = self._refreshed_at = -math.inf
        self.examiners = Examiners(shared, self.examine)

    # Opening

    def open(self, empty: Record | None = None) -> PooledEntry:
        """Open a connection, in an empty record if there is one.

        :param empty: the record to open it in.
        """
        began = self._shared.clock()
        record = self._opened(empty)
        now = self._shared.clock()
        connection = self._source.connection(record)
        entry = record.dbpool_entry = PooledEntry(record, connection, now, began)
        try:
            self._prepare(entry, now)
            self._was_opened()
        except BaseException:
            self.close_foreign(entry)
            raise
        return entry

    def opened_locked(self, entry: PooledEntry) -> None:
        """Retire what becomes one of the line's, if `retire_all` came while it was opened."""
        if entry.began_at <= self._retired_at:
            self._retire_locked(entry)
        if entry.began_at <= self._refreshed_at:
            entry.retire()

    def _opened(self, empty: Record | None) -> Record:
        if empty is None and self._shared.empties:
            with self._door, self._lock:
                empty = self._shared.empties.pop() if self._shared.empties else None
        try:
            record: Record = self._source.open(empty)
            return record
        except BaseException:
            if empty is not None:
                with self._door, self._lock:
                    self.keep_empty_locked(empty)
            raise

    def keep_empty_locked(self, record: Record) -> None:
        """Keep a record whose connection is gone, as long as there is room for it."""
        empties, keep = self._shared.empties, self._line.keep
        if not keep or len(empties) + len(self._line.idle) < keep:
            empties.append(record)

    def replaced(self, entry: PooledEntry) -> None:
        """Look at what the source has put in the place of an entry's connection."""
        entry.stop_looking()
        entry.connection = self._source.connection(entry.record)
        entry.suspect = entry.condemned = False
        self._prepare(entry, self._shared.clock())
        if entry.leased_at <= self._refreshed_at:
            # It may have been put there before.
            entry.retire()

    def _prepare(self, entry: PooledEntry, now: float) -> None:
        """Prepare what the checks of a new connection will need."""
        options = self._options
        entry.at_rest = at_rest_by(entry.connection)
        # Here, where nobody else has it: what other threads may ask of it, no driver says.
        entry.server_pid = server_pid(entry.connection)
        entry.expires_at = options.expiry(now, by_chance())
        recycle = self._source.recycle_seconds
        if recycle is not None and options.recycle_is_expiry:
            # With 0 none would be young enough for the caller for whom it was opened.
            entry.expires_at = min(entry.expires_at, now + max(recycle, 1))
        if self._pre_ping or (recycle is not None and not options.recycle_is_expiry):
            # To be asked each time: the server, or SQLAlchemy's own rule on its own clock.
            entry.patience = 0.0
        elif options.liveness and self._source.may_look:
            self._prepare_look(entry)
        entry.check_at = min(entry.expires_at, now + entry.patience)

    def _prepare_look(self, entry: PooledEntry) -> None:
        connection = self._source.connection(entry.record)
        entry.patience = self._options.ping_after
        entry.closed = closed_by(connection)
        fd = socket_of(connection)
        if fd is None:
            entry.patience = min(entry.patience, NO_SOCKET_BYPASS)
        else:
            entry.look = Look(fd)
            entry.glance = entry.look.glance
            guard_silence(fd)

    # Checking

    def reason_against(self, entry: PooledEntry, seconds: float) -> str | None:
        """Say why a connection must not be handed out; None if it may.

        :param seconds: how long a ping may take at most.
        """
        reason = self._unfit(entry, self._shared.clock(), seconds)
        if reason == "dead":
            self.suspect_others(entry)
        return reason

    def _unfit(self, entry: PooledEntry, now: float, seconds: float) -> str | None:
        if entry.condemned or self._source.is_outdated(entry.record):
            return "invalidated"
        if now >= entry.expires_at:
            return "lifetime"
        if entry.closed is not None and entry.closed():
            return "closed"
        look = entry.look
        speaks = look is not None and look.speaks()
        if look is not None and speaks and look.ended():
            return "dead"
        if entry.suspect or (self._pings and (speaks or now - entry.since >= entry.patience)):
            return None if self.ping(entry, seconds) else "dead"
        return None

    def ping(self, entry: PooledEntry, seconds: float) -> bool:
        """Ask the server, for so many seconds at most; true if it answers."""
        # What is examined beside, or asked in an outage, has nobody to whom an error would belong.
        liveness = self._options.liveness or (entry.suspect and self._examines)
        limit = min(self._options.ping_timeout, max(seconds, 0.05))
        fd = socket_of(self._source.connection(entry.record)) if liveness else None
        with self._door, self._lock:
            self._stats.pings += 1
            self._stats.fallback_pings += liveness and fd is None
        answered = False
        try:
            with limited(fd, limit, self._shared.timer, self._shared.clock) as was_cut:
                alive = answered = self._source.ping(entry.record)
        except NotImplementedError:
            # A pool without a dialect has no ping: only a socket that is silent passes.
            alive = entry.look is None or not entry.look.speaks()
        except Exception:
            if not liveness:
                raise
            alive = False
        if alive and not was_cut():
            entry.suspect = False
            entry.checked_at = self._shared.clock()
            if answered:
                self._has_answered()
            return True
        return False

    # Suspecting

    def suspect_others(self, dead: PooledEntry | None) -> None:
        """Have every connection that is as old as a dead one looked at before it is used."""
        if self._door.is_inside():
            self._door.call_later(functools.partial(self.suspect_others, dead))
            return
        with self._door, self._lock:
            self._stats.suspicions += 1
            for each in self._line.members:
                if each is not dead:
                    each.doubt()
            # In uWSGI's master they are examined when they are handed out, too.
            examines = self._examines and self._shared.timer.runs
            if examines:
                self.examiners.add_locked(each for each in list(self._line.idle) if each.suspect)
        if examines:
            self.examiners.start()

    def doubt_all_locked(self) -> None:
        """Have every connection asked before it is handed out again."""
        for each in self._line.members:
            each.doubt()

    def condemn_all(self) -> None:
        """Have every connection that is open now replaced before it is used again."""
        if self._door.is_inside():
            self._door.call_later(self.condemn_all)
            return
        with self._door, self._lock:
            for each in self._line.members:
                each.condemn()

    def retire_all(self) -> None:
        """Close every connection that is open now: what is in use, when it comes back.

        One that is being opened just now is not handed out a second time either.
        """
        if self._door.is_inside():
            self._door.call_later(self.retire_all)
            return
        with self._door, self._lock:
            self._retired_at = self._shared.clock()
            for each in self._line.members:
                self._retire_locked(each)
        if self._examines:
            run_beside("dbpool-upkeep", self._close_condemned)

    def _retire_locked(self, entry: PooledEntry) -> None:
        if self._examines:
            entry.retire()
        else:
            # As a `QueuePool`: its record is opened anew for whoever comes next.
            entry.condemn()

    def _close_condemned(self) -> None:
        # One at a time: callers may have the others meanwhile, to see for themselves.
        for entry in list(self._line.idle):
            if entry.condemned:
                self._close_idle(entry, "retired")

    def _close_idle(self, entry: PooledEntry, reason: str) -> None:
        """Close a connection, unless it is in use."""
        try:
            with self._door, self._lock:
                mine = self._line.hold(entry)
            if mine:
                self.close_held([(entry, reason)])
        except BaseException:
            # Interrupted in between: what is left held is lost.
            if entry.state is HELD:
                self.close_held([(entry, reason)])
            raise

    def refresh_locked(self) -> None:
        """Have all that is open, or being opened, closed when it is back; then `close_retired`."""
        self._retired_at = self._refreshed_at = self._shared.clock()
        for each in self._line.members:
            each.retire()

    def close_retired(self) -> None:
        """Close what is idle and retired, here and now."""
        try:
            self._close_condemned()
        finally:
            # What an interrupt has left is the timer's.
            self.settled()

    def close_surplus(self) -> None:
        """Close the idle connections for which there is no room, here and now."""
        try:
            while (entry := self._a_surplus_one()) is not None:
                self._close_idle(entry, self.why_surplus)
        finally:
            self.settled()

    def _a_surplus_one(self) -> PooledEntry | None:
        with self._door, self._lock:
            return next(iter(self._line.surplus()), None)

    @property
    def why_surplus(self) -> str:
        """Why the line does not keep a connection."""
        return "surplus" if self._line.paused is None else "paused"

    def ask_recycle_each_time(self) -> None:
        """Have SQLAlchemy's rule of age asked from now on, also of what is open already."""
        if self._options.recycle_is_expiry:
            return
        with self._door, self._lock:
            for each in self._line.members:
                each.patience = each.check_at = 0.0

    def examine(self, entry: PooledEntry) -> bool:
        """Ping a connection, unless it is in use; close it if it is dead; true if it answers."""
        # Held only now, by whoever gives it back: callers need the others meanwhile, and
        # what an interrupt leaves held is lost.
        with self._door, self._lock:
            if self._line.paused is not None or not self._line.hold(entry):
                return False
        try:
            alive = self.ping(entry, self._options.ping_timeout)
        except Exception:
            # Nobody waits for this one's error; held for ever, it would be a lost slot.
            alive = False
        with self._door, self._lock:
            replaced = self._line.replaced
            kept = alive and not replaced and self._line.unhold(entry, self._shared.clock())
        if kept:
            self.settled()
            return True
        why = "disposed" if replaced else self.why_surplus
        self.close_held([(entry, why if alive else "dead")])
        if not alive:
            self.suspect_others(entry)
        return alive

    # Closing

    def close(self, entry: PooledEntry, reason: str) -> None:
        """Close a connection that is leased or held; its slot is free afterwards."""
        try:
            self.close_in_slot(entry, reason)
        finally:
            with self._door, self._lock:
                self._line.lost(entry)
            self._freed()

    def close_in_slot(self, entry: PooledEntry, reason: str) -> None:
        """Close a connection whose slot goes on to be used: its record is empty afterwards."""
        with self._door, self._lock:
            self._stats.closed[reason] += 1
        entry.stop_looking()
        if reason == "dead":
            self._source.drop(entry.record)
        else:
            self._source.close(entry.record)

    def close_foreign(self, entry: PooledEntry) -> None:
        """Close a connection that is not the line's: not yet, or not any more."""
        entry.stop_looking()
        self._source.close(entry.record)

    def close_held(self, doomed: Iterable[tuple[PooledEntry, str]]) -> None:
        """Close several that are held; one that raises keeps none of the others open."""
        for entry, reason in doomed:
            try:
                self.close(entry, reason)
            except Exception:
                log.exception("A connection could not be closed in order")


@contextmanager
def limited(
    fd: int | None, seconds: float, timer: Timer, clock: Callable[[], float]
) -> Iterator[Callable[[], bool]]:
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

    # None where no thread can be started: then the kernel's limit holds (`guard_silence`).
    task = timer.call_at(clock() + seconds, cut)
    try:
        yield lambda: state["shut"]
    finally:
        with lock:
            state["over"] = True
        if task is not None:
            task.cancel()
