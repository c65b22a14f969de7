"""Refresh, resize, pause and resume: what an operator asks of a pool at work."""

import ctypes
import functools
import logging
import os
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError

from pyramid_dbpool import events
from pyramid_dbpool.errors import PoolLineFull, PoolTimeout
from pyramid_dbpool.events import Event, Kind
from pyramid_dbpool.pool import commands
from pyramid_dbpool.pool.checkout import Checkout
from pyramid_dbpool.pool.deadlines import deadline
from pyramid_dbpool.pool.line import Entry, Line, Pause, Waiter
from pyramid_dbpool.pool.managed import ManagedPool
from tests.support.makers import PATIENCE, Maker, in_thread, wait_for

BOTH = pytest.mark.parametrize("background", [False, True], ids=["inline", "background"])


class Asking:
    """Callers who ask in threads of their own, and what each of them got."""

    def __init__(self, pool: ManagedPool, count: int = 1, seconds: float = PATIENCE) -> None:
        self.pool, self.seconds = pool, seconds
        self.leases: list[Any] = []
        self.errors: list[BaseException] = []
        self.threads = [in_thread(self._ask) for _ in range(count)]

    def _ask(self) -> None:
        try:
            with deadline(self.seconds):
                self.leases.append(self.pool.connect())
        except Exception as error:
            self.errors.append(error)

    def join(self) -> None:
        """Wait until each of them has something."""
        for thread in self.threads:
            thread.join(PATIENCE)


def waiting(pool: ManagedPool, count: int) -> Asking:
    """Have callers wait in the line of a pool."""
    before = pool.snapshot().waiting
    asking = Asking(pool, count)
    wait_for(lambda: pool.snapshot().waiting == before + count)
    return asking


def give_back(*leases: Any) -> None:
    """Give connections back."""
    for each in leases:
        each.close()


def are_closed(maker: Maker) -> list[bool]:
    """List of what was made, in this order, whether it is closed."""
    return [each.closed == 1 for each in maker.made]


def told(kind: Kind, act: Callable[[], object]) -> list[Event]:
    """List what is told of this kind while something is done."""
    last = max((each.number for each in events.recent()), default=0)
    act()
    return [each for each in events.recent(last) if each.kind is kind]


# Refresh


@BOTH
def test_refresh_closes_what_is_idle_now_and_what_is_out_when_it_comes_back(
    maker: Maker, background: bool
) -> None:
    """And nobody notices."""
    pool = ManagedPool(maker, 3, 0, background=background)
    out, idle = pool.connect(), pool.connect()
    idle.close()
    pool.refresh()
    assert are_closed(maker) == [False, True]
    out.close()
    assert are_closed(maker) == [True, True]
    pool.connect().close()
    assert are_closed(maker) == [True, True, False]
    assert pool.snapshot().closed == {"retired": 2}


@BOTH
def test_refresh_serves_who_waits_with_a_fresh_connection(maker: Maker, background: bool) -> None:
    """What comes back is not passed on."""
    pool = ManagedPool(maker, 1, 0, background=background)
    out = pool.connect()
    asking = waiting(pool, 1)
    pool.refresh()
    out.close()
    asking.join()
    assert asking.leases[0].dbapi_connection is maker.made[1]
    give_back(*asking.leases)
    assert are_closed(maker) == [True, False]


@BOTH
def test_refresh_closes_what_was_being_opened(maker: Maker, background: bool) -> None:
    """It may have reached the server that is to be left."""
    pool = ManagedPool(maker, 1, 0, background=background)
    maker.before = pool.refresh
    lease = pool.connect() if not background else None
    if background:
        asking = Asking(pool)
        wait_for(lambda: pool.snapshot().opened)
        maker.before = lambda: None
        asking.join()
        (lease,) = asking.leases
    maker.before = lambda: None
    assert lease is not None
    lease.close()
    assert maker.made[0].closed
    pool.connect().close()
    assert not maker.made[-1].closed


