"""What may be dead is examined beside those who use the pool, by a few threads."""

import dis
import itertools
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest

from pyramid_dbpool.pool import housekeeper
from pyramid_dbpool.pool.examiners import AT_ONCE, Examiners
from pyramid_dbpool.pool.managed import ManagedPool
from tests.support.makers import PATIENCE, Maker, wait_for
from tests.support.striking import CODE

MANY = 150


def filled(maker: Maker, count: int = MANY) -> ManagedPool:
    """Make a pool with so many idle connections."""
    pool = ManagedPool(maker, count, 0, liveness=True, background=True, timeout=PATIENCE)
    for lease in [pool.connect() for _ in range(count)]:
        lease.close()
    return pool


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the threads that are started from now on."""
    names, new_thread = list[str](), housekeeper.new_thread

    def noted(name: str, target: Callable[[], object], *, brief: bool = False) -> threading.Thread:
        names.append(name)
        return new_thread(name, target, brief=brief)

    monkeypatch.setattr(housekeeper, "new_thread", noted)
    return names


def test_many_dead_connections_start_few_threads(maker: Maker, started: list[str]) -> None:
    """Each of them suspects all others; each is examined once."""
    pool = filled(maker)
    dead = list(maker.made)
    for each in dead:
        each.far.shutdown(socket.SHUT_RDWR)
    started.clear()
    pool.connect().close()
    wait_for(lambda: all(each.closed for each in dead))
    assert started.count("dbpool-upkeep") <= 2 * AT_ONCE
    numbers = pool.snapshot()
    assert numbers.closed["dead"] == MANY
    pool.dispose()


def test_so_many_at_once_and_each_of_them_once(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a network that drops silently each ping takes its time."""
    pool = filled(maker)
    lock, answer, asked = threading.Lock(), threading.Event(), list[object]()
    at_work, most = [0], [0]

    def ping(record: Any) -> bool:
        with lock:
            asked.append(record)
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])
        answer.wait(PATIENCE)
        with lock:
            at_work[0] -= 1
        return True

    core = pool._core
    monkeypatch.setattr(core.source, "ping", ping)
    core.health.suspect_others(None)
    wait_for(lambda: at_work[0] == AT_ONCE)
    for _ in range(3):
        core.health.suspect_others(None)
    answer.set()
    wait_for(lambda: not core.health.examiners._at_work)
    assert most[0] == AT_ONCE
    # Those that were under way when the second suspicion came are as suspicious as before.
    assert len(set(asked)) == MANY <= len(asked) <= MANY + AT_ONCE
    assert (pool.snapshot().idle, pool.snapshot().held) == (MANY, 0)
    pool.dispose()


def test_where_no_thread_can_start_the_next_one_tries_again(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile whoever takes one of them examines it himself."""
    pool = filled(maker, 3)
    core, refused = pool._core, [True]
    start_thread = housekeeper.start_thread

    def start(name: str, run: Callable[[], object]) -> None:
        if refused[0]:
            raise RuntimeError("can't start new thread")
        start_thread(name, run)

    examiners = core.health.examiners = Examiners(core.shared, core.health.examine, start=start)
    core.health.suspect_others(None)
    assert all(each.suspect for each in core.line.idle)
    assert not examiners.start()
    pool.connect().close()
    refused[0] = False
    assert examiners.start()
    wait_for(lambda: not examiners._at_work)
    assert not any(each.suspect or each.awaited for each in core.line.idle)
    pool.dispose()


def test_who_is_killed_at_work_is_replaced(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a greenlet may be: the next one who comes has the rest examined."""
    pool = filled(maker, 3)
    core = pool._core

    def killed(_entry: object) -> None:
        raise SystemExit

    def start(_name: str, run: Callable[[], object]) -> None:
        with suppress(SystemExit):
            run()

    examiners = core.health.examiners = Examiners(core.shared, killed, start=start)
    core.health.suspect_others(None)
    assert not examiners._at_work
    monkeypatch.setattr(examiners, "_examine", core.health.examine)
    core.health.suspect_others(None)
    assert not any(each.suspect for each in core.line.idle)
    assert not examiners._queue
    pool.dispose()


def interrupting(left: list[int]) -> Callable[..., Any]:
    """Make a trace function that interrupts whoever suspects, after so many calls of our code."""
    last = dict[FrameType, str]()

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(CODE):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            # Where Python looks for signals: elsewhere none strikes.
            after_call = last.get(frame, "").startswith("CALL")
            last[frame] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            left[0] -= after_call
            if left[0] < 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    return trace


@pytest.mark.slow
def test_who_is_interrupted_as_he_suspects_takes_no_place_with_him(maker: Maker) -> None:
    """Wherever it strikes: the next one who comes has them examined."""
    sys._getframe().f_trace_opcodes = True
    pool = filled(maker, 1)
    core = pool._core
    examiners = core.health.examiners
    for step in itertools.count():
        left = [step]
        trace = interrupting(left)
        sys.settrace(trace)
        try:
            with suppress(KeyboardInterrupt):
                core.health.suspect_others(None)
        finally:
            sys.settrace(None)
        core.health.suspect_others(None)
        wait_for(lambda: not examiners._at_work)
        assert not examiners._coming and not examiners._queue
        if left[0] >= 0:
            assert step > 10, "nothing was interrupted"
            break
    pool.dispose()


def test_what_cannot_be_closed_stops_nobody(
    maker: Maker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A listener that raises is told in the log; the others are examined."""
    pool = filled(maker, 3)
    dead = list(maker.made)
    for each in dead:
        each.far.shutdown(socket.SHUT_RDWR)

    core = pool._core

    def drop(_record: object) -> None:
        raise ValueError("not now")

    monkeypatch.setattr(core.source, "drop", drop)
    core.health.suspect_others(None)
    wait_for(lambda: caplog.text.count("could not be closed in order") == 3)
    assert core.line.total == 0
    pool.dispose()
