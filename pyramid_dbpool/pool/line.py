"""Who gets what: idle connections, free slots and those who wait for them.

A pure state machine: no thread, no lock, no I/O, no clock.  Whoever owns a `Line` calls
it with its own lock held and passes the time in, in seconds; only `take` needs no lock, for it
is one atomic `pop`, and while anything is idle nobody waits.  What is decided is returned, or
put into `Waiter.granted` just before its `wake`.

The promises (`tests/pool/test_line_model.py` proves them):

- waiters are served in the order in which they came, and `take` and `reserve`
  refuse a newcomer while anybody waits;
- idle + leased + held + opening never exceeds the capacity, and never grows beyond one that was
  lowered meanwhile: what is too much then goes when it comes back;
- an entry has one place at a time;
- whatever becomes free goes to the first waiter at once: a connection always,
  a slot too where waiters open for themselves (`slots_to_waiters`);
- while it is paused nobody gets anything, and nothing that comes back stays.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from math import inf
from typing import Generic, TypeVar, cast

# Seconds after the last waiter came during which a line counts as crowded.
CROWDED_FOR = 1.0


class State(enum.Enum):
    """Where an entry is."""

    NEW = "new"
    IDLE = "idle"
    LEASED = "leased"
    HELD = "held"
    GONE = "gone"


NEW, IDLE, LEASED, HELD, GONE = State


class Entry:
    """One open connection's place in the line.

    `since` is when it was last returned; `stamp` is the time that left the idle ones' books with
    it, while it is held.
    """

    __slots__ = ("holder", "label", "leased_at", "since", "stamp", "state")

    def __init__(self) -> None:
        self.state = NEW
        self.since = self.stamp = 0.0
        self.leased_at = 0.0
        self.label: object | None = None
        self.holder = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.state.value}>"


E = TypeVar("E", bound=Entry)


class Slot:
    """What a waiter is granted when it may open a connection itself."""

    def __repr__(self) -> str:
        return "<Slot>"


class Refusal:
    """What a waiter is granted when waiting on has become pointless."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __repr__(self) -> str:
        return f"<Refusal {self.error!r}>"


@dataclass(frozen=True)
class Pause:
    """Since when nobody is served, and who has asked for it."""

    since: float
    by: str


SLOT = Slot()
Grant = Entry | Slot | Refusal


class Waiter:
    """One caller in the line; `wake` is called once, when `granted` has been set."""

    __slots__ = ("context", "granted", "ident", "label", "since", "wake")

    def __init__(
        self,
        wake: Callable[[], object],
        since: float,
        context: Context | None = None,
        ident: int = 0,
        label: object | None = None,
    ) -> None:
        self.wake = wake
        self.since = since
        # For those who look: his thread, and what he is called.
        self.ident = ident
        self.label = label
        # In which a connection may be opened for it; the opening that uses it takes it away.
        self.context = context
        self.granted: Grant | None = None

    def __repr__(self) -> str:
        return f"<Waiter since={self.since} granted={self.granted!r}>"


class Idle(deque[E]):
    """Idle connections, the one that was returned first at the left.

    :param lifo: hand out the connection that was returned last, not first.
    :param stamped: remember how long how many have been idle, for housekeeping.
    """

    def __init__(self, *, lifo: bool, stamped: bool) -> None:
        super().__init__()
        self.lifo = lifo
        # With FIFO each connection is used in turn, so its own `since` says nothing
        # about how many are surplus.  Times kept as a stack do: the n-th from the
        # bottom is the time since when at least n connections have been idle.
        self.stamps: deque[float] | None = deque() if stamped and not lifo else None
        self.take = self.pop if lifo else self.popleft

    def add(self, entry: E, now: float) -> None:
        """Put a connection that was just returned in its place."""
        if self.stamps is not None:
            self._trim(self.stamps)
            self.stamps.append(now)
        # The place last, and no call before it: `take` may take it at once.
        entry.since = now
        # Nobody's: were its last holder killed in another checkout just when the next
        # one takes it, it would be taken back from that one.
        entry.holder = 0
        entry.state = IDLE
        self.append(entry)

    def take_out(self, entry: E) -> bool:
        """Take this very connection; False if a caller was quicker."""
        if self.stamps is not None:
            self._trim(self.stamps)
        try:
            self.remove(entry)
        except ValueError:
            return False
        entry.stamp = entry.since
        if self.stamps and len(self.stamps) > len(self):
            entry.stamp = self.stamps.popleft()
        return True

    def put_back(self, entry: E) -> None:
        """Put back what was taken out: where it was, for it has not been used."""
        entry.state = IDLE
        if self.stamps is not None:
            self._trim(self.stamps)
            # The time that it took away: with its own, each keepalive would make connections
            # that nobody needs look as if they had been used lately.
            self.stamps.insert(bisect_left(self.stamps, entry.stamp), entry.stamp)
        # A copy: `take` may take one in the middle of this.
        place = bisect_left([each.since for each in list(self)], entry.since) if self.lifo else 0
        self.insert(place, entry)

    def times(self) -> list[float]:
        """List since when at least n connections have been idle, the longest first."""
        if self.stamps is None:
            return sorted(each.since for each in list(self))
        self._trim(self.stamps)
        return list(self.stamps)

    def _trim(self, stamps: deque[float]) -> None:
        # `take` leaves the stamps alone, so that it is one atomic step; the youngest
        # ones of those who were taken go now.
        while len(stamps) > len(self):
            stamps.pop()