def test_refresh_retires_what_sqlalchemy_has_put_in_its_place(maker: Maker) -> None:
    """Inline, where a listener refuses a connection, SQLAlchemy opens another there and then."""
    pool, refused = ManagedPool(maker, 1, 0, background=False), list[int]()

    @event.listens_for(pool, "checkout")
    def refuse(*_: object) -> None:
        refused.append(1)
        if len(refused) == 1:
            raise DisconnectionError

    lease = pool.connect()
    pool.refresh()
    lease.close()
    pool.connect().close()
    assert are_closed(maker) == [True, True, False]
    # One that has come since then stays.
    refused.clear()
    pool.connect().close()
    pool.connect().close()
    assert are_closed(maker) == [True, True, True, False]


# Resize


@BOTH
def test_a_larger_pool_serves_who_waits_at_once(maker: Maker, background: bool) -> None:
    """Nobody has given anything back."""
    pool = ManagedPool(maker, 1, 0, background=background)
    out = pool.connect()
    asking = waiting(pool, 3)
    pool.resize(2, 1)
    wait_for(lambda: len(asking.leases) == 2)
    assert (pool.size(), pool._max_overflow, pool.snapshot().capacity) == (2, 1, 3)
    assert pool.status().startswith("Pool size: 2  Connections in pool: 0 Current Overflow: 1 ")
    give_back(out)
    asking.join()
    give_back(*asking.leases)


@BOTH
def test_a_smaller_pool_closes_what_is_idle_now_and_the_rest_when_it_comes_back(
    maker: Maker, background: bool
) -> None:
    """What is in use is left alone."""
    pool = ManagedPool(maker, 4, 0, background=background)
    leases = [pool.connect() for _ in range(4)]
    give_back(leases.pop())
    pool.resize(size=2)
    assert are_closed(maker) == [False, False, False, True]
    give_back(leases.pop())
    assert are_closed(maker) == [False, False, True, True]
    give_back(*leases)
    assert are_closed(maker) == [False, False, True, True]
    assert (pool.checkedin(), pool.size(), pool.snapshot().capacity) == (2, 2, 2)
    assert pool.snapshot().closed == {"surplus": 2}


@BOTH
def test_who_waits_for_a_smaller_pool_gets_what_fits(maker: Maker, background: bool) -> None:
    """The first one that comes back is too much; the second one is passed on."""
    pool = ManagedPool(maker, 2, 0, background=background)
    first, second = pool.connect(), pool.connect()
    asking = waiting(pool, 1)
    pool.resize(1)
    first.close()
    assert (are_closed(maker), asking.leases) == ([True, False], [])
    second.close()
    asking.join()
    assert asking.leases[0].dbapi_connection is maker.made[1]
    give_back(*asking.leases)


def test_a_smaller_size_with_the_same_limit_lets_the_rest_linger(maker: Maker) -> None:
    """As connections beyond the size always do, in the plugin's pools."""
    pool = ManagedPool(maker, 3, 0, overflow_linger=60.0, background=True)
    give_back(*[pool.connect() for _ in range(3)])
    pool.resize(1, 2)
    assert (pool.checkedin(), are_closed(maker)) == (3, [False] * 3)
    pool.dispose()


def test_the_overflow_can_be_set_as_that_of_a_queue_pool(maker: Maker) -> None:
    """SQLAlchemy's fixtures for tests of dialects do."""
    pool = ManagedPool(maker, 1, 5, timeout=0)
    pool._max_overflow = 0
    assert (pool._max_overflow, pool.snapshot().capacity) == (0, 1)
    lease = pool.connect()
    with pytest.raises(PoolTimeout):
        pool.connect()
    lease.close()


