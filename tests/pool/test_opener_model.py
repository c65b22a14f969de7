"""Random histories of servers, networks and callers, and what `Openings` promises in each."""

import random
from contextvars import Context

import pytest

from pyramid_dbpool.drivers.connect_failures import ConnectFailure
from pyramid_dbpool.pool.housekeeper import Task
from pyramid_dbpool.pool.line import Entry, Line, Pause, Refusal, State, Waiter
from pyramid_dbpool.pool.opener import Openings
from pyramid_dbpool.pool.outage import ANSWER_STANDS, LONGEST_PAUSE
from pyramid_dbpool.pool.stats import Stats
from tests.pool.test_opener import GRACE, TIMEOUT, Clock

CAPACITY = 6
# How long an opening takes, in seconds, and how it fails.
WEATHER: dict[str, tuple[float, ConnectFailure | None]] = {
    "fine": (0.01, None),
    "slow": (2.5, None),
    "refuses": (0.001, ConnectFailure.UNREACHABLE),
    "silent": (5.0, ConnectFailure.UNREACHABLE),
    # Nor is anything heard on what is open.
    "dead": (5.0, ConnectFailure.UNREACHABLE),
    "full": (0.01, ConnectFailure.SATURATED),
    "wrong": (0.01, ConnectFailure.CONFIGURATION),
}
LONGEST_OPENING = 5.0
PING_TIMEOUT = 2.0


