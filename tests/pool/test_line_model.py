"""The line's promises, proved against random histories on a virtual clock."""

# mypy: ignore-errors

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from pyramid_dbpool.pool.line import (
    HELD,
    IDLE,
    LEASED,
    SLOT,
    Entry,
    Line,
    Pause,
    Refusal,
    Waiter,
)
from pyramid_dbpool.pool.upkeep import next_surplus, surplus_idle

picks = st.integers(min_value=0, max_value=10**6)


class LineModel(RuleBasedStateMachine):
    """Drive a line with every event there is, in any order, and check each promise."""

    @initialize(
        keep=st.integers(1, 3),
        extra=st.integers(0, 3),
        lifo=st.booleans(),
        linger=st.booleans(),
        slots_to_waiters=st.booleans(),
        max_waiting=st.none() | st.integers(0, 4),
    )
    def start(self, keep, extra, lifo, linger, slots_to_waiters, max_waiting):  # noqa: PLR0917
        self.now = 0.0
        self.capacity = keep + extra
        self.line = Line(
            keep,
            self.capacity,
            lifo=lifo,
            linger=linger,
            slots_to_waiters=slots_to_waiters,
            max_waiting=max_waiting,
        )
        self.queue = []  # the waiters, in the order in which they are to be served
        self.woken = []  # the waiters that were woken and have not looked yet
        # In the order of the history, for `pick`: that of a set is one of addresses.
        self.leases = []  # entries in the hands of a caller
        self.held = []
        self.slots = 0  # openings in the hands of a caller
        self.most = 0  # how many connections and openings there were when last seen
        self.leftover = set()  # what was idle when the pause came

    def wake(self, waiter):
        """Check that the one who is served is the one whose turn it is."""
        assert self.queue and self.queue[0] is waiter, "served out of turn"
        assert waiter.granted is not None
        assert not self.line.paused or isinstance(waiter.granted, Refusal), "served while paused"
        del self.queue[0]
        self.woken.append(waiter)

    def make_waiter(self):
        waiter = Waiter(None, self.now)
        waiter.wake = lambda: self.wake(waiter)
        return waiter

    def lease(self, entry):
        assert entry not in self.leases, "held twice"
        self.leases.append(entry)

    @rule(seconds=st.floats(0, 50))
    def time_passes(self, seconds):
        self.now += seconds

    @rule()
    def newcomer(self):
        entry = self.line.take(self.now)
        if entry is not None and self.line.paused:
            # He was quicker than whoever closes it, and sees that it is condemned.
            self.line.lost(entry)
        elif entry is not None:
            assert not self.queue, "a newcomer overtook"
            self.lease(entry)
        elif self.line.slots_to_waiters and self.line.reserve():
            assert not self.queue and not self.line.paused, "a newcomer overtook"
            self.slots += 1
        else:
            waiter = self.make_waiter()
            real = len(self.queue)
            if self.line.join(waiter):
                self.queue.append(waiter)
                bound = self.line.max_waiting
                assert not self.line.paused or bound is None or real < bound, "the line is full"
            else:
                assert real >= self.line.max_waiting, "refused, though the line is not full"

    @rule()
    def newcomer_in_short(self):
        """Whom the short way lets in, `join` would have let in, and there is nothing for him."""
        waiter = self.make_waiter()
        # In a pause, too: there is more to be thought of.
        free = self.line.idle or self.line.total < self.capacity
        if self.line.join_full(waiter):
            assert not free and waiter.granted is None
            assert self.line.max_waiting is None or len(self.queue) < self.line.max_waiting
            self.queue.append(waiter)
        else:
            refuses = (
                self.line.max_waiting is not None and len(self.queue) >= self.line.max_waiting
            )
            assert free or refuses
            assert waiter not in self.line.waiters

    @precondition(lambda self: not self.line.slots_to_waiters)
    @rule()
    def owner_opens(self):
        """The owner opens one for the line, in the background."""
        if self.queue and not self.line.full:
            self.line.opening += 1
            self.slots += 1

    @precondition(lambda self: self.slots)
    @rule(mine=st.booleans())
    def opening_succeeds(self, mine):
        self.slots -= 1
        entry = Entry()
        self.line.opened(entry, self.now)
        self.lease(entry)
        # Whoever has opened for himself in a pause waits again, at the head.
        if not mine or self.line.paused:
            self.put(entry)

    @precondition(lambda self: self.slots)
    @rule()
    def opening_fails(self):
        self.slots -= 1
        self.line.open_failed()

    def put(self, entry):
        self.leases.remove(entry)
        line = self.line
        goes = line.paused or line.total - line.held > self.capacity
        kept = line.put(entry, self.now)
        assert not (goes and kept), "kept, though there is no room for it"
        if not kept:
            if not goes:
                assert not self.queue
                assert len(line.idle) >= line.keep and not line.linger
            line.lost(entry)

    def pick(self, things, n):
        return things[n % len(things)]

    @precondition(lambda self: self.leases)
    @rule(n=picks)
    def comes_back(self, n):
        self.put(self.pick(self.leases, n))

    @precondition(lambda self: self.leases)
    @rule(n=picks)
    def breaks(self, n):
        entry = self.pick(self.leases, n)
        self.leases.remove(entry)
        self.line.lost(entry)

    @precondition(lambda self: self.leases)
    @rule(n=picks)
    def turns_out_dead(self, n):
        """A caller got a dead connection: it opens again in its place, or rejoins at the head."""
        entry = self.pick(self.leases, n)
        self.leases.remove(entry)
        if self.line.slots_to_waiters:
            self.line.reopening(entry)
            self.slots += 1
        else:
            self.line.lost(entry)
            # As `Checkout` does under the same lock: nobody waits beside an idle one.
            other = self.line.take(self.now)
            if other is not None:
                self.lease(other)
                return
            waiter = self.make_waiter()
            self.queue.insert(0, waiter)
            self.line.rejoin(waiter, self.now)

    @precondition(lambda self: self.woken)
    @rule(n=picks)
    def woken_waiter_takes_it(self, n):
        waiter = self.woken.pop(n % len(self.woken))
        granted = self.line.leave(waiter)
        if isinstance(granted, Entry):
            self.lease(granted)
        elif granted is SLOT:
            self.slots += 1

    @precondition(lambda self: self.woken)
    @rule(n=picks)
    def woken_waiter_is_killed(self, n):
        """Between hand-off and receipt the waiter is interrupted: all goes back."""
        waiter = self.woken.pop(n % len(self.woken))
        granted = self.line.leave(waiter)
        if not self.line.give_back(granted, self.now):
            self.line.lost(granted)

    @precondition(lambda self: self.queue)
    @rule(n=picks)
    def waiter_gives_up(self, n):
        waiter = self.queue.pop(n % len(self.queue))
        assert self.line.leave(waiter) is None

    @precondition(lambda self: self.queue)
    @rule(limit=st.none() | st.integers(1, 2))
    def refused(self, limit):
        before = len(self.queue)
        count = self.line.refuse(lambda: RuntimeError("no"), limit)
        assert (
            count == before - len(self.queue) == (before if limit is None else min(limit, before))
        )
        errors = [w.granted.error for w in self.woken if isinstance(w.granted, Refusal)]
        assert len(set(map(id, errors))) == len(errors), "an error was shared"

    @precondition(lambda self: self.line.idle)
    @rule(n=picks)
    def taken_aside(self, n):
        entry = self.line.idle[n % len(self.line.idle)]
        assert self.line.hold(entry)
        self.held.append(entry)

    @precondition(lambda self: self.held)
    @rule(n=picks, alive=st.booleans())
    def put_back_from_aside(self, n, alive):
        entry = self.pick(self.held, n)
        self.held.remove(entry)
        line = self.line
        goes = line.paused or line.total - line.held + 1 > self.capacity
        if not alive:
            line.lost(entry)
        elif line.unhold(entry, self.now):
            assert not goes, "kept, though there is no room for it"
        else:
            assert goes
            line.lost(entry)

    @rule(
        idle_timeout=st.none() | st.floats(1, 60), linger=st.floats(0, 20), least=st.integers(0, 2)
    )
    def housekeeping(self, idle_timeout, linger, least):
        wants = {"linger": linger, "idle_timeout": idle_timeout, "min_idle": least}
        due = next_surplus(self.line, **wants)
        doomed = surplus_idle(self.line, self.now, **wants)
        assert bool(doomed) == (due is not None and due <= self.now)
        for entry in doomed:
            assert self.line.hold(entry)
            self.line.lost(entry)
        assert not doomed or self.line.total - self.line.opening >= least
        due = next_surplus(self.line, **wants)
        assert due is None or due > self.now

    @rule(keep=st.integers(1, 3), extra=st.integers(0, 3))
    def resized(self, keep, extra):
        self.capacity = keep + extra
        self.line.resize(0 if self.line.replaced else keep, self.capacity)

    @rule()
    def paused(self):
        """What is idle is closed a little later, one by one."""
        self.leftover = set(self.line.idle)
        self.line.pause(Pause(self.now, "me"))

    @rule()
    def resumed(self):
        self.line.resume(self.now)

    @rule(limit=st.integers(1, 3))
    def sheds(self, limit):
        """What is surplus is closed; perhaps not all of it."""
        line = self.line
        for entry in line.surplus()[:limit]:
            assert line.hold(entry)
            line.lost(entry)
        if not line.surplus():
            beyond = line.total - line.held - self.capacity
            assert not line.idle or (not line.paused and beyond <= 0)

    @rule()
    def dispose(self):
        for entry in list(self.line.idle):
            self.line.hold(entry)
            self.line.lost(entry)

    @rule()
    def make_way(self):
        """After dispose and recreate, what is checked out no longer counts."""
        woken = {w.granted for w in self.woken if isinstance(w.granted, Entry)}
        self.line.make_way(keeps=True)
        self.leases.clear()
        self.woken = [w for w in self.woken if w.granted not in woken]

    @invariant()
    def promises_hold(self):
        line = self.line
        granted = [w.granted for w in self.woken]
        pending = [g for g in granted if isinstance(g, Entry)]
        assert line.total <= max(self.capacity, self.most), "more than the capacity"
        self.most = line.total
        assert line.curbed or (not line.paused and line.total <= self.capacity)
        assert not line.paused or set(line.idle) <= self.leftover, "idle in a pause"
        assert line.leased == len(self.leases) + len(pending)
        assert line.held == len(self.held)
        assert line.opening == self.slots + sum(g is SLOT for g in granted)
        assert list(line.waiters) == self.queue, "the line is not in order"
        assert len(line.members) == len(line.idle) + line.leased + line.held
        assert len(set(line.idle)) == len(line.idle)
        assert not set(line.idle) & set(self.leases)
        assert all(each.state is IDLE for each in line.idle)
        assert all(each.state is LEASED for each in self.leases)
        assert all(each.state is HELD for each in self.held)
        times = line.idle_times()
        assert len(times) == len(line.idle)
        assert times == sorted(times)
        if self.queue:
            assert not line.idle or line.paused, "a connection is idle while somebody waits"
            if line.slots_to_waiters:
                assert line.full, "a slot is free while somebody waits"

    def teardown(self):
        """Give everything back: nothing may be left over."""
        if not hasattr(self, "line"):
            return
        for waiter in list(self.queue):
            self.queue.remove(waiter)
            self.line.leave(waiter)
        for waiter in self.woken:
            granted = self.line.leave(waiter)
            if not self.line.give_back(granted, self.now):
                self.line.lost(granted)
        for entry in list(self.leases):
            self.put(entry)
        for entry in list(self.held):
            if not self.line.unhold(entry, self.now):
                self.line.lost(entry)
        for _ in range(self.slots):
            self.line.open_failed()
        line = self.line
        assert (line.leased, line.held, line.opening, line.waiting) == (0, 0, 0, 0)
        assert line.total == len(line.idle) == len(line.members)


TestLine = LineModel.TestCase
TestLine.settings = settings(
    max_examples=150,
    stateful_step_count=60,
    deadline=None,
    # That is what a busy machine is.
    suppress_health_check=[HealthCheck.too_slow],
)