def test_a_pool_is_made_anew_with_the_size_that_it_was_given(maker: Maker) -> None:
    """After a dispose, and in a forked child."""
    pool = ManagedPool(maker, 1, 0)
    pool.resize(3, -1)
    pool.dispose()
    again = pool.recreate()
    assert (again.size(), again._max_overflow, again.snapshot().capacity) == (3, -1, None)
    again.abandon()
    assert (again.size(), again._max_overflow, again.snapshot().capacity) == (3, -1, None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "the pool: resize takes a size, a max_overflow, or both; neither was given."),
        (
            {"size": 0},
            "the pool: pool_size cannot be resized to 0: give a whole number from 1 on (a pool"
            " without a limit is made so at its start).",
        ),
        (
            {"size": 2.5},
            "the pool: pool_size cannot be resized to 2.5: give a whole number from 1 on (a pool"
            " without a limit is made so at its start).",
        ),
        (
            {"max_overflow": -2},
            "the pool: max_overflow cannot be resized to -2: give a whole number from -1 on (-1"
            " means no limit).",
        ),
        (
            {"size": True},
            "the pool: pool_size cannot be resized to True: give a whole number from 1 on (a pool"
            " without a limit is made so at its start).",
        ),
        (
            {"size": 1},
            "the pool: pool_size = 1 is less than min_idle = 2, which are to be open at any time:"
            " ask for 2 or more.",
        ),
        (
            {"size": 3, "by": 7},
            "by = 7 does not say who asks: give a text for the log, as by='a deploy script'.",
        ),
    ],
)
def test_what_is_no_size_is_refused(maker: Maker, arguments: Any, said: str) -> None:
    """With a sentence, and nothing has changed."""
    pool = ManagedPool(maker, 5, 10, min_idle=2)
    with pytest.raises(ValueError) as caught:
        pool.resize(**arguments)
    assert str(caught.value) == said
    assert (pool.size(), pool._max_overflow) == (5, 10)


@pytest.mark.parametrize("size", [1, 4])
def test_a_resize_that_was_interrupted_can_be_asked_for_again(
    maker: Maker, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """The overflow stays what it was, though nothing was said of it."""
    pool = ManagedPool(maker, 3, 1)

    def killed() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pool._core.line, "_slot_freed", killed)
        with pytest.raises(KeyboardInterrupt):
            pool.resize(size)
    pool.resize(size)
    assert (pool.size(), pool._max_overflow, pool.snapshot().capacity) == (size, 1, size + 1)


def test_a_pool_without_a_limit_is_not_limited_by_half(maker: Maker) -> None:
    """QueuePool's `pool_size = 0`."""
    pool = ManagedPool(maker, 0)
    with pytest.raises(ValueError, match="it has no limit, so max_overflow = 3 alone"):
        pool.resize(max_overflow=3)
    pool.resize(2, 0)
    assert pool.snapshot().capacity == 2


# Pause and resume


@BOTH
def test_a_paused_pool_holds_no_connection_once_all_are_back(
    maker: Maker, background: bool
) -> None:
    """Idle ones go at once; who has one goes on with it."""
    pool = ManagedPool(maker, 2, 0, background=background, min_idle=1, liveness=True)
    out, idle = pool.connect(), pool.connect()
    idle.close()
    pool.pause()
    assert are_closed(maker) == [False, True]
    out.close()
    assert are_closed(maker) == [True, True]
    assert (pool._core.line.total, pool.paused) == (0, True)
    assert pool.snapshot().closed == {"paused": 2}


@BOTH
def test_who_asks_a_paused_pool_is_served_when_it_is_resumed(
    maker: Maker, background: bool
) -> None:
    """Those who waited before, too; nothing is opened until then."""
    pool = ManagedPool(maker, 2, 0, background=background)
    out = pool.connect()
    pool.pause()
    asking = waiting(pool, 2)
    out.close()
    assert (len(maker.made), asking.leases) == (1, [])
    pool.resume()
    asking.join()
    assert (len(asking.leases), pool.paused, len(maker.made)) == (2, False, 3)
    give_back(*asking.leases)
    assert pool.checkedin() == 2


@BOTH
def test_who_waits_in_vain_is_told_of_the_pause(maker: Maker, background: bool) -> None:
    """Since when, by whom, and what ends it."""
    pool = ManagedPool(maker, 1, 0, timeout=0.02, background=background, pool_name="main")
    pool.pause("root from pdbpool")
    with pytest.raises(PoolTimeout) as caught:
        pool.connect()
    text = str(caught.value)
    assert "pool 'main': no connection within 0.0" in text
    assert "(pool_timeout), because the pool has been paused for " in text
    assert "by root from pdbpool: callers wait until it is resumed, with `pdbpool resume`" in text
    assert (caught.value.paused, caught.value.retry_after) == (True, 1)
    with deadline(0.01), pytest.raises(PoolTimeout, match="the deadline of the caller"):
        pool.connect()
    assert (pool.snapshot().refused, maker.made) == ({"timeout": 2}, [])


