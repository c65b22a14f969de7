"""What is opened and probed when, through outages of hours, on a clock of its own."""

import heapq
import itertools
import random
from collections.abc import Callable

import pytest

from pyramid_dbpool.drivers.connect_failures import ConnectFailure
from pyramid_dbpool.pool.housekeeper import Task
from pyramid_dbpool.pool.line import Entry, Line, Waiter
from pyramid_dbpool.pool.opener import Openings
from pyramid_dbpool.pool.outage import Outage
from pyramid_dbpool.pool.stats import Stats

GRACE = 10.0
TIMEOUT = 5.0


class Clock:
    """A clock that jumps from one event to the next, and the housekeeper on it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._events: list[tuple[float, int, Task]] = []
        self._serial = itertools.count()

    def call_at(self, due: float, run: Callable[[], object]) -> Task:
        """Call `run` at `due`."""
        task = Task(run)
        heapq.heappush(self._events, (due, next(self._serial), task))
        return task

    def run_until(self, end: float) -> None:
        """Let time pass up to `end`."""
        while self._events and self._events[0][0] <= end:
            due, _, task = heapq.heappop(self._events)
            self.now = max(self.now, due)
            if task.run is not None:
                task.run()
        self.now = max(self.now, end)


class Server:
    """Answers each opening, or refuses it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.down = True
        self.kind: Callable[[], ConnectFailure] = lambda: ConnectFailure.UNREACHABLE
        self.asked: list[float] = []
        self.takes = 0.0


class Callers:
    """Ask for connections as `Checkout` does, and have opened what `Openings` says."""

    def __init__(self, clock: Clock, min_idle: int = 0) -> None:
        self.clock = clock
        self.server = Server(clock)
        self.line: Line[Entry] = Line(2, 4, slots_to_waiters=False)
        self.openings = Openings(
            self.line,
            Stats(),
            refuse=lambda error, kind, lasted: OSError(str(error)),
            set_timer=self.set_timer,
            grace=GRACE,
            min_idle=min_idle,
        )
        self.served: list[float] = []
        self.refused: list[float] = []
        self._task = Task(None)

    def set_timer(self, due: float) -> bool:
        """Have `look` called then, and not when it was said before."""
        self._task.cancel()
        self._task = self.clock.call_at(due, self.look)
        return True

    def look(self) -> None:
        """Do what the timer was set for."""
        self.openings.look(self.clock.now)
        self.launch()

    def launch(self) -> None:
        """Open what is planned: a connect takes no time, or all of it."""
        while self.openings.planned:
            self.openings.planned.popleft()
            opening, clock = object(), self.clock
            if not self.openings.begin(opening, clock.now):
                continue
            self.server.asked.append(clock.now)
            clock.now += self.server.takes
            if self.server.down:
                error = OSError("Connection refused")
                self.openings.failed(opening, self.server.kind(), error, clock.now)
            else:
                assert self.openings.opened(opening, Entry(), clock.now)

    def ask(self) -> None:
        """Ask for a connection, and give it back at once."""
        now = self.clock.now
        entry = self.line.take(now)
        if entry is not None:
            self._serve(entry)
            return
        waiter = Waiter(lambda: self._woken(waiter), now)
        admitted = self.openings.admit(waiter, now)
        if admitted is not True:
            self.refused.append(now)
            return
        self.clock.call_at(now + TIMEOUT, lambda: self.line.leave(waiter))
        self.launch()

    def _woken(self, waiter: Waiter) -> None:
        if isinstance(waiter.granted, Entry):
            # Outside of the line, as the one who wakes is in another thread.
            entry = waiter.granted
            self.clock.call_at(self.clock.now, lambda: self._serve(entry))
        else:
            self.refused.append(self.clock.now)

    def _serve(self, entry: Entry) -> None:
        self.served.append(self.clock.now)
        self.line.put(entry, self.clock.now)

    def ask_every(self, seconds: float, until: float) -> None:
        """Ask again and again."""
        if self.clock.now <= until:
            self.ask()
            self.clock.call_at(self.clock.now + seconds, lambda: self.ask_every(seconds, until))


