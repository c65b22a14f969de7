"""Who gets what: idle connections, free slots and those who wait for them.

A pure state machine: no thread, no lock, no I/O, no clock.  Whoever owns a `Line` calls
it with its own lock held and passes the time in; only `take` needs none, for it is one
atomic `pop`, and while anything is idle nobody waits.  What is decided is returned, or
put into `Waiter.granted` just before its `wake`.

The promises (`tests/pool/test_line_model.py` proves them):

- waiters are served in the order in which they came, and `take` and `reserve`
  refuse a newcomer while anybody waits;
- idle + leased + held + opening never exceeds the capacity;
- an entry has one place at a time;
- whatever becomes free goes to the first waiter at once: a connection always,
  a slot too where waiters open for themselves (`slots_to_waiters`).

A return (`put`, `lost`) may come from the garbage collector in the middle of
any other method, in the same thread: it is put off until that method is done.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from math import inf
from typing import cast

from .entries import GONE, HELD, LEASED, SLOT, E, Entry, Grant, Refusal, Waiter
from .idle import Idle
from .reentry import whole
from .slots import Slots

# Seconds after the last waiter came during which a line counts as crowded.
CROWDED_FOR = 1.0


class Line(Slots[E]):
    """Decide who gets which connection or slot.

    :param keep: how many idle connections to keep for good; None: all.
    :param capacity: how many connections there may be at once; None: no limit.
    :param lifo: hand out the connection that was returned last, not first.
    :param linger: keep idle connections beyond `keep` too (housekeeping closes them later).
    :param stamped: remember how long how many have been idle, for housekeeping.
    :param slots_to_waiters: grant a free slot to the first waiter; if false, the
        owner watches `free` and `waiting`, and opens connections for the line.
    :param max_waiting: the longest line; None: no bound.
    :param freed_late: called when a loss that was put off has made a slot free.
    """

    def __init__(
        self,
        keep: int | None = 5,
        capacity: int | None = 15,
        *,
        lifo: bool = False,
        linger: bool = False,
        stamped: bool = True,
        slots_to_waiters: bool = True,
        max_waiting: int | None = None,
        freed_late: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(capacity, Idle(lifo=lifo, stamped=stamped))
        self.keep = keep
        self.linger = linger
        self.slots_to_waiters = slots_to_waiters
        self.max_waiting = max_waiting
        self.waiters: OrderedDict[Waiter, None] = OrderedDict()
        # Somebody had to wait lately, up to this time.
        self.crowded_until = 0.0
        self.freed_late = freed_late
        self.retired = False

    def __repr__(self) -> str:
        return (
            f"<Line idle={len(self.idle)} leased={self.leased} held={self.held}"
            f" opening={self.opening} waiting={len(self.waiters)} capacity={self.capacity}>"
        )

    @property
    def waiting(self) -> int:
        """Count the callers in the line."""
        return len(self.waiters)

    # Taking

    def take(self, now: float) -> E | None:
        """Lease an idle connection to a newcomer; None unless there is one (and nobody waits).

        The one method that may be called without the owner's lock.
        """
        try:
            entry = self.idle.take()
        except IndexError:
            return None
        entry.state = LEASED
        entry.leased_at = now
        return entry

    def reserve(self) -> bool:
        """Reserve a slot for an opening by a newcomer, if there is one and nobody waits."""
        return not self.waiters and self.reserve_for_line()

    def join(self, waiter: Waiter) -> bool:
        """Put a newcomer at the end of the line; False if the line is full.

        If something has become free since he asked, it is granted at once.
        """
        if self.max_waiting is not None and len(self.waiters) >= self._places:
            return False
        self.waiters[waiter] = None
        self.crowded_until = waiter.since + CROWDED_FOR
        if self._at_hand:
            self._serve(waiter.since)
        return True

    @property
    def _places(self) -> float:
        """How many may stand in the line: those who only wait for an opening do not count."""
        if self._at_hand or self.capacity is None or self.max_waiting is None:
            return inf
        opened_for_line = 0 if self.slots_to_waiters else self.capacity - len(self.members)
        return self.max_waiting + opened_for_line

    @whole
    def rejoin(self, waiter: Waiter, now: float) -> None:
        """Put back, at the head, a caller whose connection turned out to be dead."""
        self.waiters[waiter] = None
        self.waiters.move_to_end(waiter, last=False)
        self._serve(now)

    @property
    def _at_hand(self) -> bool:
        return bool(self.idle) or (self.slots_to_waiters and not self.full)

    @whole
    def _serve(self, now: float) -> None:
        """Grant what is idle or free to those who wait."""
        while self.idle and self.waiters:
            entry = self.take(now)
            if entry is not None:
                self._hand(entry, now)
        self._slot_freed()

    @whole
    def leave(self, waiter: Waiter) -> Grant | None:
        """Take a waiter out of the line; return what it was granted in the meantime, if so.

        What is returned belongs to the caller: it is used, or given back
        with `give_back`.  Whoever asks again is told the same, for he may have been
        interrupted before he could note it.
        """
        self.waiters.pop(waiter, None)
        return waiter.granted

    def give_back(self, granted: Grant | None, now: float) -> bool:
        """Pass on what a waiter was granted and cannot use; False as in `put`."""
        if isinstance(granted, Entry):
            return self.put(cast("E", granted), now)
        if granted is SLOT:
            self.open_failed()
        return True

    # Giving

    def put(self, entry: E, now: float) -> bool:
        """Take a leased connection back: to the first waiter, else to the idle ones.

        False if it is surplus: then it is still leased, and the caller closes it
        and reports it `lost`.
        """
        if self._busy:
            self._late.append(lambda: self._put_late(entry, now))
            return True
        if entry.state is not LEASED:
            return False  # given up as a stray, between the caller's look and the lock
        if self.waiters and self._hand(entry, now):
            return True
        if not self.linger and self.keep is not None and len(self.idle) >= self.keep:
            return False
        if self.idle.stamps is None:
            self.idle.add(entry, now)
        else:
            self._add_whole(entry, now)
        return True

    def _put_late(self, entry: E, now: float) -> None:
        if entry.state is LEASED and not self.put(entry, now):
            # Nobody is left who would close it: one too many stays until it is used.
            self.idle.add(entry, now)

    def _hand(self, entry: E, now: float) -> bool:
        """Grant a connection to the first waiter; False if nobody waits any more."""
        # `whole`, written out: most of what a contended pool does is this.
        outer, self._busy = self._busy, True
        try:
            for waiter in self.waiters:
                entry.since = now
                entry.leased_at = now
                # Not the last one's any more: should that caller be killed in another
                # checkout just now, it must not take this connection back.
                entry.holder = 0
                waiter.granted = entry
                del self.waiters[waiter]
                waiter.wake()
                return True
            return False
        finally:
            self._busy = outer
            while self._late and not outer:
                self._late.popleft()()

    def lost(self, entry: E) -> None:
        """Forget a connection that is no more (leased, or held); its slot is free."""
        if self._busy:
            self._late += (lambda: self._lose(entry), self.freed_late)
        else:
            self._lose(entry)

    @whole
    def _lose(self, entry: E) -> None:
        if entry.state is HELD:
            self.held -= 1
        elif entry.state is not LEASED:
            return
        entry.state = GONE
        self.members.discard(entry)
        self._slot_freed()

    @whole
    def open_failed(self) -> None:
        """Give a reserved slot back: the opening failed or was not needed."""
        self.opening -= 1
        self._slot_freed()

    def _slot_freed(self) -> None:
        while self.slots_to_waiters and self.waiters and not self.full:
            waiter = next(iter(self.waiters))
            # No call from here to the last line: an interrupt in between would leave
            # a slot that nobody has.
            self.opening += 1
            waiter.granted = SLOT
            del self.waiters[waiter]
            waiter.wake()

    @whole
    def grant_slot(self) -> bool:
        """Let the first waiter open for itself in a slot that is already reserved."""
        for waiter in self.waiters:
            waiter.granted = SLOT
            del self.waiters[waiter]
            waiter.wake()
            return True
        return False

    @whole
    def refuse(self, make_error: Callable[[], BaseException], limit: int | None = None) -> int:
        """Send the first `limit` waiters (None: all) away, each with an error of its own."""
        refused = list(self.waiters)[:limit]
        for waiter in refused:
            waiter.granted = Refusal(make_error())
            del self.waiters[waiter]
            waiter.wake()
        return len(refused)

    # Housekeeping

    @whole
    def unhold(self, entry: E, now: float) -> None:
        """Put a connection that was held back: to the first waiter, or where it was."""
        if entry.state is not HELD:
            return
        entry.state = LEASED
        self.held -= 1
        if self.waiters and self._hand(entry, now):
            return
        self.idle.put_back(entry)

    @whole
    def _add_whole(self, entry: E, now: float) -> None:
        self.idle.add(entry, now)

    @whole
    def retire(self, *, keeps: bool) -> None:
        """Forget every leased connection, as after a dispose; their slots are free."""
        self.retired = True
        if not keeps:
            self.linger, self.keep = False, 0
        for entry in [each for each in self.members if each.state is LEASED]:
            self._lose(entry)

    @whole
    def idle_times(self) -> list[float]:
        """List since when at least n connections have been idle, the longest first."""
        return self.idle.times()
