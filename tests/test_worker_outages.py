"""What `consume` does when the database goes away under a message."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from sqlalchemy import Connection, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from pyramid_dbpool import CommitUnknown, DatabaseUnavailable, tries, unit_of_work
from pyramid_dbpool.embedded import PrivatePostgres, free_port
from tests.servers.fixtures import MARIADB, POSTGRES, NewDatabase, NewProxy, need_mysqlclient
from tests.servers.mariadb import MariaDB
from tests.servers.proxy import FaultProxy
from tests.workers import Worker, ended_within, log_watch, outside, store

NewPostgres = Callable[..., PrivatePostgres]

TRIED = "try 1 of 5"
# For the wait that comes after the pool's own.
IMPATIENT = {"sqlalchemy.pool_timeout": "100ms"}
STOPPED = "neither handled nor acknowledged"


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
    request: pytest.FixtureRequest, mariadb: object, tmp_path: Path
) -> Iterator[tuple[MariaDB, Worker]]:
    """Give a MariaDB server and a worker on it."""
    if request.param == "mysqldb":
        need_mysqlclient()
    server = MariaDB(tmp_path / "mariadb")
    server.start()
    server.execute("CREATE DATABASE worker")
    yield server, Worker(server.url(request.param, "worker"))
    server.stop()


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
    worker = Worker(server.url(), **IMPATIENT)
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
    with pytest.raises(DBAPIError):
        while True:
            taken.append(outside(worker.settings).connect())
    with log_watch(TRIED) as log:
        thread = worker.start("a")
        log.wait(TRIED)
        for connection in taken:
            connection.close()
        thread.join(30)
    assert worker.acked == ["a"]


@pytest.mark.slow
def test_a_stop_ends_the_wait_for_the_database(caplog: pytest.LogCaptureFixture) -> None:
    """Within a second; the message is not acknowledged, nor handed on, and the log says so."""
    worker = away()
    stop = threading.Event()
    with log_watch(TRIED) as log:
        thread = worker.start("ab", handle_there, stop=stop)
        log.wait(TRIED)
        stop.set()
        assert ended_within(thread, 1)
    assert (worker.acked, worker.failed) == ([], [])
    assert f"message #1: {STOPPED}" in caplog.text


def test_sigterm_ends_the_wait_for_the_database() -> None:
    """The signal comes while the main thread waits."""
    worker = away()
    with log_watch(TRIED) as log:

        def kill() -> None:
            log.wait(TRIED)
            os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=kill)
        thread.start()
        worker.run("ab", handle_there, stop_on_sigterm=True)
        thread.join()
    assert (worker.acked, worker.failed) == ([], [])


def away() -> Worker:
    """Return a worker whose server is not there."""
    worker = object.__new__(Worker)
    worker.settings = {
        "sqlalchemy.url": f"postgresql+psycopg://x@127.0.0.1:{free_port()}/x",
        **IMPATIENT,
    }
    worker.acked, worker.failed = [], []
    return worker


def handle_there(message: str, session: Session) -> None:
    session.execute(text("SELECT 1"))


def test_an_outage_is_logged_now_and_then(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once at its start, then at most every 30 seconds; here, at every probe."""
    monkeypatch.setattr(tries, "LOG_EVERY", 0.0)
    stop = threading.Event()
    with log_watch("still away") as log:
        thread = away().start("a", handle_there, stop=stop)
        log.wait("still away")
        stop.set()
        thread.join(30)
    levels = {record.levelno for record in caplog.records}
    assert levels == {logging.WARNING}


