"""Messages handled in two phases or in AUTOCOMMIT, at a server that takes no writes."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from pyramid_dbpool import get_engine
from tests.support.makers import wait_for
from tests.support.servers.failover import MariaDBPair, PostgresPair
from tests.support.webapp import TwoPhaseSession
from tests.support.workers import Base, Done, Lost, log_watch, outside
from tests.worker.test_failover import WAITS, AtStandby, store_at_once, swallow, wrap

# For AUTOCOMMIT the caller has to say that a message may be handled twice.
MODES: dict[str, tuple[dict[str, Any], bool]] = {
    "two phases": ({"dbpool.session_class": TwoPhaseSession}, False),
    "autocommit": ({"sqlalchemy.isolation_level": "AUTOCOMMIT"}, True),
}
modes = pytest.mark.parametrize(("mode", "idempotent"), MODES.values(), ids=list(MODES))


@modes
def test_messages_wait_for_the_primary(
    postgres_pair: PostgresPair, mode: dict[str, object], *, idempotent: bool
) -> None:
    """None is rejected, each is stored once."""
    worker = AtStandby(postgres_pair)
    worker.settings |= mode
    thread = worker.start(["a", "b"], store_at_once, idempotent=idempotent)
    wait_for(worker.waits)
    worker.move()
    thread.join()
    assert (worker.acked, worker.failed, worker.stored()) == (["a", "b"], [], ["a", "b"])


@modes
def test_messages_wait_until_mariadb_takes_writes(
    mariadb_pair: MariaDBPair, mode: dict[str, object], *, idempotent: bool
) -> None:
    """None is rejected, each is stored once."""
    mariadb_pair.primary.execute("SET GLOBAL read_only = 0")
    mariadb_pair.lead_to(mariadb_pair.primary)
    worker = Lost(mariadb_pair.url())
    worker.settings |= mode
    Base.metadata.drop_all(outside(worker.settings))
    Base.metadata.create_all(outside(worker.settings))
    worker.run(["a"])
    mariadb_pair.demote()
    with log_watch(WAITS) as log:
        thread = worker.start(["b", "c"], store_at_once, idempotent=idempotent)
        log.wait(WAITS)
        mariadb_pair.primary.execute("SET GLOBAL read_only = 0")
        thread.join()
    assert (worker.failed, worker.stored()) == ([], ["a", "b", "c"])


def swallow_all(_message: str, session: Session) -> None:
    """Leave it to COMMIT to say that the statement was refused."""
    with suppress(DBAPIError):
        session.execute(text("DELETE FROM done WHERE false"))


@pytest.mark.parametrize("pool", ["QueuePool", "NullPool"])
@pytest.mark.parametrize("handle", [store_at_once, swallow, swallow_all, wrap])
def test_messages_on_a_pool_of_sqlalchemys_wait_for_the_primary(
    postgres_pair: PostgresPair, pool: str, handle: Callable[[str, Session], None]
) -> None:
    """A connection that is given up, because it leads to a standby, is no lost one."""
    worker = AtStandby(postgres_pair)
    worker.settings["sqlalchemy.poolclass"] = f"sqlalchemy.pool.{pool}"
    thread = worker.start(["a", "b"], handle, max_tries=1)
    wait_for(worker.waits)
    worker.move()
    thread.join()
    assert (worker.acked, worker.failed) == (["a", "b"], [])


def test_messages_on_a_session_without_an_engine_wait_for_the_primary(
    postgres_pair: PostgresPair,
) -> None:
    """It has one for each class."""
    worker = AtStandby(postgres_pair)

    def made(settings: dict[str, Any]) -> Session:
        return Session(binds={Done: get_engine(settings)})

    thread = worker.start(["a", "b"], store_at_once, session_factory=made, max_tries=1)
    wait_for(worker.waits)
    worker.move()
    thread.join()
    assert (worker.acked, worker.failed, worker.stored()) == (["a", "b"], [], ["a", "b"])
