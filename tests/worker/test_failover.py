"""What `consume` does when the server that it has reached is a standby."""

import threading
from collections.abc import Callable
from contextlib import suppress

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError

from pyramid_dbpool.engines.registry import process_engine
from tests.support.makers import wait_for
from tests.support.servers.failover import MariaDBPair, PostgresPair
from tests.support.servers.fixtures import need_mysqlclient
from tests.support.workers import Base, Broken, Lost, log_watch, outside, store

WAITS = "waiting until the database takes writes"


def store_at_once(message: str, session: Session) -> None:
    """Store it with a statement of its own."""
    store(message, session)
    session.flush()


def swallow(message: str, session: Session) -> None:
    """Store it although the first statement is refused."""
    with suppress(DBAPIError):
        session.execute(text("DELETE FROM done WHERE false"))
    store(message, session)


def wrap(message: str, session: Session) -> None:
    """Raise an error of one's own."""
    try:
        store_at_once(message, session)
    except DBAPIError as error:
        raise Broken(message) from error


class AtStandby(Lost):
    """A worker whose address leads to a standby until `move`."""

    def __init__(self, pair: PostgresPair, driver: str = "psycopg") -> None:
        super().__init__(pair.url(driver))
        self.pair = pair
        Base.metadata.create_all(outside({"sqlalchemy.url": pair.primary.url()}))
        pair.catch_up()
        pair.lead_to(pair.standby)

    def waits(self) -> bool:
        """Tell whether a message waits for the primary."""
        writes = process_engine(self.settings).writes
        return writes.since is not None and writes.looks > 0

    def move(self) -> None:
        """Have the address lead to the primary."""
        self.pair.lead_to(self.pair.primary)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
@pytest.mark.parametrize("handle", [store, store_at_once, swallow, wrap])
def test_messages_wait_for_the_primary(
    postgres_pair: PostgresPair, handle: Callable[[str, Session], None], driver: str
) -> None:
    """None is rejected, each is stored once; the log says once that it waits."""
    worker = AtStandby(postgres_pair, driver)
    with log_watch(WAITS) as log:
        thread = worker.start(["a", "b"], handle)
        log.wait(WAITS)
        wait_for(worker.waits)
        worker.move()
        thread.join()
    assert (worker.acked, worker.failed, worker.stored()) == (["a", "b"], [], ["a", "b"])


def test_a_message_that_is_tried_once_waits_too(postgres_pair: PostgresPair) -> None:
    """What the server is to blame for was no try; the queue would be handed to `on_error`."""
    worker = AtStandby(postgres_pair)
    thread = worker.start(["a", "b"], max_tries=1)
    wait_for(worker.waits)
    worker.move()
    thread.join()
    assert (worker.acked, worker.failed, worker.stored()) == (["a", "b"], [], ["a", "b"])


def test_what_a_standby_refuses_uses_up_no_try(postgres_pair: PostgresPair) -> None:
    """What stands in the way afterwards has all of them."""
    worker, conflicts = AtStandby(postgres_pair), list[str]()

    def handle(message: str, session: Session) -> None:
        store_at_once(message, session)
        if not conflicts:
            conflicts.append(message)
            raise StaleDataError

    thread = worker.start(["a"], handle, max_tries=2)
    wait_for(worker.waits)
    worker.move()
    thread.join()
    assert (conflicts, worker.failed, worker.stored()) == (["a"], [], ["a"])


def test_messages_wait_for_a_primary_that_is_fenced(postgres_pair: PostgresPair) -> None:
    """It is no standby, and refuses for longer than a few tries take."""
    worker = AtStandby(postgres_pair)
    worker.move()
    worker.run(["a"])
    with postgres_pair.fenced():
        thread = worker.start(["b", "c"], max_tries=1)
        wait_for(worker.waits)
    thread.join()
    assert (worker.failed, worker.stored()) == ([], ["a", "b", "c"])


def test_a_message_that_makes_its_session_read_only_is_given_up(
    postgres_pair: PostgresPair,
) -> None:
    """A new session takes writes: the handler is to blame, and would go on for ever."""

    def handle(message: str, session: Session) -> None:
        session.execute(text("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"))
        session.connection().connection.dbapi_connection.commit()  # type: ignore[union-attr]
        store_at_once(message, session)

    worker = AtStandby(postgres_pair)
    worker.move()
    worker.run(["a"], handle, idempotent=True)
    assert [message for message, _ in worker.failed] == ["a"]


def test_serializable_messages_wait_for_the_primary(postgres_pair: PostgresPair) -> None:
    """A standby has no such transactions, and says so with another error."""
    worker = AtStandby(postgres_pair)
    thread = worker.start(["a"], isolation_level="SERIALIZABLE")
    wait_for(worker.waits)
    worker.move()
    thread.join()
    assert (worker.acked, worker.stored()) == (["a"], ["a"])


def test_a_stop_ends_the_wait_for_the_primary(postgres_pair: PostgresPair) -> None:
    """The message is neither handled nor rejected."""
    worker, stop = AtStandby(postgres_pair), threading.Event()
    thread = worker.start(["a", "b"], stop=stop)
    wait_for(worker.waits)
    stop.set()
    thread.join()
    assert (worker.acked, worker.failed) == ([], [])


def test_a_message_that_asked_to_be_read_only_is_given_up(postgres_pair: PostgresPair) -> None:
    """At the primary it is the handler's fault."""
    worker = AtStandby(postgres_pair)
    worker.move()
    worker.run(["a"], store, read_only=True)
    assert [message for message, _ in worker.failed] == ["a"]


@pytest.mark.parametrize("driver", ["pymysql", "mysqlconnector", "mysqldb"])
def test_messages_wait_until_mariadb_takes_writes(mariadb_pair: MariaDBPair, driver: str) -> None:
    """Its connections stay and answer while it is read-only."""
    if driver == "mysqldb":
        need_mysqlclient()
    mariadb_pair.primary.execute("SET GLOBAL read_only = 0")
    mariadb_pair.lead_to(mariadb_pair.primary)
    worker = Lost(mariadb_pair.url(driver))
    Base.metadata.drop_all(outside(worker.settings))
    Base.metadata.create_all(outside(worker.settings))
    worker.run(["a"])
    mariadb_pair.demote()
    with log_watch(WAITS) as log:
        thread = worker.start(["b", "c"])
        log.wait(WAITS)
        mariadb_pair.primary.execute("SET GLOBAL read_only = 0")
        thread.join()
    assert (worker.failed, worker.stored()) == ([], ["a", "b", "c"])