@pytest.fixture
def clock() -> Clock:
    """Give a clock that stands until it is told."""
    return Clock()


@pytest.fixture
def callers(clock: Clock) -> Callers:
    """Give callers on a clock of their own."""
    return Callers(clock)


@pytest.mark.parametrize(
    ("length", "pace"), [(8.0, 0.05), (130.0, 0.05), (130.0, 3.0), (130.0, 40.0), (3600.0, 40.0)]
)
@pytest.mark.parametrize("seed", range(20))
def test_first_connect_follows_the_servers_return(
    callers: Callers, length: float, pace: float, seed: int
) -> None:
    """However long the outage, while anybody asks there is a connection within 2 s."""
    random.seed(seed)
    start = callers.clock.now
    back = start + length + seed / 20
    callers.ask_every(pace, back + 60)
    callers.clock.run_until(back)
    callers.server.down = False
    asked_before = len(callers.server.asked)
    callers.clock.run_until(back + 60)
    assert callers.server.asked[asked_before] - back <= 2.0
    assert callers.served[0] - back <= 2.0 + pace
    assert not [each for each in callers.refused if each > back + 2.0]


def test_long_outage_is_probed_at_a_steady_pace(callers: Callers) -> None:
    """Never more than a second apart, twice a second at most, however many are refused."""
    start = callers.clock.now
    callers.ask_every(0.05, start + 130)
    callers.clock.run_until(start + 130)
    asked = callers.server.asked
    assert len(asked) <= 2 * 130 + 5
    assert max(later - sooner for sooner, later in itertools.pairwise(asked)) < 1.1


def test_an_outage_begins_with_the_attempt_that_fails(callers: Callers) -> None:
    """Where packets vanish it takes its whole time; "away for 0.0 s" would help nobody."""
    start, callers.server.takes = callers.clock.now, 4.0
    callers.ask()
    assert callers.openings.outage is not None
    assert callers.openings.outage.since == start


def test_one_long_lease_does_not_hide_an_outage(callers: Callers) -> None:
    """After the grace callers are refused at once, though a connection is out."""
    callers.server.down = False
    callers.ask()
    callers.clock.run_until(callers.clock.now)
    lease = callers.line.take(callers.clock.now)
    assert lease is not None
    callers.server.down = True
    start = callers.clock.now
    callers.ask_every(1.0, start + 30)
    callers.clock.run_until(start + GRACE + 2)
    before = len(callers.refused)
    callers.clock.run_until(start + 30)
    assert len(callers.refused) - before == 18
    assert callers.line.waiting == 0
    # What lives and comes back is handed out all the same.
    callers.line.put(lease, callers.clock.now)
    served = len(callers.served)
    callers.ask()
    assert len(callers.served) == served + 1


def test_first_caller_after_a_quiet_time_is_not_refused_on_old_news(callers: Callers) -> None:
    """Nobody asked for an hour: the prober rested, so the next caller has the server asked."""
    start = callers.clock.now
    callers.ask_every(1.0, start + 20)
    callers.clock.run_until(start + 3600)
    assert callers.openings.outage is not None
    callers.server.down = False
    refused = len(callers.refused)
    callers.ask()
    callers.clock.run_until(start + 3601)
    assert len(callers.refused) == refused
    assert len(callers.served) == 1


def test_caller_during_the_slow_pace_has_the_server_asked_at_once(callers: Callers) -> None:
    """With a minimum to fill the prober goes on slowly; whoever comes does not wait for it."""
    callers = Callers(callers.clock, min_idle=1)
    start = callers.clock.now
    callers.ask_every(1.0, start + 20)
    callers.clock.run_until(start + 600)
    asked = callers.server.asked
    count = len(asked)
    assert asked[-1] - asked[-2] > 2
    while len(asked) == count:
        callers.clock.run_until(callers.clock.now + 0.01)
    callers.clock.run_until(callers.clock.now + 3)
    assert len(asked) == count + 1
    callers.server.down = False
    callers.ask()
    callers.clock.run_until(callers.clock.now + 0.1)
    assert len(callers.served) == 1


