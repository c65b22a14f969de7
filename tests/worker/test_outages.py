"""What `consume` does when the database goes away under a message."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from pyramid_dbpool.embedded import PrivatePostgres
from tests.support.pool_load import until
from tests.support.servers.fixtures import MARIADB, POSTGRES, NewDatabase, need_mysqlclient
from tests.support.servers.mariadb import MariaDB
from tests.support.workers import IMPATIENT, NO_GRACE, TRIED, Worker, log_watch, outside, store

NewPostgres = Callable[..., PrivatePostgres]


@pytest.fixture(params=[*POSTGRES, *MARIADB])
def worker(request: pytest.FixtureRequest, new_database: NewDatabase) -> Worker:
    """Give a worker on each database that has a server."""
    return Worker(new_database(request.param))


class Server(Protocol):
    """A server that can be away for a while."""

    def start(self) -> None: ...
    def stop(self) -> None: ...


@pytest.fixture(params=["psycopg", "psycopg2"])
def pg_of_its_own(
    request: pytest.FixtureRequest, new_postgres: NewPostgres
) -> tuple[PrivatePostgres, Worker]:
    """Give a PostgreSQL server and a worker on it."""
    server = new_postgres()
    return server, Worker(server.url(request.param))


@pytest.fixture(params=["pymysql", "mysqlconnector", "mysqldb"])
def mariadb_of_its_own(
    request: pytest.FixtureRequest, new_mariadb: Callable[[], MariaDB]
) -> tuple[MariaDB, Worker]:
    """Give a MariaDB server and a worker on it."""
    if request.param == "mysqldb":
        need_mysqlclient()
    server = new_mariadb()
    server.create("worker")
    return server, Worker(server.url(request.param, "worker"))


def test_a_message_survives_a_restart_of_postgres(
    pg_of_its_own: tuple[PrivatePostgres, Worker],
) -> None:
    """The message that was in hand is handled when the server is back, and those after it."""
    check_restart(*pg_of_its_own)


def test_a_message_survives_a_restart_of_mariadb(
    mariadb_of_its_own: tuple[MariaDB, Worker],
) -> None:
    """The same, by the numbers of MySQL's errors."""
    check_restart(*mariadb_of_its_own)


def check_restart(server: Server, worker: Worker) -> None:
    in_hand, down = threading.Event(), threading.Event()

    def handle(message: str, session: Session) -> None:
        store(message, session)
        session.flush()
        if message == "b":
            in_hand.set()
            down.wait(30)
        session.execute(text("SELECT 1"))

    with log_watch(TRIED, "the database is back") as log:
        thread = worker.start("abc", handle)
        assert in_hand.wait(30)
        server.stop()
        down.set()
        log.wait(TRIED)
        server.start()
        log.wait("the database is back")
        thread.join(30)
    assert (worker.stored(), worker.acked, worker.failed) == (list("abc"), list("abc"), [])
    assert worker.checked_out() == 0


def test_a_server_that_is_away_at_the_start_is_waited_for(new_postgres: NewPostgres) -> None:
    """The first connection of the process fails; nothing is lost."""
    server = new_postgres()
    worker = Worker(server.url(), **NO_GRACE)
    server.stop()
    with log_watch(TRIED) as log:
        thread = worker.start("a")
        log.wait(TRIED)
        server.start()
        thread.join(30)
    assert worker.acked == ["a"]


def test_a_full_server_is_waited_for(new_postgres: NewPostgres) -> None:
    """There is no room for the worker until somebody else leaves."""
    server = new_postgres({"max_connections": 4, "max_wal_senders": 0})
    worker = Worker(server.url(), **IMPATIENT)
    taken: list[Connection] = []

    def fill() -> bool:
        with suppress(DBAPIError):
            while True:
                taken.append(outside(worker.settings).connect())
        return len(taken) == 4

    # It may refuse because of one who is just leaving, and have room for the worker then.
    until(fill, "every connection is taken")
    with log_watch("try 1 of 100") as log:
        thread = worker.start("a", max_tries=100)
        log.wait("try 1 of 100")
        for connection in taken:
            connection.close()
        thread.join(30)
    assert worker.acked == ["a"]


def test_a_terminated_backend_is_tried_again(worker: Worker) -> None:
    """An administrator ends the connection in the middle of the message."""
    seen: list[str] = []

    def handle(message: str, session: Session) -> None:
        store(message, session)
        session.flush()
        seen.append(message)
        if len(seen) == 1:
            worker.end_backends()
        session.execute(text("SELECT 1"))

    worker.run("ab", handle)
    assert (seen, worker.stored()) == (["a", "a", "b"], ["a", "b"])
    assert (worker.acked, worker.failed) == (["a", "b"], [])


def test_a_connection_that_died_between_messages_costs_a_try(worker: Worker) -> None:
    """The pool still holds it when the next message comes."""
    worker.run("ab", ack=lambda message: worker.acked.append(message) or worker.end_backends())
    assert worker.stored() == worker.acked == ["a", "b"]


def test_a_message_that_kills_its_connection_is_handed_on_in_the_end(worker: Worker) -> None:
    """It would otherwise be tried for ever."""
    seen: list[str] = []

    def handle(message: str, session: Session) -> None:
        seen.append(message)
        session.execute(text("SELECT 1"))
        if message == "a":
            worker.end_backends()
        session.execute(text("SELECT 1"))

    worker.run("ab", handle, max_tries=2)
    assert (seen, worker.acked) == (["a", "a", "b"], ["b"])
    assert [message for message, _ in worker.failed] == ["a"]


@pytest.mark.slow
def test_the_wait_probes_the_database_and_not_the_message(
    pg_of_its_own: tuple[PrivatePostgres, Worker],
) -> None:
    """However long an outage lasts, it costs the message one try."""
    server, worker = pg_of_its_own
    # Refused at once, so that it is the loop that waits for the server, and not the pool.
    worker.settings |= NO_GRACE
    seen: list[str] = []

    def handle(message: str, session: Session) -> None:
        seen.append(message)
        if len(seen) == 1:
            server.stop()
        session.execute(text("SELECT 1"))

    stop = threading.Event()
    thread = worker.start("a", handle, stop=stop, max_tries=2)
    with log_watch("the database is back") as log:
        probed_often = time.monotonic() + 1.5
        while time.monotonic() < probed_often:
            assert thread.is_alive()
            thread.join(0.1)
        server.start()
        log.wait("the database is back")
        thread.join(30)
    assert (seen, worker.acked, worker.failed) == (["a", "a"], ["a"], [])
