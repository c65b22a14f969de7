"""`retry_after` of an error: when one who was refused may come again."""

import dataclasses
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine

from pyramid_dbpool import DatabaseUnavailable, ManagedPool, PoolLineFull, PoolTimeout
from pyramid_dbpool.pool.estimates import line_seconds, seconds_to_wait
from pyramid_dbpool.pool.stats import Holder, PoolSnapshot
from tests.support.servers.ports import deaf_port


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[Engine]:
    """An engine with one connection, for which one caller may wait, but not for long."""
    made = create_engine(
        sqlite_url,
        poolclass=ManagedPool,
        pool_size=1,
        max_overflow=0,
        pool_timeout=0.05,
        max_waiting=1,
    )
    yield made
    made.dispose()


@pytest.fixture
def seen(engine: Engine) -> PoolSnapshot:
    """The numbers of a pool that nobody has used."""
    assert isinstance(engine.pool, ManagedPool)
    return engine.pool.snapshot()


@pytest.mark.parametrize(("lasted", "seconds"), [(-1.0, 1), (29.5, 30), (300.0, 60)])
def test_it_is_as_long_as_the_server_was_away_or_full(
    seen: PoolSnapshot, lasted: float, seconds: int
) -> None:
    """But a second, and nobody knows more than a minute ahead."""
    assert seconds_to_wait(dataclasses.replace(seen, outage_seconds=lasted)) == seconds


def test_it_is_as_long_as_the_pool_was_paused(seen: PoolSnapshot) -> None:
    """Whatever was known of the server before."""
    paused = dataclasses.replace(seen, paused_seconds=12.5)
    assert seconds_to_wait(paused) == 13
    assert seconds_to_wait(dataclasses.replace(paused, outage_seconds=40.0)) == 13


def test_the_longer_the_line_the_later(seen: PoolSnapshot) -> None:
    """The estimate: those who wait, at the pace of the holds, over the connections."""
    assert seconds_to_wait(seen) == 1
    hold = dataclasses.replace(seen.hold, count=10, sum_seconds=20.0)
    busy = dataclasses.replace(seen, hold=hold, waiting=9, capacity=4)
    assert line_seconds(busy) == 2.0 * 10 / 4
    assert seconds_to_wait(busy) == 5


def test_a_connection_that_is_held_for_long_counts(seen: PoolSnapshot) -> None:
    """Those that are out now may be nothing like those that came back before."""
    hold = dataclasses.replace(seen.hold, count=10, sum_seconds=0.1)
    holders = (Holder("GET route 'slow'", 30.0), Holder("GET route 'slower'", 50.0))
    busy = dataclasses.replace(seen, hold=hold, waiting=0, capacity=2, holders=holders)
    assert line_seconds(busy) == 40.0 / 2


def test_a_pool_without_limit_has_an_estimate_too(seen: PoolSnapshot) -> None:
    """Its callers can only be late because the server is slow."""
    assert seconds_to_wait(dataclasses.replace(seen, capacity=None)) == 1


def test_the_error_of_one_who_waited_in_vain_has_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside of requests too, and of every kind."""
    monkeypatch.setattr("pyramid_dbpool.pool.core.seconds_to_wait", lambda _seen: 17)
    with engine.connect(), pytest.raises(PoolTimeout) as refused:
        engine.connect()
    assert refused.value.retry_after == 17


def test_the_error_of_one_too_many_has_it(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused at once."""
    monkeypatch.setattr("pyramid_dbpool.pool.core.seconds_to_wait", lambda _seen: 17)
    engine = create_engine(
        sqlite_url, poolclass=ManagedPool, pool_size=1, max_overflow=0, max_waiting=0
    )
    with engine.connect(), pytest.raises(PoolLineFull) as refused:
        engine.connect()
    assert refused.value.retry_after == 17
    engine.dispose()


def test_the_error_of_an_outage_has_it_and_that_of_a_wrong_file_has_not(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody helps a wrong configuration by coming again."""
    monkeypatch.setattr("pyramid_dbpool.pool.core.seconds_to_wait", lambda _seen: 17)
    away = f"postgresql+psycopg://nobody@127.0.0.1:{deaf_port()}/none"
    nowhere = sqlite_url.replace("test_", "no/such/folder/test_")
    arguments = ManagedPool.plugin_arguments() | {"outage_grace": 0}
    for url, seconds in ((away, 17), (nowhere, None)):
        engine = create_engine(url, poolclass=ManagedPool, **arguments)
        with pytest.raises(DatabaseUnavailable) as refused:
            engine.connect()
        assert refused.value.retry_after == seconds
        engine.dispose()
