"""What is known of a server that is read-only, where no request or message asks."""

import multiprocessing

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from pyramid_dbpool import get_engine, unit_of_work
from pyramid_dbpool.engines.registry import process_engine
from pyramid_dbpool.events import Kind
from tests.support.happened import Happened
from tests.support.makers import wait_for
from tests.support.servers.failover import PostgresPair
from tests.support.servers.proxy import Newcomers


def write(settings: dict[str, str]) -> None:
    with unit_of_work(settings) as session:
        session.execute(text("CREATE TABLE IF NOT EXISTS new ()"))


def refused(settings: dict[str, str]) -> bool:
    try:
        write(settings)
    except DBAPIError:
        return True
    return False


@pytest.fixture
def at_standby(postgres_pair: PostgresPair) -> dict[str, str]:
    """Settings of a script that is at a standby, and was refused a write."""
    postgres_pair.lead_to(postgres_pair.standby)
    settings = {"sqlalchemy.url": postgres_pair.url(), "dbpool.min_idle": "0"}
    assert refused(settings)
    return settings


def test_a_script_that_goes_on_finds_the_primary(
    postgres_pair: PostgresPair, at_standby: dict[str, str]
) -> None:
    """Its own connections are replaced, and its error is its own."""
    assert process_engine(at_standby).writes.since is not None
    postgres_pair.lead_to(postgres_pair.primary)
    write(at_standby)
    postgres_pair.catch_up()


def test_a_server_that_was_not_left_is_looked_at_as_long_as_it_refuses(
    postgres_pair: PostgresPair, at_standby: dict[str, str]
) -> None:
    """What is opened meanwhile leads there too, and is replaced when the address has moved."""
    assert refused(at_standby)
    postgres_pair.lead_to(postgres_pair.primary)
    wait_for(lambda: not refused(at_standby))


def test_the_next_one_is_another(
    postgres_pair: PostgresPair,
    at_standby: dict[str, str],
    caplog: pytest.LogCaptureFixture,
    happened: Happened,
) -> None:
    """Nobody was there when the first one ended: it is said, and dealt with, anew."""
    made = process_engine(at_standby)
    made.writes._seen_at = float("-inf")
    assert made.writes.since is None and made.writes.lasted is None
    caplog.clear()
    assert refused(at_standby)
    assert "is read-only" in caplog.text
    wait_for(lambda: made.engine.pool.snapshot().closed["retired"] == 2)  # type: ignore[attr-defined]
    postgres_pair.lead_to(postgres_pair.primary)
    write(at_standby)
    (event,) = happened(Kind.READ_ONLY)
    assert (event.pool, event.text in caplog.text) == ("default", True)
    assert "read-only" in str(event.fields["reason"])


def known_in_child(settings: dict[str, str]) -> None:
    writes = process_engine(settings).writes
    assert writes.since is None
    assert writes.wait(0.0)


def goes_on_in_child(settings: dict[str, str]) -> None:
    with get_engine(settings).connect() as connection:
        assert connection.scalar(text("SELECT 1"))
    known_in_child(settings)
    assert refused(settings)
    assert process_engine(settings).writes.since is not None


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["ManagedPool", "QueuePool", "NullPool"])
def test_parent_and_child_go_on_after_a_fork_in_the_middle_of_a_look(
    postgres_pair: PostgresPair, pool: str
) -> None:
    """As at an address that hangs: the fork waits a while for it, and nobody for the other."""
    postgres_pair.lead_to(postgres_pair.standby)
    settings = {"sqlalchemy.url": postgres_pair.url()}
    if pool != "ManagedPool":
        settings["sqlalchemy.poolclass"] = f"sqlalchemy.pool.{pool}"
    assert refused(settings)
    writes, address = process_engine(settings).writes, postgres_pair.address
    with get_engine(settings).connect() as held:
        number = held.scalar(text("SELECT pg_backend_pid()"))
        address.meet(Newcomers.SILENCE)
        looks = writes.looks
        wait_for(lambda: writes.look_beside() or writes.looks > looks)
        address.meet(Newcomers.PASS)
        fork = multiprocessing.get_context("fork")
        children = [fork.Process(target=goes_on_in_child, args=(settings,)) for _ in range(2)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        assert [child.exitcode for child in children] == [0, 0]
        assert held.scalar(text("SELECT pg_backend_pid()")) == number
    # The look ends with it.
    address.cut()
    postgres_pair.lead_to(postgres_pair.primary)
    wait_for(lambda: not refused(settings))


def test_a_child_finds_out_for_itself(at_standby: dict[str, str]) -> None:
    """The parent may have been looking when it forked."""
    writes = process_engine(at_standby).writes
    child = multiprocessing.get_context("fork").Process(target=known_in_child, args=(at_standby,))
    with writes._lock:
        child.start()
        child.join()
    assert child.exitcode == 0
