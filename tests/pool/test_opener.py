"""What is opened and probed when, through outages of hours, on a clock of its own."""

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable

import pytest

from pyramid_dbpool.drivers.connect_failures import ConnectFailure
from pyramid_dbpool.pool.housekeeper import Task
from pyramid_dbpool.pool.line import Entry, Line, Pause, State, Waiter
from pyramid_dbpool.pool.opener import Openings
from pyramid_dbpool.pool.outage import LONGEST_PAUSE, Outage
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

    def __init__(self, clock: Clock, min_idle: int = 0, grace: float | None = GRACE) -> None:
        self.clock = clock
        self.server = Server(clock)
        self.line: Line[Entry] = Line(2, 4, slots_to_waiters=False)
        self.openings = Openings(
            self.line,
            Stats(),
            refuse=lambda error, kind, lasted: OSError(str(error)),
            set_timer=self.set_timer,
            doubt=lambda: self.doubted.update(self.line.members),
            grace=grace,
            min_idle=min_idle,
        )
        # Each is asked by whoever has it next.
        self.doubted: set[Entry] = set()
        self.network_is_dead = False
        self.hold = 0.0
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
        if self.network_is_dead:
            return  # it hangs, and so does its holder
        if entry in self.doubted:
            self.doubted.discard(entry)
            self.openings.answered(self.clock.now)
        self.served.append(self.clock.now)
        if self.hold:
            self.clock.call_at(self.clock.now + self.hold, lambda: self._give_back(entry))
        else:
            self._give_back(entry)

    def _give_back(self, entry: Entry) -> None:
        self.line.put(entry, self.clock.now)

    def lose_all(self) -> None:
        """Have every connection found dead, wherever it is."""
        for entry in list(self.line.members):
            if not self.line.hold(entry):
                assert entry.state is State.LEASED
            self.line.lost(entry)
        self.openings.plan(self.clock.now)
        self.launch()

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
    """However long the outage, whoever asks 2 s after it or later is served at once."""
    random.seed(seed)
    start = callers.clock.now
    back = start + length + seed / 20
    callers.ask_every(pace, back + 60)
    callers.clock.run_until(back)
    callers.server.down = False
    asked_before = len(callers.server.asked)
    callers.clock.run_until(back + 60)
    assert callers.server.asked[asked_before] - back <= max(2.0, pace)
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


def in_use(callers: Callers) -> None:
    """Open two connections, hold each for 50 ms, and let no others be opened from then on."""
    clock = callers.clock
    callers.server.down, callers.hold = False, 0.05
    callers.ask()
    callers.ask()
    clock.run_until(clock.now + 1)
    assert callers.line.total == 2
    callers.server.down = True


# Two connections that are held for 50 ms each serve every 25 ms: somebody waits, none too long.
BUSY = 0.024


@pytest.mark.parametrize("kind", [ConnectFailure.UNREACHABLE, ConnectFailure.CONFIGURATION])
def test_nobody_is_refused_while_open_connections_come_back_in_order(
    callers: Callers, kind: ConnectFailure
) -> None:
    """Neither by a resolver that fails or a firewall, nor by one login that is refused."""
    in_use(callers)
    clock, start = callers.clock, callers.clock.now
    callers.server.kind = lambda: kind
    callers.ask_every(BUSY, start + 60)
    clock.run_until(start + 60)
    assert callers.openings.outage is not None
    assert not callers.openings.is_cut_off(clock.now)
    assert callers.refused == []
    assert len(callers.served) >= 60 / 0.025 - 10
    # One prober, and its pauses.
    assert len(callers.server.asked) <= 2 + 2 * 60 + 5
    callers.server.down, asked = False, len(callers.server.asked)
    callers.ask_every(BUSY / 2, start + 65)
    clock.run_until(start + 80)
    assert callers.openings.outage is None
    assert callers.line.total == 4
    assert len(callers.server.asked) == asked + 2
    assert callers.refused == []