class World:
    """One pool's callers and openings under a weather that changes."""

    def __init__(self, seed: int, capacity: int = CAPACITY) -> None:
        self.rng = random.Random(seed)
        self.clock = Clock()
        self.line: Line[Entry] = Line(capacity // 2, capacity, slots_to_waiters=False)
        self.stats = Stats()
        self.openings = Openings(
            self.line,
            self.stats,
            refuse=self.make_error,
            set_timer=self.set_timer,
            doubt=lambda: self.doubted.update(self.line.members),
            grace=self.rng.choice([0.0, 1.0, GRACE, None]),
            min_idle=self.rng.choice([0, 1, 3]),
            chance=self.rng.random,
        )
        self.weather, self.weathers = "fine", dict(WEATHER)
        self.holds = [0.0, 0.01, 0.1, 0.1, 1.0, 12.0]
        # How many of those that come back are lost.
        self.losses = 0.1
        self.doubted: set[Entry] = set()
        self.running: set[object] = set()
        self.began: list[float] = []
        self.answered_at = float("-inf")
        self.served: list[float] = []
        self._task = Task(None)
        # When the timer called last, and how often before at the same time.
        self._looks = (0.0, 0)

    def set_timer(self, due: float) -> bool:
        """Have `look` called then, and not when it was said before."""
        self._task.cancel()
        self._task = self.clock.call_at(due, self.look)
        return True

    def look(self) -> None:
        """Do what the timer was set for; it is not set again and again for nothing."""
        now = self.clock.now
        self._looks = (now, self._looks[1] + 1 if self._looks[0] == now else 0)
        assert self._looks[1] < 20, "the timer spins"
        self.openings.look(now)
        self.launch()

    def make_error(self, error: BaseException, kind: ConnectFailure, lasted: float) -> OSError:
        """Make what a caller is refused with; its text begins with the kind."""
        return OSError(f"{kind.name}: {error} after {lasted}")

    # Openings

    def launch(self) -> None:
        """Begin what is planned, each beside the others."""
        openings, clock = self.openings, self.clock
        while openings.planned:
            ticket = openings.planned.popleft()
            assert isinstance(ticket.pop(), Context)
            beside, opening = len(self.running), object()
            outage = openings.outage
            if not openings.begin(opening, clock.now):
                continue
            if outage is not None:
                assert beside <= 1 or outage.attempts == 0, "a herd of probers"
            self.began.append(clock.now)
            self.running.add(opening)
            self._end_later(opening, *self.weathers[self.weather])

    def _end_later(self, opening: object, takes: float, failure: ConnectFailure | None) -> None:
        def end() -> None:
            self.running.discard(opening)
            if failure is None:
                entry = Entry()
                if not self.openings.opened(opening, entry, self.clock.now):
                    self.lose(entry)
            else:
                self.openings.failed(opening, failure, OSError(self.weather), self.clock.now)
            self.launch()

        self.clock.call_at(self.clock.now + takes, end)

    # Callers

    def ask(self) -> None:
        """Ask for a connection, and use it."""
        now = self.clock.now
        entry = self.line.take(now)
        if entry is not None:
            self.use(entry)
            return
        waiter = Waiter(lambda: self.woken(waiter), now)
        members = len(self.line.members)
        admitted = self.openings.admit(waiter, now)
        if admitted is not True:
            self.may_refuse(ConnectFailure.UNREACHABLE, members)
            return
        self.clock.call_at(now + TIMEOUT, lambda: self.line.leave(waiter))
        self.launch()

    def woken(self, waiter: Waiter) -> None:
        """Go on with what was granted, in another thread than the one that wakes."""
        granted = waiter.granted
        if isinstance(granted, Entry):
            self.clock.call_at(self.clock.now, lambda: self.use(granted))
        elif isinstance(granted, Refusal):
            kind = ConnectFailure[str(granted.error).partition(":")[0]]
            self.may_refuse(kind, len(self.line.members))

    def may_refuse(self, kind: ConnectFailure, members: int) -> None:
        """Check that there was nothing to wait for."""
        assert kind is not ConnectFailure.SATURATED
        if kind is ConnectFailure.CONFIGURATION:
            assert not members, "a refused login, and connections are open"
        elif members:
            assert self.clock.now - self.answered_at >= ANSWER_STANDS, "an open one works"

    def use(self, entry: Entry) -> None:
        """Have a doubted connection asked, work with it, and give it back."""
        clock, asked = self.clock, entry in self.doubted
        self.doubted.discard(entry)
        if self.weather == "dead":
            clock.call_at(clock.now + (PING_TIMEOUT if asked else 20.0), lambda: self.lose(entry))
            return
        if asked:
            self.answered_at = clock.now
            self.openings.answered(clock.now)
        self.served.append(clock.now)
        hold = self.rng.choice(self.holds)
        clock.call_at(clock.now + hold, lambda: self.give_back(entry))

    def give_back(self, entry: Entry) -> None:
        """Give a connection back, or lose it."""
        self.stats.hold.observe(self.clock.now - entry.leased_at)
        is_lost = self.rng.random() < self.losses or entry.state is not State.LEASED
        if is_lost or not self.line.put(entry, self.clock.now):
            self.lose(entry)

    def lose(self, entry: Entry) -> None:
        """Find a connection dead."""
        self.line.lost(entry)
        self.openings.plan(self.clock.now)
        self.launch()

    # Commands

    def pause(self) -> None:
        """Serve nobody until `resume`."""
        self.openings.pause(self.clock.now)
        self.line.pause(Pause(self.clock.now, "me"))
        for entry in self.line.surplus():
            assert self.line.hold(entry)
            self.lose(entry)

    def resume(self) -> None:
        """Serve the line again."""
        self.line.resume(self.clock.now)
        self.openings.resume(self.clock.now)
        self.openings.plan(self.clock.now)
        self.launch()

    # Time

    def pass_time(self, seconds: float, pace: float | None) -> None:
        """Let time pass, and callers ask at this pace."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            if pace is not None:
                self.ask()
            self.clock.run_until(min(end, self.clock.now + (pace or seconds)))
            self.check()

    def check(self) -> None:
        """Check what holds at any time."""
        line = self.line
        assert line.opening == len(self.openings.planned) + len(self.running)
        assert not self.openings.planned
        assert line.capacity is not None and line.total <= line.capacity
        assert all(self.clock.now - each.since <= TIMEOUT for each in line.waiters)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_the_weather_callers_are_served_again_and_a_quiet_pool_is_quiet(
    seed: int,
) -> None:
    """And nobody was refused beside an open connection that works."""
    world = World(seed)
    rng = world.rng
    for _ in range(12):
        world.weather = rng.choice(list(WEATHER))
        world.pass_time(rng.choice([0.5, 3.0, 15.0, 40.0]), rng.choice([None, 0.02, 0.3, 2.0]))
    # Nobody asks: what is under way ends, and there is at most one more probe.
    world.pass_time(TIMEOUT + 2 * LONGEST_OPENING + LONGEST_PAUSE, None)
    if world.weather not in ("fine", "slow"):
        began = len(world.began)
        members = len(world.line.members)
        world.pass_time(300.0, None)
        # Where one of the minimum is lost, another is tried: once.
        assert len(world.began) - began <= members
    world.weather, world.holds = "fine", [0.1]
    world.pass_time(30.0, 0.5)
    assert world.clock.now - world.served[-1] < 1.0
    world.pass_time(30.0, None)
    assert not world.line.waiting
    assert not world.line.opening


@pytest.mark.parametrize("seed", range(20))
def test_a_paused_pool_leaves_the_server_alone_in_any_weather(seed: int) -> None:
    """And its callers, whom it serves as soon as it is resumed."""
    world = World(seed)
    rng, stats = world.rng, world.stats
    for _ in range(6):
        world.weather = rng.choice(list(WEATHER))
        world.pass_time(rng.choice([0.0, 0.5, 3.0, 15.0]), rng.choice([None, 0.02, 0.3]))
        world.pause()
        began, refused = len(world.began), stats.refused.total()
        world.weather = rng.choice(list(WEATHER))
        seconds = rng.choice([0.5, 3.0, 40.0])
        world.pass_time(seconds, rng.choice([None, 0.02, 0.3]))
        assert (len(world.began), stats.refused.total()) == (began, refused)
        assert world.openings.outage is None
        # Longer than any opening, and any use.
        assert not world.line.total or seconds < 40.0
        world.resume()
    world.weather, world.holds = "fine", [0.1]
    world.pass_time(30.0, 0.5)
    world.pause()
    waiter = Waiter(lambda: world.woken(waiter), world.clock.now)
    assert world.openings.admit(waiter, world.clock.now) is True
    world.pass_time(3.0, None)
    world.resume()
    served = len(world.served)
    world.pass_time(0.1, None)
    assert len(world.served) == served + 1


# Seconds that a connect takes in a spike.
CONNECT = 0.5


def spike(hold: float, before: float) -> tuple[int, float]:
    """Let 50 callers come at once to 5 connections of up to 50.

    :param hold: for how long each of them holds one, in seconds.
    :param before: for how long they were held before.
    :return: how many openings had begun in that moment, and the worst wait in connects.
    """
    world = World(0, capacity=50)
    world.losses, world.holds, world.weathers["fine"] = 0.0, [before], (CONNECT, None)
    for _ in range(4):
        for _ in range(5):
            world.ask()
        world.pass_time(before + 2 * CONNECT, None)
    opened, served = len(world.began), len(world.served)
    assert len(world.line.idle) == 5
    start, world.holds = world.clock.now, [hold]
    for _ in range(50):
        world.ask()
    begun = len(world.began) - opened
    world.pass_time(TIMEOUT, None)
    assert len(world.served) - served == 50
    return begun, (max(world.served) - start) / CONNECT


@pytest.mark.parametrize("before", [0.4, 4.0])
def test_a_spike_of_long_units_waits_for_one_connect(before: float) -> None:
    """Where holds were long all are opened at once: nobody waits for a look."""
    begun, connects = spike(4.0, before)
    assert begun == 45
    assert connects == pytest.approx(1.0)


def test_a_spike_of_short_units_opens_nothing() -> None:
    """Returns serve it before a connect would."""
    begun, connects = spike(0.01, before=0.01)
    assert not begun
    assert connects < 0.25


def test_a_spike_of_long_units_after_short_ones_waits_for_two_connects() -> None:
    """Nothing tells that they are long, until they do not come back."""
    begun, connects = spike(4.0, before=0.01)
    assert not begun
    assert connects < 2.1