def test_who_will_not_wait_is_refused_while_paused(maker: Maker) -> None:
    """He opens nothing for himself either."""
    pool = ManagedPool(maker, 1, 0, timeout=0)
    pool.pause()
    with pytest.raises(PoolTimeout, match="has been paused"):
        pool.connect()
    assert not maker.made


@BOTH
def test_the_line_of_a_paused_pool_is_no_longer_than_any(maker: Maker, background: bool) -> None:
    """`max_waiting` bounds it, also where nothing is in use."""
    pool = ManagedPool(maker, 2, 0, max_waiting=1, background=background)
    pool.pause("me")
    asking = waiting(pool, 1)
    with pytest.raises(PoolLineFull) as caught:
        pool.connect()
    assert re.sub(r"\d\.\d s", "0.0 s", str(caught.value)).startswith(
        "the pool: 1 caller waits already, as many as max_waiting allows, because the pool has"
        " been paused for 0.0 s by me: "
    )
    assert caught.value.paused
    pool.resume()
    asking.join()
    give_back(*asking.leases)


@BOTH
def test_what_was_being_opened_when_the_pause_came_is_closed(
    maker: Maker, background: bool
) -> None:
    """And whoever it was opened for waits for the end of it, at his place."""
    pool = ManagedPool(maker, 1, 0, background=background)
    begun, go_on = threading.Event(), threading.Event()

    def hold_up() -> None:
        begun.set()
        go_on.wait(PATIENCE)

    maker.before = hold_up
    asking = Asking(pool)
    begun.wait(PATIENCE)
    pool.pause()
    go_on.set()
    wait_for(lambda: maker.made and maker.made[0].closed)
    wait_for(lambda: pool.snapshot().waiting == 1)
    assert pool._core.line.total == 0
    pool.resume()
    asking.join()
    assert asking.leases[0].dbapi_connection is maker.made[1]
    give_back(*asking.leases)


@BOTH
def test_what_fails_to_open_while_paused_is_nobodys_error(maker: Maker, background: bool) -> None:
    """The maintenance began a little before the connect was over."""
    pool = ManagedPool(maker, 1, 0, background=background, outage_grace=0.0)
    begun, go_on = threading.Event(), threading.Event()

    def fail() -> None:
        begun.set()
        go_on.wait(PATIENCE)
        raise ConnectionError("shutting down")

    maker.before = fail
    asking = Asking(pool)
    begun.wait(PATIENCE)
    pool.pause()
    go_on.set()
    wait_for(lambda: pool.snapshot().opening == 0)
    wait_for(lambda: pool.snapshot().waiting == 1)
    maker.before = lambda: None
    assert pool.outage is None
    pool.resume()
    asking.join()
    assert (len(asking.leases), asking.errors) == (1, [])
    give_back(*asking.leases)


def test_a_record_that_could_not_be_opened_again_is_for_one_caller(maker: Maker) -> None:
    """Whoever had it in hand when the pause came waits, and so do others: each gets another."""
    pool = ManagedPool(maker, 2, 0)
    pool.connect().close()
    pool.retire_all()

    def fail() -> None:
        maker.before = lambda: None
        pool.pause()
        raise ConnectionError("shutting down")

    maker.before = fail
    asking, other = waiting(pool, 1), waiting(pool, 1)
    pool.resume()
    asking.join()
    other.join()
    leases = asking.leases + other.leases
    assert len({each.dbapi_connection for each in leases}) == 2
    give_back(*leases)
    assert (pool.checkedin(), pool._core.line.total) == (2, 2)


