"""`ManagedPool` on its own: what the conformance suite does not ask of every pool."""

import gc
import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import create_engine, event, exc
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.pool import QueuePool

from pyramid_dbpool import checks, openings, upkeep
from pyramid_dbpool.errors import DatabaseUnavailable, PoolLineFull, PoolTimeout
from pyramid_dbpool.labels import holder_label
from pyramid_dbpool.limits import deadline
from pyramid_dbpool.liveness import Look, limited, socket_of
from pyramid_dbpool.options import PoolOptions
from pyramid_dbpool.pool import ManagedPool
from tests.makers import Maker, wait_for


def in_thread(run: Callable[[], object]) -> threading.Thread:
    """Start a thread."""
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_recreate_passes_every_argument(maker: Maker) -> None:
    """A pool that replaces another one behaves like it."""
    arguments = ManagedPool.plugin_arguments(3, 4)
    arguments["timeout"] = arguments.pop("pool_timeout")
    arguments["use_lifo"] = arguments.pop("pool_use_lifo")
    pool = ManagedPool(maker, pool_size=3, max_overflow=4, pool_name="main", **arguments)
    again = pool.recreate()
    assert isinstance(again, QueuePool)
    assert again._options == pool._options
    assert (again.size(), again._max_overflow, again.timeout()) == (3, 4, 5.0)
    assert again._pool.use_lifo
    assert not maker.made


def test_every_option_is_an_argument(maker: Maker) -> None:
    """What the options declare can be set, by create_engine too, which looks at positions."""
    names = set(PoolOptions.__dataclass_fields__)
    arguments = dict.fromkeys(("keepalive", "idle_timeout", "max_lifetime"))
    engine = create_engine(
        "sqlite://", poolclass=ManagedPool, creator=maker, min_idle=2, liveness=True, **arguments
    )
    pool = engine.pool
    assert isinstance(pool, ManagedPool)
    assert (pool._options.min_idle, pool._options.liveness) == (2, True)
    code = ManagedPool.__init__.__code__
    assert names <= set(code.co_varnames[: code.co_argcount])


def test_time_out_names_numbers_and_holders(maker: Maker) -> None:
    """The error says who holds what, and which key to change."""
    pool = ManagedPool(maker, 1, 0, timeout=0.0, pool_name="jobs")
    with holder_label("GET /slow"):
        lease = pool.connect()
    with pytest.raises(PoolTimeout) as caught:
        pool.connect()
    text = str(caught.value)
    assert "pool 'jobs'" in text
    assert "size 1 overflow 0" in text
    assert "GET /slow for 0.0 s" in text
    assert "sqlalchemy.jobs.pool_size" in text
    assert isinstance(caught.value, exc.TimeoutError)
    lease.close()


def test_checkouts_are_told_of_after_a_dispose_too(maker: Maker) -> None:
    """The pool that takes the other's place has the same to tell."""
    told: list[int] = []
    pool = ManagedPool(maker, 1, 0)
    pool.on_checkout = lambda: told.append(1)
    pool.connect().close()
    pool.recreate().connect().close()
    assert len(told) == 2


class Unanswering(DefaultDialect):
    """A dialect whose ping raises."""

    def do_ping(self, dbapi_connection: object) -> bool:
        """Raise."""
        raise ConnectionResetError("gone")


def test_keepalive_that_raises_frees_the_slot(maker: Maker) -> None:
    """Also without liveness, where a checkout's own ping would raise to its caller."""
    pool = ManagedPool(maker, 1, 0, keepalive=0.01, timeout=5.0, dialect=Unanswering())
    pool.connect().close()
    wait_for(lambda: pool.snapshot().closed.get("dead") == 1)
    pool.connect().close()
    assert pool.snapshot().held == 0


def test_close_that_raises_keeps_no_other_connection(maker: Maker) -> None:
    """Every slot is free after a dispose whose listener raises."""
    pool = ManagedPool(maker, 3, 0)
    for lease in [pool.connect() for _ in range(3)]:
        lease.close()

    @event.listens_for(pool, "close")
    def refuse(*_: object) -> None:
        raise ValueError("not now")

    pool.dispose()
    numbers = pool.snapshot()
    assert (numbers.held, numbers.idle, numbers.leased) == (0, 0, 0)


