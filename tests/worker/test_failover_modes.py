"""Messages handled with two phases or in AUTOCOMMIT, at a server that takes no writes."""

from typing import Any

import pytest
from sqlalchemy.orm import Session

from pyramid_dbpool import get_engine
from tests.support.full import INSERT, Full
from tests.support.makers import wait_for
from tests.support.servers.failover import MariaDBPair, PostgresPair
from tests.support.webapp import TwoPhaseSession
from tests.support.workers import Base, Lost, log_watch, outside
from tests.worker.test_failover import WAITS, AtStandby, store_at_once

MODES: dict[str, dict[str, Any]] = {
    "two phases": {"dbpool.session_class": TwoPhaseSession},
    "autocommit": {"sqlalchemy.isolation_level": "AUTOCOMMIT"},
}
modes = pytest.mark.parametrize("mode", MODES.values(), ids=list(MODES))


@modes
def test_messages_wait_for_the_primary(
    postgres_pair: PostgresPair, mode: dict[str, object]
) -> None:
    """None is rejected, each is stored once."""
    worker = AtStandby(postgres_pair)
    worker.settings |= mode
    thread = worker.start(["a", "b"], store_at_once)
    wait_for(worker.waits)
    worker.move()
    thread.join()
    assert (worker.acked, worker.failed, worker.stored()) == (["a", "b"], [], ["a", "b"])


@modes
def test_messages_wait_until_mariadb_takes_writes(
    mariadb_pair: MariaDBPair, mode: dict[str, object]
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
        thread = worker.start(["b", "c"], store_at_once)
        log.wait(WAITS)
        mariadb_pair.primary.execute("SET GLOBAL read_only = 0")
        thread.join()
    assert (worker.failed, worker.stored()) == ([], ["a", "b", "c"])


def test_messages_in_autocommit_wait_until_there_is_room(full_database: Full) -> None:
    """What the server refused is not stored."""
    worker = Lost(full_database.url, **MODES["autocommit"])
    full_database.prepare(get_engine(worker.settings))

    def handle(message: int, session: Session) -> None:
        session.execute(INSERT, full_database.row(message))

    with log_watch("has room") as log:
        thread = worker.start([1, 2], handle)
        log.wait("has room")
        full_database.free()
        thread.join()
    assert (worker.acked, worker.failed, full_database.rows()) == ([1, 2], [], [1, 2])