def test_a_paused_pool_asks_no_server_that_is_away(maker: Maker) -> None:
    """The prober rests, callers wait, and after the end all begins anew."""
    pool = ManagedPool(maker, 1, 0, background=True, outage_grace=0.0, min_idle=1)
    attempts = list[int]()
    maker.before = lambda: attempts.append(1)
    maker.error = ConnectionError("away")
    asking = Asking(pool)
    asking.join()
    assert asking.errors
    pool.pause()
    wait_for(lambda: pool.snapshot().opening == 0)
    count = len(attempts)
    asking = Asking(pool, seconds=0.3)
    asking.join()
    assert ("paused" in str(asking.errors[0]), len(attempts)) == (True, count)
    asking = waiting(pool, 1)
    maker.error = None
    pool.resume()
    asking.join()
    give_back(*asking.leases)
    assert len(attempts) == count + 1


@BOTH
def test_a_paused_pool_is_not_warmed(maker: Maker, background: bool) -> None:
    """Nor is its server looked at beside it."""
    pool = ManagedPool(maker, 2, 0, min_idle=2, background=background)
    pool.pause()
    pool.warm()
    with pytest.raises(PoolTimeout, match="paused"), pool.opened_apart():
        pass
    assert not maker.made
    pool.resume()
    pool.warm()
    assert len(maker.made) == 2


@BOTH
def test_a_pause_is_carried_over_to_the_pool_that_takes_its_place(
    maker: Maker, background: bool
) -> None:
    """Who waits in the former one is served when it ends."""
    pool = ManagedPool(maker, 1, 0, background=background)
    pool.pause("me")
    early = waiting(pool, 1)
    pool.dispose()
    again = pool.recreate()
    assert again.paused
    late = waiting(again, 1)
    assert not maker.made
    assert [each.fields["paused_by"] for each in told(Kind.RESUME, again.resume)] == ["me"]
    early.join()
    late.join()
    assert (len(early.leases), len(late.leases)) == (1, 1)
    give_back(*early.leases, *late.leases)
    assert (pool._core.line.total, again.checkedin()) == (0, 1)