class Line(Generic[E]):
    """Decide who gets which connection or slot.

    :param keep: how many idle connections to keep for good; None: all.
    :param capacity: how many connections there may be at once; None: no limit.
    :param lifo: hand out the connection that was returned last, not first.
    :param linger: keep idle connections beyond `keep` too (housekeeping closes them later).
    :param stamped: remember how long how many have been idle, for housekeeping.
    :param slots_to_waiters: grant a free slot to the first waiter; if false, the
        owner watches `free` and `waiting`, and opens connections for the line.
    :param max_waiting: the longest line; None: no bound.
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
    ) -> None:
        self.keep = keep
        self.capacity = capacity
        self.linger = linger
        self.slots_to_waiters = slots_to_waiters
        self.max_waiting = max_waiting
        self.idle = Idle[E](lifo=lifo, stamped=stamped)
        # Every connection there is; those neither idle nor held are leased.
        self.members: set[E] = set()
        self.held = 0
        self.opening = 0
        self.waiters: OrderedDict[Waiter, None] = OrderedDict()
        # Somebody had to wait lately, up to this time.
        self.crowded_until = 0.0
        self.replaced = False
        self.paused: Pause | None = None
        # Whether what comes back may have to go: while paused, and after a `resize` until there is
        # no more than there may be. One thing to ask, for every return asks it.
        self.curbed = False

    def __repr__(self) -> str:
        return (
            f"<Line idle={len(self.idle)} leased={self.leased} held={self.held}"
            f" opening={self.opening} waiting={len(self.waiters)} capacity={self.capacity}>"
        )

    # Counting

    @property
    def waiting(self) -> int:
        """Count the callers in the line."""
        return len(self.waiters)

    @property
    def leased(self) -> int:
        """Count the connections in the hands of callers."""
        return len(self.members) - len(self.idle) - self.held

    @property
    def total(self) -> int:
        """Count every connection that is open, being opened or being closed."""
        return len(self.members) + self.opening

    @property
    def free(self) -> int | None:
        """Count the slots in which a connection may be opened; None: no limit."""
        return None if self.capacity is None else self.capacity - self.total

    @property
    def full(self) -> bool:
        """Whether no further connection may be opened."""
        if self.paused is not None:
            return True
        return self.capacity is not None and len(self.members) + self.opening >= self.capacity

    # Taking

    def take(self, now: float) -> E | None:
        """Lease an idle connection to a newcomer; None unless there is one (and nobody waits).

        The one method that may be called without the owner's lock.
        """
        # In a crowd hardly anything is idle, and an exception costs as much as the rest of this.
        if not self.idle:
            return None
        try:
            entry = self.idle.take()
        except IndexError:  # another caller was quicker
            return None
        entry.state = LEASED
        entry.leased_at = now
        return entry

    def join(self, waiter: Waiter) -> bool:
        """Put a newcomer at the end of the line; False if the line is full.

        If something has become free since he asked, it is granted at once.
        """
        longest, standing = self.max_waiting, len(self.waiters)
        # The second question costs more than the rest, and hardly ever comes up.
        if longest is not None and standing >= longest and standing >= self._places:
            return False
        self.waiters[waiter] = None
        self.crowded_until = waiter.since + CROWDED_FOR
        if self.idle or (self.slots_to_waiters and not self.full):
            self._serve(waiter.since)
        return True

    def join_full(self, waiter: Waiter) -> bool:
        """Put a newcomer at the end of the line of a full pool: `join` in short.

        False, and he stands nowhere, if there may be something for him, or the line is full.
        """
        if self.idle or self.capacity is None:
            return False
        if len(self.members) + self.opening < self.capacity:
            return False
        if self.max_waiting is not None and len(self.waiters) >= self.max_waiting:
            return False
        self.waiters[waiter] = None
        self.crowded_until = waiter.since + CROWDED_FOR
        return True

    @property
    def _places(self) -> float:
        """How many may stand in the line: those who only wait for an opening do not count."""
        if self.paused is not None and self.max_waiting is not None:
            return self.max_waiting
        at_hand = self.idle or (self.slots_to_waiters and not self.full)
        if at_hand or self.capacity is None or self.max_waiting is None:
            return inf
        opened_for_line = 0 if self.slots_to_waiters else self.capacity - len(self.members)
        return self.max_waiting + opened_for_line

    def rejoin(self, waiter: Waiter, now: float) -> None:
        """Put back, at the head, a caller whose connection turned out to be dead."""
        self.waiters[waiter] = None
        self.waiters.move_to_end(waiter, last=False)
        self._serve(now)

    def _serve(self, now: float) -> None:
        """Grant what is idle or free to those who wait."""
        if self.paused is not None:
            return
        while self.idle and self.waiters:
            entry = self.take(now)
            if entry is not None:
                self._hand(entry, now)
        self._slot_freed()

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
        if entry.state is not LEASED:
            return False  # given up as unreceived, between the caller's look and the lock
        if self.curbed and self.is_too_much():
            return False
        if self.waiters and self._hand(entry, now):
            return True
        if not self.linger and self.keep is not None and len(self.idle) >= self.keep:
            return False
        self.idle.add(entry, now)
        return True

    def _hand(self, entry: E, now: float) -> bool:
        """Grant a connection to the first waiter; False if nobody waits any more."""
        for waiter in self.waiters:
            entry.since = now
            entry.leased_at = now
            # Nobody's, until the waiter has it: should its last holder be killed in another
            # checkout just now, that one must not take this connection back.
            entry.holder = 0
            waiter.granted = entry
            del self.waiters[waiter]
            waiter.wake()
            return True
        return False

    def lost(self, entry: E) -> None:
        """Forget a connection that is no more (leased, or held); its slot is free."""
        if entry.state is HELD:
            self.held -= 1
        elif entry.state is not LEASED:
            return
        entry.state = GONE
        self.members.discard(entry)
        self._slot_freed()

    # Slots

    def reserve(self) -> bool:
        """Reserve a slot for an opening by a newcomer, if there is one and nobody waits."""
        if self.waiters or self.full:
            return False
        self.opening += 1
        return True

    def opened(self, entry: E, now: float) -> None:
        """Turn an opening into a lease, for whoever reserved it."""
        entry.leased_at = entry.since = now
        entry.state = LEASED
        self.opening -= 1
        self.members.add(entry)

    def reopening(self, entry: E) -> None:
        """Turn the lease of a dead connection into an opening by the same caller."""
        entry.state = GONE
        self.opening += 1
        self.members.discard(entry)

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

    def grant_slot(self) -> bool:
        """Let the first waiter open for itself in a slot that is already reserved."""
        if self.paused is not None:
            return False
        for waiter in self.waiters:
            waiter.granted = SLOT
            del self.waiters[waiter]
            waiter.wake()
            return True
        return False

    def refuse(self, make_error: Callable[[], BaseException], limit: int | None = None) -> int:
        """Send the first `limit` waiters (None: all) away, each with an error of its own."""
        refused = list(self.waiters)[:limit]
        for waiter in refused:
            waiter.granted = Refusal(make_error())
            del self.waiters[waiter]
            waiter.wake()
        return len(refused)

    # Housekeeping

    def hold(self, entry: E) -> bool:
        """Take an idle connection aside, to check or close it; False if it is not idle."""
        if entry.state is not IDLE or not self.idle.take_out(entry):
            return False
        entry.state = HELD
        self.held += 1
        return True

    def unhold(self, entry: E, now: float) -> bool:
        """Put a connection that was held back: to the first waiter, or where it was.

        False if there is no room for it any more: then it is still held, and the caller closes
        it and reports it `lost`.
        """
        if entry.state is not HELD:
            return True
        if self.curbed and self.is_too_much(with_held=1):
            return False
        entry.state = LEASED
        self.held -= 1
        if not (self.waiters and self._hand(entry, now)):
            self.idle.put_back(entry)
        return True

    def make_way(self, *, keeps: bool) -> None:
        """Forget every leased connection, as after a dispose; their slots are free."""
        self.replaced = True
        if not keeps:
            self.linger, self.keep = False, 0
        for entry in [each for each in self.members if each.state is LEASED]:
            self.lost(entry)

    # Commands

    def resize(self, keep: int | None, capacity: int | None) -> None:
        """Have another size: what is free then goes to those who wait, `surplus` is to be closed.

        :param keep: as in `Line`, and
        :param capacity: too.
        """
        # First: what comes back is looked at whatever an interrupt leaves undone.
        self.curbed = True
        self.keep, self.capacity = keep, capacity
        self._slot_freed()

    def pause(self, pause: Pause) -> None:
        """Serve nobody until `resume`; all that is idle is `surplus`."""
        self.curbed = True
        self.paused = pause

    def resume(self, now: float) -> None:
        """Serve those who wait again."""
        self.paused = None
        self._serve(now)

    def is_too_much(self, with_held: int = 0) -> bool:
        """Tell whether a connection that comes back has to go.

        :param with_held: how many of the held ones are to count; the others may be about to go.
        """
        if self.paused is not None:
            return True
        if self.capacity is not None and self.total - self.held + with_held > self.capacity:
            return True
        self.curbed = self.capacity is not None and self.total > self.capacity
        return False

    def surplus(self) -> list[E]:
        """List the idle connections for which there is no room, the longest unused first."""
        idle = list(self.idle)
        if self.paused is not None:
            return idle
        beyond = 0 if self.capacity is None else self.total - self.held - self.capacity
        if not self.linger and self.keep is not None:
            beyond = max(beyond, len(idle) - self.keep)
        return idle[: max(0, beyond)]

    def idle_times(self) -> list[float]:
        """List since when at least n connections have been idle, the longest first."""
        return self.idle.times()
