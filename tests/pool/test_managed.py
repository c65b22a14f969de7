"""`ManagedPool` on its own: what the conformance suite does not ask of every pool."""

import math
import re
import threading
import time
from typing import Any

import pytest
from sqlalchemy import create_engine, event, exc
from sqlalchemy.pool import PoolProxiedConnection, QueuePool

from pyramid_dbpool.errors import DatabaseUnavailable, PoolLineFull, PoolTimeout
from pyramid_dbpool.pool.deadlines import deadline
from pyramid_dbpool.pool.labels import holder_label
from pyramid_dbpool.pool.managed import ManagedPool
from pyramid_dbpool.pool.options import PoolOptions
from tests.support.makers import PATIENCE, Maker, in_thread, wait_for


def test_recreate_passes_every_argument(maker: Maker) -> None:
    """A pool that replaces another one behaves like it."""
    arguments = ManagedPool.plugin_arguments(3, 4)
    arguments["timeout"] = arguments.pop("pool_timeout")
    arguments["use_lifo"] = arguments.pop("pool_use_lifo")
    pool = ManagedPool(maker, pool_name="main", **arguments)
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
    """The error says who holds what, and which argument to change."""
    pool = ManagedPool(maker, 1, 0, timeout=0.0, pool_name="jobs")
    with holder_label("GET /slow"):
        lease = pool.connect()
    with pytest.raises(PoolTimeout) as caught:
        pool.connect()
    text = str(caught.value)
    assert "pool 'jobs'" in text
    assert "size 1 overflow 0" in text
    assert re.search(r"GET /slow for \d+\.\d s", text)
    assert "raise pool_size or max_overflow" in text
    assert isinstance(caught.value, exc.TimeoutError)
    lease.close()


def test_caller_who_waits_for_nobody_opens_for_himself(maker: Maker) -> None:
    """A timeout of 0 means no wait in the line, as with QueuePool; not no connection."""
    pool = ManagedPool(maker, 1, 1, timeout=0, background=True)
    leases = [pool.connect() for _ in range(2)]
    with pytest.raises(PoolTimeout):
        pool.connect()
    for lease in leases:
        lease.close()


@pytest.mark.parametrize("timeout", [-1.0, -5.0])
def test_a_time_below_zero_is_no_time(maker: Maker, timeout: float) -> None:
    """A lock would be waited for for ever, or complain."""
    pool = ManagedPool(maker, 1, 0, timeout=timeout)
    leases: list[PoolProxiedConnection] = []
    # Who holds one himself waits in another way.
    in_thread(lambda: leases.append(pool.connect())).join()
    with pytest.raises(PoolTimeout):
        pool.connect()
    leases[0].close()


@pytest.mark.parametrize("timeout", [math.inf, 2.0 * threading.TIMEOUT_MAX])
def test_who_waits_for_longer_than_a_lock_can_is_served(maker: Maker, timeout: float) -> None:
    """A lock would refuse to be waited for so long."""
    pool = ManagedPool(maker, 1, 0, timeout=timeout)
    lease = pool.connect()
    served: list[object] = []
    thread = in_thread(lambda: served.append(pool.connect()))
    wait_for(lambda: pool.snapshot().waiting or not thread.is_alive())
    lease.close()
    thread.join()
    assert served


def test_full_line_is_said_so(maker: Maker) -> None:
    """One caller too many is refused at once, with the key that allows more."""
    pool = ManagedPool(maker, 1, 0, max_waiting=0)
    lease = pool.connect()
    with pytest.raises(PoolLineFull, match="max_waiting"):
        pool.connect()
    lease.close()


def test_each_caller_has_an_error_of_its_own(maker: Maker) -> None:
    """An outage is named, with the driver's error as the cause; never a full pool."""
    maker.error = ConnectionRefusedError("nobody listens")
    pool = ManagedPool(maker, 1, 1, timeout=1.0, background=True)
    errors: list[BaseException] = []

    def call() -> None:
        try:
            pool.connect()
        except DatabaseUnavailable as error:
            errors.append(error)

    for thread in [in_thread(call) for _ in range(4)]:
        thread.join(PATIENCE)
    assert len(errors) == len({id(error) for error in errors}) == 4
    assert all(error.__cause__ is maker.error for error in errors)
    assert "opens no connection" in str(errors[0])
    assert "limit" not in str(errors[0])


def test_fault_of_the_program_is_raised_as_it_is(maker: Maker) -> None:
    """A listener's bug reaches the caller as that bug, not as an outage."""
    engine = create_engine(
        "sqlite://", poolclass=ManagedPool, creator=maker, background=True, pool_timeout=30
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
    assert time.monotonic() - began < 40
    lease.close()
    other.close()


@pytest.mark.parametrize("seconds", [-1, float("nan"), "5"])
def test_deadline_that_is_none_is_refused(seconds: Any) -> None:
    """Nobody waits for ever because of a slip in arithmetic."""
    with pytest.raises(ValueError, match="takes seconds"), deadline(seconds):
        pass