def test_a_pause_is_carried_over_to_a_forked_child(maker: Maker) -> None:
    """It works with the same database; and its line is its own."""
    pool = ManagedPool(maker, 1, 0)
    pool.pause()
    child = os.fork()
    if child == 0:
        was_paused = pool.paused
        pool.resume()
        pool.connect().close()
        os._exit(0 if was_paused and len(maker.made) == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert pool.paused


PAST_PYTHON: Callable[[], int] = ctypes.PyDLL(None).fork
ASKED: dict[str, Callable[[ManagedPool], object]] = {
    "refresh": lambda pool: pool.refresh(),
    "resize": lambda pool: pool.resize(1, 0),
    "pause": lambda pool: pool.pause(),
    "numbers": lambda pool: pool.snapshot().leased,
    "view": lambda pool: pool.view().holders,
}


@pytest.mark.parametrize("name", ASKED)
def test_a_child_that_python_knows_nothing_of_is_asked_for_its_own(
    maker: Maker, name: str
) -> None:
    """As a hook of uWSGI's does before a worker uses the pool: what is open is the parent's."""
    pool = ManagedPool(maker, 3, 0)
    held = pool.connect()
    give_back(pool.connect(), pool.connect())
    child = PAST_PYTHON()
    if child == 0:
        found = ASKED[name](pool)
        os._exit(1 if found or any(are_closed(maker)) else 0)
    assert os.waitpid(child, 0)[1] == 0
    held.close()
    pool.dispose()


def test_who_has_kept_a_pool_that_was_disposed_of_commands_the_one_in_its_place(
    maker: Maker,
) -> None:
    """`pool.pause()`, the maintenance, `engine.dispose()`, `pool.resume()`."""
    pool = ManagedPool(maker, 1, 0)
    pool.pause()
    made, callers = [pool], [waiting(pool, 1)]
    for _ in range(2):
        made[-1].dispose()
        made.append(made[-1].recreate())
        callers.append(waiting(made[-1], 1))
    pool.resume()
    for each in callers:
        each.join()
        assert each.leases
        give_back(*each.leases)
    assert not any(each.paused or each._core.line.paused for each in made)
    pool.resize(2, 1)
    made[-1].connect().close()
    pool.refresh()
    assert (made[-1].size(), made[-1]._max_overflow) == (2, 1)
    assert all(are_closed(maker))
    assert made[-1]._former is None
    pool.pause()
    assert pool.paused and made[-1]._core.line.paused


def test_nothing_is_pinged_in_a_pause(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for its examination is idle until it is closed."""
    pool = ManagedPool(maker, 1, 0)
    pool.connect().close()
    core = pool._core
    (entry,) = core.line.idle
    monkeypatch.setattr(core.source, "ping", lambda _record: pytest.fail("pinged"))
    core.line.pause(Pause(0.0, "me"))
    assert not core.health.examine(entry)
    assert list(core.line.idle) == [entry]
    pool.resume()


def test_what_upkeep_could_not_close_is_closed_in_a_pause(maker: Maker) -> None:
    """Where no thread can be started, it would come back to the idle ones."""
    pool = ManagedPool(maker, 1, 0)
    pool.connect().close()
    core = pool._core
    (entry,) = core.line.idle
    core.line.hold(entry)
    pool.pause()
    core.upkeep._put_back([(entry, "idle")])
    assert (core.line.total, are_closed(maker)) == (0, [True])


def test_an_opening_that_was_only_planned_is_not_begun_in_a_pause(maker: Maker) -> None:
    """Its thread came a little too late."""
    pool = ManagedPool(maker, 1, 0, background=True)
    core = pool._core
    core.line.pause(Pause(0.0, "me"))
    asking = waiting(pool, 1)
    core.line.opening += 1
    core.opener._open()  # type: ignore[union-attr]
    assert (core.line.opening, maker.made) == (0, [])
    pool.resume()
    asking.join()
    give_back(*asking.leases)


def test_an_opening_for_which_a_smaller_pool_has_no_room_is_not_begun(maker: Maker) -> None:
    """It was planned when there was."""
    pool = ManagedPool(maker, 2, 0, background=True)
    core, lease = pool._core, pool.connect()
    core.line.opening += 1
    pool.resize(1)
    asking = waiting(pool, 1)
    core.opener._open()  # type: ignore[union-attr]
    assert (core.line.opening, len(maker.made)) == (0, 1)
    lease.close()
    asking.join()
    give_back(*asking.leases)


def test_what_failed_before_the_pause_ended_says_nothing(maker: Maker) -> None:
    """Its opening began while the database was being worked on, or before."""
    pool = ManagedPool(maker, 1, 0, background=True)
    begun, go_on = threading.Event(), threading.Event()

    def fail() -> None:
        maker.before = lambda: None
        begun.set()
        go_on.wait(PATIENCE)
        raise ValueError("half a certificate")

    maker.before = fail
    asking = Asking(pool)
    begun.wait(PATIENCE)
    pool.pause()
    pool.resume()
    go_on.set()
    asking.join()
    assert (asking.errors, pool.snapshot().outages) == ([], 0)
    give_back(*asking.leases)


def test_idle_ones_are_condemned_before_they_are_closed(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller may take one meanwhile, which needs no lock: he sees, and waits."""
    pool = ManagedPool(maker, 1, 0, timeout=0)
    pool.connect().close()
    monkeypatch.setattr(pool._core.health, "close_surplus", lambda: None)
    pool.pause()
    with pytest.raises(PoolTimeout, match="paused"):
        pool.connect()
    assert (pool._core.line.total, are_closed(maker)) == (0, [True])


def test_who_was_to_open_for_himself_as_the_pause_came_waits_at_the_head(maker: Maker) -> None:
    """He had had his turn."""
    pool = ManagedPool(maker, 1, 0, background=False)
    core = pool._core
    assert core.line.reserve()
    pool.pause()
    other = waiting(pool, 1)
    opened, began = list[Any](), core.shared.clock()
    checkout = Checkout(core._checkout_parts, None, began, slot=True)
    caller = in_thread(lambda: opened.append(checkout.run()))
    wait_for(lambda: pool.snapshot().waiting == 2)
    assert next(iter(core.line.waiters)).ident == caller.ident
    pool.resume()
    caller.join(PATIENCE)
    pool._do_return_conn(opened.pop().record)
    other.join()
    give_back(*other.leases)
    assert (pool.checkedin(), core.line.opening) == (1, 0)


def test_a_slot_is_kept_where_the_pause_ends_just_then(maker: Maker) -> None:
    """Left, and its owner killed, nobody would be served with it."""
    pool = ManagedPool(maker, 1, 0, background=False)
    core = pool._core
    assert core.line.reserve()
    checkout = Checkout(core._checkout_parts, None, 0.0, slot=True)
    checkout._leave_slot()
    asking = waiting(pool, 1)
    checkout.give_back()
    asking.join()
    give_back(*asking.leases)
    assert (pool.checkedin(), core.line.opening) == (1, 0)


def test_what_was_held_as_the_pool_became_smaller_is_counted_when_it_is_back() -> None:
    """The first one fits; with the second one there would be one too many."""
    line, entries = Line[Entry](2, 2), (Entry(), Entry())
    for each in entries:
        line.reserve()
        line.opened(each, 0.0)
    for each in entries:
        line.put(each, 0.0)
        assert line.hold(each)
    line.resize(1, 1)
    assert [line.unhold(each, 1.0) for each in entries] == [True, False]


COMMANDS: dict[str, Callable[[ManagedPool], None]] = {
    "refresh": lambda pool: pool.refresh(),
    "shrink": lambda pool: pool.resize(1, 0),
    "pause": lambda pool: pool.pause(),
}


def interrupted_once(
    monkeypatch: pytest.MonkeyPatch, thing: object, name: str, command: Callable[[], None]
) -> None:
    """Give a command that is interrupted when it first calls this."""
    real, struck = getattr(thing, name), list[int]()

    def strike(*arguments: Any, **named: Any) -> Any:
        if struck:
            return real(*arguments, **named)
        struck.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(thing, name, strike)
    with pytest.raises(KeyboardInterrupt):
        command()


@BOTH
@pytest.mark.parametrize("name", COMMANDS)
def test_what_an_interrupted_command_leaves_is_closed_in_time(
    maker: Maker, monkeypatch: pytest.MonkeyPatch, background: bool, name: str
) -> None:
    """What it has taken aside at once, for nobody else would; the rest by the timer."""
    pool = ManagedPool(maker, 3, 0, background=background)
    give_back(*[pool.connect() for _ in range(3)])
    command = functools.partial(COMMANDS[name], pool)
    interrupted_once(monkeypatch, pool._core.health, "close_held", command)
    wait_for(lambda: pool._core.line.total == {"shrink": 1}.get(name, 0))
    assert pool._core.line.held == 0
    wait_for(lambda: are_closed(maker).count(False) == pool._core.line.total)


@BOTH
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_whose_line_in_the_log_is_interrupted_is_done(
    maker: Maker, monkeypatch: pytest.MonkeyPatch, background: bool, name: str
) -> None:
    """Who looks at the events finds it there."""
    pool = ManagedPool(maker, 3, 0, background=background)
    give_back(*[pool.connect() for _ in range(3)])
    command = functools.partial(COMMANDS[name], pool)
    strikes = functools.partial(
        interrupted_once, monkeypatch, logging.getLogger(commands.__name__), "log", command
    )
    kind = {"shrink": Kind.RESIZE}.get(name) or Kind(name)
    assert len(told(kind, strikes)) == 1
    assert pool._core.line.total == {"shrink": 1}.get(name, 0)


def test_a_resume_that_is_interrupted_as_it_opens_is_told_of(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under gevent whoever starts a thread may be killed there; and the pool is resumed."""
    pool = ManagedPool(maker, 1, 0, background=True)
    pool.pause()
    strikes = functools.partial(
        interrupted_once, monkeypatch, pool._core.opener, "launch", pool.resume
    )
    assert len(told(Kind.RESUME, strikes)) == 1
    assert not pool.paused


@BOTH
def test_a_resume_that_was_interrupted_is_done_by_the_next_one(
    maker: Maker, monkeypatch: pytest.MonkeyPatch, background: bool
) -> None:
    """Though the pool is not paused any more."""
    pool = ManagedPool(maker, 1, 0, background=background)
    pool.pause()
    asking = waiting(pool, 1)
    interrupted_once(monkeypatch, pool._core.line, "_serve", pool.resume)
    assert (pool.paused, pool.snapshot().waiting) == (False, 1)
    pool.resume()
    asking.join()
    assert asking.leases
    give_back(*asking.leases)


def test_a_second_connection_waits_for_the_end_of_a_pause_too(maker: Maker) -> None:
    """Where a listener refuses the first one, SQLAlchemy opens another there and then."""
    pool, refused = ManagedPool(maker, 1, 0), list[int]()

    @event.listens_for(pool, "checkout")
    def refuse(*_: object) -> None:
        if not refused:
            refused.append(1)
            pool.pause()
            raise DisconnectionError

    asking = Asking(pool)
    wait_for(lambda: pool.snapshot().waiting or asking.leases)
    assert (asking.leases, len(maker.made)) == ([], 1)
    pool.resume()
    asking.join()
    assert asking.leases[0].dbapi_connection is maker.made[1]
    give_back(*asking.leases)


def test_a_slot_whose_opening_could_not_start_is_nobodys_in_a_pause() -> None:
    """And what is idle until it is closed is handed to nobody who joins."""
    line = Line[Entry](1, 2)
    waiter, late = Waiter(lambda: None, 0.0), Waiter(lambda: None, 0.0)
    entry = Entry()
    line.reserve()
    line.opened(entry, 0.0)
    line.put(entry, 0.0)
    line.reserve()
    line.pause(Pause(0.0, "me"))
    assert line.join(waiter) and waiter.granted is None
    assert not line.grant_slot()
    line.rejoin(late, 0.0)
    assert (late.granted, list(line.waiters)) == (None, [late, waiter])


# Words


def test_each_command_says_who_asked_and_what_becomes_of_it(
    maker: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log, and as an event."""
    caplog.set_level(logging.INFO, "pyramid_dbpool")
    pool = ManagedPool(maker, 3, 0, pool_name="main")
    out, idle = pool.connect(), pool.connect()
    idle.close()
    pool.refresh("ann")
    pool.resize(1, 1, by="ann")
    pool.pause("ann\nroot")
    pool.resume()
    seconds = re.compile(r"\d\.\d s")
    lines = [(each.levelname, seconds.sub("0.0 s", each.getMessage())) for each in caplog.records]
    assert lines[:3] == [
        (
            "INFO",
            "pool 'main': refreshed by ann: 1 idle connection is closed now, 1 in use when they"
            " come back.",
        ),
        (
            "INFO",
            "pool 'main': resized by ann from size 3 and overflow 0 to size 1 and overflow 1.",
        ),
        (
            "WARNING",
            "pool 'main': paused by ann root: callers (0 wait now) wait in line until it is"
            " resumed or their time is over, and nothing is opened. 1 connection is in use, and"
            " is closed when it comes back.",
        ),
    ]
    assert lines[3] == (
        "WARNING",
        "pool 'main': resumed by the app's own code, 0.0 s after ann root had paused it.",
    )
    kinds = [each.kind for each in events.recent()][-4:]
    assert kinds == [Kind.REFRESH, Kind.RESIZE, Kind.PAUSE, Kind.RESUME]
    out.close()


def test_what_is_asked_twice_is_done_and_told_once(maker: Maker) -> None:
    """The second one changes nothing."""
    pool = ManagedPool(maker, 2, 0)
    assert not told(Kind.RESUME, pool.resume)
    assert len(told(Kind.PAUSE, pool.pause)) == 1
    before = pool._core.line.paused
    assert not told(Kind.PAUSE, lambda: pool.pause("another"))
    assert pool._core.line.paused is before
    assert len(told(Kind.RESUME, pool.resume)) == 1
    assert len(told(Kind.RESIZE, lambda: pool.resize(3))) == 1
    assert not told(Kind.RESIZE, lambda: pool.resize(3, 0))


def test_a_pause_is_in_the_numbers(maker: Maker) -> None:
    """For how long, for whoever looks."""
    pool = ManagedPool(maker, 1, 0)
    assert pool.snapshot().paused_seconds is None
    pool.pause()
    seconds = pool.snapshot().paused_seconds
    assert seconds is not None and seconds >= 0
    pool.resume()
    assert pool.snapshot().paused_seconds is None