def test_connections_that_hang_do_not_hide_an_outage(callers: Callers) -> None:
    """Once the grace is over since one of them was heard of, callers are refused at once."""
    in_use(callers)
    clock, start = callers.clock, callers.clock.now
    callers.ask_every(BUSY, start + 60)
    clock.run_until(start + 20)
    assert callers.refused == []
    callers.network_is_dead = True
    clock.run_until(start + 20 + GRACE + 1.5)
    assert callers.openings.is_cut_off(clock.now)
    assert not callers.line.waiting
    before = len(callers.refused)
    clock.run_until(start + 40)
    assert len(callers.refused) - before >= 8.4 / BUSY
    assert not callers.line.waiting


def test_a_connection_that_was_given_back_unused_is_no_sign_of_life(callers: Callers) -> None:
    """In a network that is dead it comes back too."""
    callers.server.down = False
    callers.ask()
    clock, line = callers.clock, callers.line
    clock.run_until(clock.now + 1)
    lease = line.take(clock.now)
    assert lease is not None
    callers.server.down = callers.network_is_dead = True
    start = clock.now
    callers.ask_every(1.0, start + 30)
    for _ in range(11):
        clock.run_until(clock.now + 1)
        line.put(lease, clock.now)
        lease = line.take(clock.now) or lease
    assert callers.openings.is_cut_off(clock.now)
    assert not line.waiting


# While somebody waits: how soon he is served when the server is back, and what that costs it.
SOON, ATTEMPTS_A_SECOND = 0.4, 4


def wait_all_the_time(
    clock: Clock, until: float, grace: float | None = None, takes: float = 0.0
) -> Callers:
    """Have three callers at a time wait, each for `TIMEOUT`, as long as the server is away."""
    callers = Callers(clock, grace=grace)
    callers.server.takes = takes
    for number in range(3):
        clock.run_until(clock.now + number / 10)
        callers.ask_every(TIMEOUT, until)
    return callers


@pytest.mark.parametrize("takes", [0.0, 0.02, 0.2])
@pytest.mark.parametrize("length", [3.0, 8.0, 600.0])
@pytest.mark.parametrize("seed", range(10))
def test_who_waits_is_served_as_soon_as_the_server_is_back(
    clock: Clock, length: float, takes: float, seed: int
) -> None:
    """Also if the attempt that is under way just then fails late."""
    start = clock.now
    back = start + length + seed / 30
    callers = wait_all_the_time(clock, back + 2, takes=takes)
    clock.run_until(back)
    callers.server.down, callers.server.takes = False, 0.0
    clock.run_until(back + 2)
    # Here the clock runs on in an attempt: the last one may have begun before, and end later.
    assert callers.served[0] - back <= SOON
    assert callers.refused == []


@pytest.mark.parametrize("length", [8.0, 130.0, 600.0])
def test_waiting_costs_the_server_no_more_than_four_attempts_a_second(
    clock: Clock, length: float
) -> None:
    """However many wait, and however they come and go."""
    start = clock.now
    callers = wait_all_the_time(clock, start + length)
    callers.ask_every(0.05, start + length)
    clock.run_until(start + length)
    asked = callers.server.asked
    assert 3 * length - 5 <= len(asked) <= ATTEMPTS_A_SECOND * length
    # The first ones are closer to each other, for a blip.
    assert min(later - sooner for sooner, later in itertools.pairwise(asked[3:])) > 0.25


def test_attempts_while_somebody_waits_do_not_march_in_step(clock: Clock) -> None:
    """A hundred processes lose the server at the same moment."""
    start = clock.now
    pools = [Callers(clock, grace=None) for _ in range(100)]
    for each in pools:
        each.ask_every(TIMEOUT / 2, start + 20)
    clock.run_until(start + 20)
    slots = Counter(int((at - start) * 20) for each in pools for at in each.server.asked)
    assert slots[0] == 100
    # In 50 ms there are 16 of them on an average.
    assert max(count for slot, count in slots.items() if slot >= 20) < 60


