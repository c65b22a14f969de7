"""A checkout listener refuses a connection: what replaces it goes by the pool's rules too."""

import threading
import time
from collections.abc import Callable

import pytest
from sqlalchemy import event, exc

from pyramid_dbpool.errors import PoolTimeout
from pyramid_dbpool.pool.managed import ManagedPool
from tests.support.makers import Maker, wait_for


def refuse_the_first(maker: Maker) -> Callable[..., None]:
    """Make a checkout listener that refuses the first connection that was made."""

    def refuse(connection: object, *_: object) -> None:
        if connection is maker.made[0]:
            raise exc.DisconnectionError("not this one")

    return refuse


def test_connection_that_sqlalchemy_replaced_is_known(maker: Maker) -> None:
    """After a listener's DisconnectionError the new socket is looked at, not the old one."""
    pool = ManagedPool(maker, 1, 0, liveness=True)
    pool.connect().close()
    event.listen(pool, "checkout", refuse_the_first(maker))
    for _ in range(2):
        lease = pool.connect()
        assert lease.dbapi_connection is maker.made[1]  # type: ignore[comparison-overlap]
        lease.close()
    maker.made[1].far.close()
    pool.connect().close()
    assert len(maker.made) == 3


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