def test_minimum_is_not_opened_again_and_again_after_a_wrong_setting(clock: Clock) -> None:
    """A wrong password is asked about once for each caller, not a thousand times a second."""
    callers = Callers(clock, min_idle=1)
    callers.server.kind = lambda: ConnectFailure.CONFIGURATION
    callers.ask()
    clock.run_until(clock.now + 60)
    assert len(callers.server.asked) == 1


def test_grace_counts_from_the_first_failure_whatever_follows(callers: Callers) -> None:
    """A server that is full and out of reach in turn is in one outage."""
    start = callers.clock.now
    kinds = itertools.cycle([ConnectFailure.UNREACHABLE, ConnectFailure.SATURATED])
    callers.server.kind = lambda: next(kinds)
    callers.ask_every(0.2, start + 30)
    callers.clock.run_until(start + 30)
    assert callers.openings.outage is not None
    assert callers.openings.outage.since < start + 1.0


def test_openings_that_fail_together_are_one_attempt() -> None:
    """Counted one by one, a blip would cost everybody the longest pause."""
    outage = Outage(ConnectFailure.UNREACHABLE, 10.0, OSError())
    for _ in range(6):
        outage.failed(ConnectFailure.UNREACHABLE, OSError(), 10.0, asked=True)
    assert outage.attempts == 1
    assert outage.retry_at <= 10.1


def test_opening_that_hangs_is_told_from_one_that_is_slow(callers: Callers) -> None:
    """Others are opened beside it after more than a second, and more than four usual connects."""
    openings, line, start = callers.openings, callers.line, callers.clock.now
    callers.server.down = False
    assert openings.admit(Waiter(lambda: None, start), start) is True
    openings.planned.clear()  # its thread begins, and hangs
    assert openings.begin("hangs", start)
    for after, beside in ((0.5, 0), (0.99, 0), (1.01, 1)):
        openings.look(start + after)
        assert len(openings.planned) == beside, after
    assert line.opening == 2


def test_opening_for_nobody_gives_its_slot_back(callers: Callers) -> None:
    """Whoever it was planned for has been served, or has gone."""
    waiter, start = Waiter(lambda: None, callers.clock.now), callers.clock.now
    callers.openings.admit(waiter, start)
    callers.line.leave(waiter)
    assert not callers.openings.begin("late", start)
    assert callers.line.opening == 0


def test_an_opening_that_fails_late_tells_old_news(callers: Callers) -> None:
    """Begun before another one that has succeeded since: the server is there."""
    openings, line, now = callers.openings, callers.line, callers.clock.now
    for at, opening in ((now, "old"), (now + 1.0, "new")):
        assert openings.admit(Waiter(lambda: None, at), at) is True
        line.opening = max(line.opening, 1 if opening == "old" else 2)
        openings.planned.clear()
        assert openings.begin(opening, at)
    openings.opened("new", Entry(), now + 2.0)
    openings.failed("old", ConnectFailure.UNREACHABLE, OSError("gone"), now + 3.0)
    assert openings.outage is None


def test_minimum_is_not_opened_again_and_again_after_a_fault_of_the_program(clock: Clock) -> None:
    """As of a connect listener's: nobody asks, so nothing is tried until somebody does."""
    callers = Callers(clock, min_idle=1)
    openings = callers.openings
    openings.admit(Waiter(lambda: None, clock.now), clock.now)
    openings.planned.popleft()
    openings.begin("first", clock.now)
    openings.failed("first", None, ValueError("a fault"), clock.now)
    assert not openings.planned
    assert callers.line.total == 0