def test_a_slow_failure_is_followed_by_a_pause_too(clock: Clock) -> None:
    """Though it took longer than the pause from its beginning."""
    callers = wait_all_the_time(clock, clock.now + 60, takes=2.0)
    clock.run_until(clock.now + 60)
    asked = callers.server.asked
    assert min(later - sooner for sooner, later in itertools.pairwise(asked)) > 2.04


def test_when_nobody_waits_any_more_the_pauses_are_long(clock: Clock) -> None:
    """Whoever is refused does not wait; his question has the server asked all the same."""
    callers, start = wait_all_the_time(clock, clock.now + 60, GRACE), clock.now
    callers.ask_every(0.05, start + 60)
    clock.run_until(start + GRACE + 1)
    assert callers.line.waiting == 0
    asked = len(callers.server.asked)
    clock.run_until(start + 60)
    later = callers.server.asked[asked:]
    assert min(b - a for a, b in itertools.pairwise(later)) >= LONGEST_PAUSE / 2
    assert len(later) <= 2 * 49


def test_who_comes_in_a_long_pause_has_the_server_asked_at_once(clock: Clock) -> None:
    """The pause that nobody waited for is not his."""
    callers = Callers(clock, grace=None)
    for number in range(6):
        clock.run_until(clock.now + (LONGEST_PAUSE if number else 0.0))
        waiter = Waiter(lambda: None, clock.now)
        callers.openings.admit(waiter, clock.now)
        callers.launch()
        callers.line.leave(waiter)
    outage = callers.openings.outage
    assert outage is not None
    clock.run_until(outage.awaited_retry_at)
    assert outage.retry_at > clock.now
    asked = len(callers.server.asked)
    callers.ask()
    assert len(callers.server.asked) == asked + 1


def test_a_full_server_is_not_hurried(clock: Clock) -> None:
    """Each attempt costs it a process, and others decide when there is room."""
    start = clock.now
    callers = wait_all_the_time(clock, start + 60)
    callers.server.kind = lambda: ConnectFailure.SATURATED
    clock.run_until(start + 60)
    assert callers.line.waiting
    assert len(callers.server.asked) <= 2 * 60 + 5


def test_a_refused_login_is_told_at_once_when_the_last_connection_is_gone(
    callers: Callers,
) -> None:
    """As where there was none; and each caller asks anew, so that nobody is told old news."""
    in_use(callers)
    clock, start = callers.clock, callers.clock.now
    callers.server.kind = lambda: ConnectFailure.CONFIGURATION
    callers.ask_every(BUSY, start + 20)
    clock.run_until(start + 20)
    clock.run_until(start + 21)
    assert callers.refused == []
    callers.network_is_dead = True
    for _ in range(3):
        callers.ask()
    assert callers.line.waiting
    callers.lose_all()
    assert not callers.line.waiting
    assert len(callers.refused) == 1
    callers.ask()
    assert len(callers.refused) == 2
    assert callers.openings.outage is None
    callers.server.down = callers.network_is_dead = False
    callers.ask()
    clock.run_until(clock.now)
    assert len(callers.refused) == 2


def test_what_is_missing_is_not_opened_again_and_again_beside_a_refused_login(
    clock: Clock,
) -> None:
    """Nobody waits, so nobody asks."""
    callers = Callers(clock, min_idle=2)
    in_use(callers)
    callers.server.kind = lambda: ConnectFailure.CONFIGURATION
    entry = next(iter(callers.line.idle))
    assert callers.line.hold(entry)
    callers.line.lost(entry)
    asked = len(callers.server.asked)
    callers.openings.plan(clock.now)
    callers.launch()
    clock.run_until(clock.now + 600)
    assert len(callers.server.asked) == asked + 1
    callers.ask()
    clock.run_until(clock.now + 1)
    assert callers.refused == []


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


