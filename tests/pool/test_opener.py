"""The prober through outages of minutes, on a clock of its own."""

import heapq
import itertools
import random
import threading
from collections.abc import Callable

import pytest

from pyramid_dbpool.drivers.connect_failures import ConnectFailure
from pyramid_dbpool.pool import opener as module
from pyramid_dbpool.pool.entries import Entry, Waiter
from pyramid_dbpool.pool.housekeeper import Task
from pyramid_dbpool.pool.line import Line
from pyramid_dbpool.pool.opener import Opener
from pyramid_dbpool.pool.outage import Trouble
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
    """Opens what the opener asks for, or refuses."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.down = True
        self.kind = ConnectFailure.UNREACHABLE
        self.asked: list[float] = []
        self.takes = 0.0

    def open_entry(self) -> Entry:
        """Open one connection."""
        self.asked.append(self.clock.now)
        self.clock.now += self.takes
        if self.down:
            raise OSError("Connection refused")
        return Entry()

    def close_entry(self, entry: Entry, reason: str) -> None:
        """Close one."""

    def classify(self, error: BaseException) -> ConnectFailure:
        """Call each failure the same."""
        return self.kind

    def refusal(self, error: BaseException, kind: ConnectFailure) -> BaseException:
        """Make an error."""
        return OSError(str(error))


class Callers:
    """Ask for connections as `Checkout` does."""

    def __init__(self, clock: Clock, min_idle: int = 0) -> None:
        self.clock = clock
        self.server = Server(clock)
        self.line: Line[Entry] = Line(2, 4, slots_to_waiters=False)
        lock = threading.RLock()
        self.opener = Opener(
            self.server,
            self.server,
            self.line,
            lock,
            Stats(),
            clock=lambda: self.clock.now,
            grace=GRACE,
            min_idle=min_idle,
            start=lambda run: run(),  # on this clock a connect takes no time, or all of it
        )
        self.served: list[float] = []
        self.refused: list[float] = []

    def ask(self) -> None:
        """Ask for a connection, and give it back at once."""
        now = self.clock.now
        entry = self.line.take(now)
        if entry is not None:
            self._serve(entry)
            return
        if self.opener.refused_locked(now) is not None:
            self.refused.append(now)
            return
        waiter = Waiter(lambda: self._woken(waiter), now)
        self.line.join(waiter)
        self.clock.call_at(now + TIMEOUT, lambda: self.line.leave(waiter))
        self.opener.asked_locked(now)
        self.opener.openings.launch()

    def _woken(self, waiter: Waiter) -> None:
        if isinstance(waiter.granted, Entry):
            # Not inside the line: the one who wakes is in another thread.
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
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give a clock, with the opener's tasks on it."""
    clock = Clock()
    monkeypatch.setattr(module, "housekeeper", lambda: clock)
    return clock


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
    assert callers.opener.trouble is not None
    assert callers.opener.trouble.since == start


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
    assert callers.opener.trouble is not None
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
    callers.server.kind = ConnectFailure.CONFIGURATION
    callers.ask()
    clock.run_until(clock.now + 60)
    assert len(callers.server.asked) == 1


def test_grace_counts_from_the_first_failure_whatever_follows(callers: Callers) -> None:
    """A server that is full and out of reach in turn is in one outage."""
    start = callers.clock.now
    kinds = itertools.cycle([ConnectFailure.UNREACHABLE, ConnectFailure.SATURATED])
    callers.server.classify = lambda error: next(kinds)  # type: ignore[method-assign]
    callers.ask_every(0.2, start + 30)
    callers.clock.run_until(start + 30)
    assert callers.opener.trouble is not None
    assert callers.opener.trouble.since < start + 1.0


def test_openings_that_fail_together_are_one_try() -> None:
    """Counted one by one, a blip would cost everybody the longest pause."""
    trouble = Trouble(ConnectFailure.UNREACHABLE, 10.0, OSError())
    for _ in range(6):
        trouble.failed(ConnectFailure.UNREACHABLE, OSError(), 10.0, asked=True)
    assert trouble.tries == 1
    assert trouble.retry_at <= 10.1