def test_between_reminders_an_outage_is_silent(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some probes later there is still one line."""
    stop, numbers = threading.Event(), []

    def pause(number: int) -> float:
        numbers.append(number)
        if len(numbers) > 5:
            stop.set()
        return 0.01

    monkeypatch.setattr(tries, "_pause", pause)
    away().start("a", handle_there, stop=stop).join(30)
    assert numbers == [1, 2, 3, 4, 5, 6]
    assert "still away" not in caplog.text


def test_pauses_grow_to_five_seconds_and_differ() -> None:
    """Not all of a fleet's workers come back in the same instant."""
    assert 0.05 <= tries._pause(1) <= 0.1
    assert 2.5 <= tries._pause(7) <= 5
    assert 2.5 <= tries._pause(100_000) <= 5
    assert len({tries._pause(3) for _ in range(10)}) > 1


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


@pytest.fixture
def cut(worker: Worker, new_proxy: NewProxy) -> tuple[Worker, FaultProxy]:
    """Give a worker and the proxy between it and its database."""
    url = worker.settings["sqlalchemy.url"]
    proxy = new_proxy(url)
    worker.settings["sqlalchemy.url"] = proxy.url(url)
    return worker, proxy


def cutting(proxy: FaultProxy) -> Callable[[str, Session], None]:
    """Return a handler during whose first commit the network breaks."""
    calls: list[str] = []

    def handle(message: str, session: Session) -> None:
        calls.append(message)
        store(f"{message}{len(calls)}", session)
        session.flush()
        if len(calls) == 1:
            proxy.faults.fatal_request = b"COMMIT"

    return handle


def test_an_unknown_commit_is_not_tried_again(cut: tuple[Worker, FaultProxy]) -> None:
    """The work is stored, though the worker cannot know: twice would be wrong."""
    worker, proxy = cut
    worker.run("ab", cutting(proxy))
    ((message, error),) = worker.failed
    assert (message, type(error)) == ("a", CommitUnknown)
    assert (worker.acked, worker.stored()) == (["b"], ["a1", "b2"])


def test_an_unknown_commit_is_raised_without_on_error(cut: tuple[Worker, FaultProxy]) -> None:
    """And the message is not acknowledged."""
    worker, proxy = cut
    with pytest.raises(CommitUnknown):
        worker.run("ab", cutting(proxy), on_error=None)
    assert worker.acked == []


def test_an_unknown_commit_of_an_idempotent_handler_is_tried_again(
    cut: tuple[Worker, FaultProxy],
) -> None:
    """Its author said that another try does no harm."""
    worker, proxy = cut
    worker.run("ab", cutting(proxy), idempotent=True)
    assert (worker.acked, worker.failed) == (["a", "b"], [])
    assert worker.stored() == ["a1", "a2", "b3"]


def test_an_unknown_commit_of_a_reader_is_tried_again(cut: tuple[Worker, FaultProxy]) -> None:
    """A read-only transaction has nothing that could be stored twice."""
    worker, proxy = cut
    seen: list[Any] = []

    def handle(message: str, session: Session) -> None:
        seen.append(session.scalar(text("SELECT 1")))
        if len(seen) == 1:
            proxy.faults.fatal_request = b"COMMIT"

    worker.run("a", handle, read_only=True)
    assert (seen, worker.acked, worker.failed) == ([1, 1], ["a"], [])


@pytest.mark.slow
def test_the_wait_probes_the_database_and_not_the_message(
    pg_of_its_own: tuple[PrivatePostgres, Worker],
) -> None:
    """However long an outage lasts, it costs the message one try."""
    server, worker = pg_of_its_own
    # Else the pool itself waits until the server is back.
    worker.settings["sqlalchemy.pool_timeout"] = "100ms"
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


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
@pytest.mark.parametrize("in_hand", [False, True])
def test_a_changed_password_ends_the_loop_and_blames_no_message(
    driver: str, in_hand: bool, new_postgres: NewPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether a message comes after it or is in hand; one line of the log says what to do."""
    server = new_postgres(password="admin")
    with outside({"sqlalchemy.url": server.url()}).begin() as connection:
        connection.execute(text("CREATE ROLE app SUPERUSER LOGIN PASSWORD 'old'"))
    url = make_url(server.url(driver)).set(username="app", password="old")
    worker = Worker(url.render_as_string(hide_password=False))

    def handle(message: str, session: Session) -> None:
        store(message, session)
        session.flush()
        if (message == "2") and in_hand:
            shut_out()
            session.execute(text("SELECT 1"))

    def shut_out() -> None:
        with outside({"sqlalchemy.url": server.url()}).begin() as connection:
            connection.execute(text("ALTER ROLE app PASSWORD 'new'"))
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                    " WHERE usename = 'app'"
                )
            )

    def ack(message: str) -> None:
        worker.acked.append(message)
        if not in_hand:
            shut_out()

    with pytest.raises(DatabaseUnavailable, match="password authentication failed"):
        worker.run("123", handle, ack=ack, identify=str)
    assert (worker.acked, worker.failed) == (["1"], [])
    (record,) = (each for each in caplog.records if each.levelno >= logging.ERROR)
    said = record.getMessage()
    assert said.startswith("consume ends: pool 'default': ")
    assert "check sqlalchemy.url" in said
    assert said.endswith("message '2' is not acknowledged and will come again.")
    assert (record.exc_info, "\n" in said, "old" in said) == (None, False, False)


@pytest.mark.parametrize("poolclass", ["", "NullPool"])
def test_a_database_that_is_not_there_ends_the_loop(
    new_postgres: NewPostgres, poolclass: str
) -> None:
    """With SQLAlchemy's own pools too."""
    worker = object.__new__(Worker)
    worker.settings = {"sqlalchemy.url": new_postgres().url(database="nowhere")}
    if poolclass:
        worker.settings["sqlalchemy.poolclass"] = poolclass
    worker.acked, worker.failed = [], []
    with pytest.raises(DatabaseUnavailable, match="nowhere"):
        worker.run("ab", handle_there)
    assert (worker.acked, worker.failed) == ([], [])


def hand_commit(session: Session, worker: Worker) -> None:
    session.commit()


def second_unit(session: Session, worker: Worker) -> None:
    with unit_of_work(worker.settings) as other:
        store("second", other)


@pytest.mark.parametrize("stores", [hand_commit, second_unit])
@pytest.mark.parametrize("idempotent", [False, True])
def test_a_message_is_not_tried_again_after_something_of_it_was_stored(
    postgres_url: str, stores: Callable[[Session, Worker], None], idempotent: bool
) -> None:
    """Unless that does no harm."""
    worker, numbers = Worker(postgres_url), []

    def handle(message: str, session: Session) -> None:
        numbers.append(message)
        store(message, session)
        stores(session, worker)
        if len(numbers) == 1:
            session.connection()
            worker.end_backends()
            session.execute(text("SELECT 1"))

    worker.run("a", handle, idempotent=idempotent)
    assert (len(numbers), len(worker.failed)) == ((2, 0) if idempotent else (1, 1))


def test_a_lost_rollback_is_no_unknown_commit(postgres_url: str) -> None:
    """Neither has a statement; the message is tried again."""
    worker, numbers = Worker(postgres_url), []

    def handle(message: str, session: Session) -> None:
        numbers.append(message)
        session.execute(text("SELECT 1"))
        if len(numbers) == 1:
            worker.end_backends()
            session.rollback()
        store(message, session)

    worker.run("a", handle)
    assert (worker.stored(), worker.acked, len(numbers)) == (["a"], ["a"], 2)


def test_a_stop_on_the_last_try_hands_the_message_to_nobody(postgres_url: str) -> None:
    """It comes again; on_error would drop it."""
    worker, stop = Worker(postgres_url), threading.Event()

    def handle(message: str, session: Session) -> None:
        session.connection()
        worker.end_backends()
        stop.set()
        session.execute(text("SELECT 1"))

    worker.run("a", handle, stop=stop, max_tries=1)
    assert (worker.acked, worker.failed) == ([], [])


def test_no_password_of_a_drivers_text_is_logged(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A driver may quote what it was given."""
    quoted = DBAPIError(
        None,
        None,
        OSError("no answer from postgresql://u:s3cret@h/x"),
        connection_invalidated=True,
    )
    numbers: list[str] = []

    def handle(message: str, session: Session) -> None:
        numbers.append(message)
        if len(numbers) == 1:
            raise quoted

    Worker(postgres_url).run("a", handle)
    assert TRIED in caplog.text and "OSError: no answer" in caplog.text
    assert "s3cret" not in caplog.text + str(CommitUnknown(quoted.orig))