def test_opening_that_hangs_does_not_stop_the_others(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connect that never ends is left aside after a while."""
    monkeypatch.setattr(openings, "HANGS_AFTER", 0.02)
    monkeypatch.setattr(openings, "HANGS_AFTER_CONNECTS", 0)
    over, calls = threading.Event(), list[int]()

    def first_hangs() -> None:
        calls.append(1)
        if len(calls) == 1:
            over.wait(30)

    maker.before = first_hangs
    pool = ManagedPool(maker, 2, 0, timeout=20.0, background=True)
    pool.connect().close()
    over.set()
    assert len(calls) == 2
    wait_for(lambda: pool.snapshot().opening == 0)


def test_connection_that_cannot_be_prepared_is_closed(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each try would leave one open."""

    def fail(*_: object) -> None:
        raise OSError("too many open files")

    monkeypatch.setattr(checks, "Look", fail)
    pool = ManagedPool(maker, 1, 0, liveness=True)
    with pytest.raises(OSError, match="too many"):
        pool.connect()
    assert [each.closed for each in maker.made] == [1]
    assert pool.snapshot().opening == 0


def test_caller_who_waits_for_nobody_opens_for_himself(maker: Maker) -> None:
    """A timeout of 0 means no wait in the line, as with QueuePool; not no connection."""
    pool = ManagedPool(maker, 1, 1, timeout=0, background=True)
    leases = [pool.connect() for _ in range(2)]
    with pytest.raises(PoolTimeout):
        pool.connect()
    for lease in leases:
        lease.close()


def test_full_line_is_said_so(maker: Maker) -> None:
    """One caller too many is refused at once, with the key that allows more."""
    pool = ManagedPool(maker, 1, 0, max_waiting=0)
    lease = pool.connect()
    with pytest.raises(PoolLineFull, match=r"dbpool\.max_waiting"):
        pool.connect()
    lease.close()


def test_each_caller_has_an_error_of_its_own(maker: Maker) -> None:
    """An outage is named, with the driver's error as the cause; never a full pool."""
    maker.error = ConnectionRefusedError("nobody listens")
    pool = ManagedPool(maker, 1, 1, timeout=0.2, background=True)
    errors: list[BaseException] = []

    def call() -> None:
        try:
            pool.connect()
        except DatabaseUnavailable as error:
            errors.append(error)

    for thread in [in_thread(call) for _ in range(4)]:
        thread.join(5)
    assert len(errors) == len({id(error) for error in errors}) == 4
    assert all(error.__cause__ is maker.error for error in errors)
    assert "unreachable" in str(errors[0])
    assert "limit" not in str(errors[0])


def test_fault_of_the_program_is_raised_as_it_is(maker: Maker) -> None:
    """A listener's bug reaches the caller as that bug, not as an outage."""
    engine = create_engine(
        "sqlite://", poolclass=ManagedPool, creator=maker, background=True, pool_timeout=5
    )

    @event.listens_for(engine, "connect", insert=True)
    def break_it(*_: object) -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        engine.pool.connect()


def test_deadline_only_shortens(maker: Maker) -> None:
    """The nearest of all deadlines and the pool's own timeout counts."""
    pool = ManagedPool(maker, 1, 0, timeout=0.0)
    lease = pool.connect()
    began = time.monotonic()
    with deadline(50), pytest.raises(PoolTimeout):
        pool.connect()
    patient = ManagedPool(maker, 1, 0, timeout=50)
    other = patient.connect()
    with deadline(0.01), deadline(50), pytest.raises(PoolTimeout):
        patient.connect()
    assert time.monotonic() - began < 10
    lease.close()
    other.close()


@pytest.mark.parametrize("seconds", [-1, float("nan"), "5"])
def test_deadline_that_is_none_is_refused(seconds: Any) -> None:
    """Nobody waits for ever because of a slip in arithmetic."""
    with pytest.raises(ValueError, match="takes seconds"), deadline(seconds):
        pass


def test_dead_idle_connections_are_not_handed_out(maker: Maker) -> None:
    """All of a server's closed connections are found without one wait or ping."""
    pool = ManagedPool(maker, 4, 0, liveness=True, background=True)
    for lease in [pool.connect() for _ in range(4)]:
        lease.close()
    for connection in maker.made:
        connection.far.close()
    lease = pool.connect()
    assert lease.dbapi_connection is maker.made[4]  # type: ignore[comparison-overlap]
    lease.close()
    assert pool.snapshot().closed["dead"] == 4


def test_connection_that_sqlalchemy_replaced_is_known(maker: Maker) -> None:
    """After a listener's DisconnectionError the new socket is looked at, not the old one."""
    pool = ManagedPool(maker, 1, 0, liveness=True)
    pool.connect().close()

    def refuse_the_first(connection: object, *_: object) -> None:
        if connection is maker.made[0]:
            raise exc.DisconnectionError("not this one")

    event.listen(pool, "checkout", refuse_the_first)
    for _ in range(2):
        lease = pool.connect()
        assert lease.dbapi_connection is maker.made[1]  # type: ignore[comparison-overlap]
        lease.close()
    maker.made[1].far.close()
    pool.connect().close()
    assert len(maker.made) == 3


def refuse_the_first(maker: Maker) -> Callable[..., None]:
    """Make a checkout listener that refuses the first connection that was made."""

    def refuse(connection: object, *_: object) -> None:
        if connection is maker.made[0]:
            raise exc.DisconnectionError("not this one")

    return refuse


def test_what_a_listener_refuses_is_replaced_through_the_line(maker: Maker) -> None:
    """The replacement is opened in the background too, and the numbers add up."""
    pool = ManagedPool(maker, 1, 0, liveness=True, background=True)
    pool.connect().close()
    opener: list[str] = []
    event.listen(pool, "connect", lambda *_: opener.append(threading.current_thread().name))
    event.listen(pool, "connect", lambda _, record: record.info.update(made="second"))
    event.listen(pool, "checkout", refuse_the_first(maker))
    for _ in range(2):
        lease = pool.connect()
        assert lease.dbapi_connection is maker.made[1]  # type: ignore[comparison-overlap]
        assert lease.info == {"made": "second"}
        lease.close()
    assert opener == ["dbpool-opener"]
    numbers = pool.snapshot()
    assert (numbers.checkouts, numbers.returns, numbers.opened) == (3, 3, 2)
    assert (numbers.idle, numbers.leased, len(maker.made)) == (1, 0, 2)
    assert numbers.closed == {"invalidated": 1}
    pool.dispose()


@pytest.mark.slow
def test_replacement_counts_against_the_deadline(maker: Maker) -> None:
    """A listener refuses a connection, and the server does not answer: the time is bounded."""
    pool = ManagedPool(maker, 1, 0, timeout=2.0, liveness=True, background=True)
    lease = pool.connect()
    event.listen(pool, "checkout", refuse_the_first(maker))
    answer = threading.Event()
    maker.before = lambda: answer.wait(20)
    # The wait in the line and the one for the replacement are one.
    timer = threading.Timer(1.5, lease.close)
    timer.start()
    began = time.monotonic()
    with pytest.raises(PoolTimeout):
        pool.connect()
    assert time.monotonic() - began < 3
    timer.join()
    answer.set()
    wait_for(lambda: len(maker.made) == 2)
    pool.connect().close()
    assert pool.snapshot().leased == 0
    pool.dispose()


def test_warm_opens_the_minimum(maker: Maker) -> None:
    """`warm` opens what `min_idle` says, and no more."""
    pool = ManagedPool(maker, 5, 0, min_idle=3)
    pool.warm()
    assert (len(maker.made), pool.checkedin()) == (3, 3)


def test_pool_that_is_not_used_starts_nothing(maker: Maker) -> None:
    """No thread and no connection before first use, with everything on."""
    before = threading.active_count()
    engine = create_engine(
        "sqlite://", poolclass=ManagedPool, creator=maker, **ManagedPool.plugin_arguments()
    )
    engine.dispose()
    assert threading.active_count() == before
    assert not maker.made


def test_pool_dies_with_its_engine(maker: Maker) -> None:
    """The housekeeper keeps no pool alive."""
    pool = ManagedPool(maker, 2, 0, idle_timeout=60.0, keepalive=30.0, background=True)
    pool.connect().close()
    known = weakref.ref(pool)
    del pool
    gc.collect()
    assert known() is None


def test_waiter_of_a_disposed_pool_gets_a_fresh_connection(maker: Maker) -> None:
    """After dispose and recreate it need not wait for what was checked out before."""
    pool = ManagedPool(maker, 1, 0, timeout=5.0)
    held = pool.connect()
    leases: list[Any] = []
    thread = in_thread(lambda: leases.append(pool.connect()))
    wait_for(lambda: pool.snapshot().waiting == 1)
    pool.dispose()
    pool.recreate()
    thread.join(5)
    assert leases[0].dbapi_connection is maker.made[1]
    held.close()
    leases[0].close()
    assert [each.closed for each in maker.made] == [1, 1], "closed on return"
    assert (pool.checkedout(), pool.checkedin()) == (0, 0)


def test_child_leaves_its_parents_connections_alone(maker: Maker) -> None:
    """A forked child opens its own; not a byte goes over what it inherited."""
    pool = ManagedPool(maker, 2, 0)
    idle, lease = pool.connect(), pool.connect()
    idle.close()
    child = os.fork()
    if child == 0:
        lease.close()
        fresh = pool.connect()
        mine: Any = fresh.dbapi_connection
        fine = mine is maker.made[-1] and len(maker.made) == 3
        untouched = not any(each.closed for each in maker.made[:2])
        os._exit(0 if fine and untouched and pool.checkedout() == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert pool.checkedin() == 1
    lease.close()


def test_stray_lease_is_forgotten(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its slot serves the next one whose time is over, at the latest."""
    pool = ManagedPool(maker, 1, 0, timeout=0.0)
    pool._do_get()  # and nobody takes it on
    with pytest.raises(PoolTimeout):
        pool.connect()
    monkeypatch.setattr(upkeep, "STRAY_AFTER", 0.0)
    pool.connect().close()
    assert pool.snapshot().strays == 1


INTERRUPTED = """
import gc, signal, sys, threading, time
from pyramid_dbpool import upkeep
from pyramid_dbpool.pool import ManagedPool
from tests.makers import Connection

sys.unraisablehook = lambda unraisable: None  # some interrupts strike in a destructor
upkeep.STRAY_AFTER = 0.1  # only this thread checks out: no lease is on its way for so long
pool = ManagedPool(Connection, 2, 1, timeout=0.3, use_lifo=True)
until, done = time.monotonic() + float(sys.argv[1]), threading.Event()
armed, caught = False, 0

def strike(number, frame):
    # Armed inside the pool's calls only, and once for each: what catches the
    # interrupt is not to be struck by the next one.
    global armed
    if armed:
        armed = False
        raise KeyboardInterrupt

def interrupt():
    while not done.wait(0.0007):
        signal.raise_signal(signal.SIGINT)

signal.signal(signal.SIGINT, strike)
thread = threading.Thread(target=interrupt)
thread.start()
while caught < 100 or time.monotonic() < until:
    try:
        while caught < 100 or time.monotonic() < until:
            armed = True
            pool.connect().close()
            armed = False
    except KeyboardInterrupt:
        caught += 1
done.set()
thread.join()
gc.collect()
upkeep.STRAY_AFTER = 0.0
for _ in range(2):
    pool._service.before_giving_up()
leases = [pool.connect() for _ in range(3)]
assert pool.checkedout() == 3, pool.status()
print("whole after", caught, pool.snapshot().strays)
"""


@pytest.mark.slow
def test_interrupts_lose_nothing() -> None:
    """Ctrl-C anywhere in a checkout or a return leaves every slot usable."""
    seconds = os.environ.get("DBPOOL_STRESS_SECONDS", "2")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", INTERRUPTED, seconds],
        capture_output=True,
        text=True,
        timeout=60 + float(seconds),
        check=False,
    )
    assert "whole after" in done.stdout, done.stdout + done.stderr[-4000:]


def test_look_tells_silence_speech_and_the_end() -> None:
    """A poll that waits for nothing sees what the kernel knows."""
    near, far = socket.socketpair()
    look = Look(near.fileno())
    assert not look.speaks()
    assert not look.glance(0, 1)
    far.send(b"notice")
    assert look.speaks()
    assert look.glance(0, 1)
    assert not look.ended()
    far.close()
    assert look.speaks()
    assert look.ended()
    look.close()
    near.close()


def test_drivers_sockets_are_found() -> None:
    """Wherever a driver keeps it; None where it shows none."""
    near, far = socket.socketpair()

    class Inside:
        def __init__(self, name: str, inner: object) -> None:
            setattr(self, name, inner)

    pure = Inside("_socket", Inside("sock", near))
    assert socket_of(near) == socket_of(Inside("_sock", near)) == socket_of(pure) == near.fileno()
    assert socket_of(object()) is None
    near.close()
    far.close()
    assert socket_of(near) is None


def test_call_on_the_network_is_bounded() -> None:
    """A ping that gets no answer ends with its limit."""
    near, far = socket.socketpair()
    began = time.monotonic()
    with limited(near.fileno(), 0.05) as was_cut:
        assert near.recv(1) == b""
    assert was_cut()
    assert time.monotonic() - began < 5
    near.close()
    far.close()