def test_a_pool_that_nobody_asks_leaves_the_server_alone(clock: Clock) -> None:
    """Its minimum is missing all the time: sixty of them would open eighty a second."""
    pools = [Callers(clock, min_idle=1) for _ in range(60)]
    start = clock.now
    for each in pools:
        each.ask_every(1.0, start + 20)
    clock.run_until(start + 22)
    asked = [len(each.server.asked) for each in pools]
    clock.run_until(start + 3600)
    assert [len(each.server.asked) for each in pools] == asked
    for each in pools:
        each.server.down = False
    clock.run_until(start + 7200)
    assert not any(each.line.total for each in pools)


def test_the_minimum_is_filled_when_somebody_comes_after_an_outage(clock: Clock) -> None:
    """He is served by the first; the others are opened for those to come."""
    callers, start = Callers(clock, min_idle=2), clock.now
    callers.ask_every(1.0, start + 20)
    clock.run_until(start + 3600)
    callers.server.down = False
    callers.ask()
    clock.run_until(clock.now)
    assert len(callers.served) == 1
    assert callers.line.total == 2


def test_a_refused_caller_has_the_server_asked_for_those_after_him(callers: Callers) -> None:
    """Once: he is told what is known, and it may be out of date already."""
    clock, start = callers.clock, callers.clock.now
    callers.ask_every(1.0, start + 20)
    clock.run_until(start + 20.5)
    asked, refused = len(callers.server.asked), len(callers.refused)
    callers.ask()
    clock.run_until(start + 60)
    assert len(callers.refused) == refused + 1
    assert len(callers.server.asked) == asked + 1


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
        outage.failed(ConnectFailure.UNREACHABLE, OSError(), 10.0)
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


def begin_planned(openings: Openings[Entry], now: float) -> None:
    """Begin what is planned; each of them hangs."""
    while openings.planned:
        openings.planned.popleft()
        assert openings.begin(object(), now)


def test_a_slow_first_connect_is_no_reason_for_five_more(callers: Callers) -> None:
    """It may be busy with its second host; one beside it is enough for one who waits."""
    openings, line, start = callers.openings, callers.line, callers.clock.now
    line.capacity = 15
    for number in (1, 2):
        assert openings.admit(Waiter(lambda: None, start), start) is True
        openings.plan(start)
        begin_planned(openings, start)
        assert line.opening == number
    for tick in range(1, 100):
        openings.look(start + tick / 20)
        begin_planned(openings, start + tick / 20)
    assert line.opening == 4


def test_openings_that_hang_for_ever_keep_nobody_from_his_own(callers: Callers) -> None:
    """Where nothing bounds a connect: they did not help those before him either."""
    openings, line, now = callers.openings, callers.line, callers.clock.now
    line.capacity = 15
    for number in range(1, 5):
        waiter = Waiter(lambda: None, now)
        assert openings.admit(waiter, now) is True
        for _ in range(int(TIMEOUT)):
            openings.look(now)
            begin_planned(openings, now)
            now += 1.1
        assert line.opening == 2 * number
        line.leave(waiter)


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


def test_whoever_began_before_the_end_of_a_pause_and_failed_begins_no_outage(
    clock: Clock,
) -> None:
    """Nor one for himself, where no thread could be started: what he met was the maintenance."""
    callers = Callers(clock)
    openings, kind, error = callers.openings, ConnectFailure.UNREACHABLE, OSError("away")
    began = clock.now
    openings.pause(clock.now)
    callers.line.pause(Pause(clock.now, "me"))
    openings.away(kind, error, began, clock.now)
    assert openings.outage is None
    clock.now += 1.0
    openings.resume(clock.now)
    callers.line.resume(clock.now)
    openings.away(kind, error, began, clock.now)
    assert openings.outage is None
    openings.away(kind, error, clock.now, clock.now)
    assert openings.outage is not None
