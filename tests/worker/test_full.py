"""What `consume` does while the database can store nothing."""

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pyramid_dbpool import get_engine
from pyramid_dbpool.embedded import PrivatePostgres
from tests.support.full import INSERT, Full, add_tablespace, full_sqlite
from tests.support.makers import wait_for
from tests.support.servers.disks import SmallDisk
from tests.support.workers import Lost, log_watch

WAITS = "waiting until the database has room"


def test_messages_wait_until_there_is_room(
    full_database: Full, caplog: pytest.LogCaptureFixture
) -> None:
    """None is rejected, however often it is tried, and the log says so once."""
    worker, tries = Lost(full_database.url), list[int]()
    full_database.prepare(get_engine(worker.settings))

    def handle(message: int, session: Session) -> None:
        tries.append(message)
        session.execute(INSERT, full_database.row(message))

    with log_watch(WAITS) as log:
        thread = worker.start([1, 2], handle, max_tries=2)
        log.wait(WAITS)
        wait_for(lambda: len(tries) > 3)
        full_database.free()
        thread.join()
    assert (worker.acked, worker.failed, full_database.rows()) == ([1, 2], [], [1, 2])
    assert sum(WAITS in record.getMessage() for record in caplog.records) == 1


def test_a_stop_ends_the_wait_for_room(sqlite_url: str) -> None:
    """The message comes again to the next worker."""
    full_database, stop = full_sqlite(sqlite_url), threading.Event()
    worker = Lost(full_database.url)
    full_database.prepare(get_engine(worker.settings))

    def handle(message: int, session: Session) -> None:
        session.execute(INSERT, full_database.row(message))

    with log_watch(WAITS) as log:
        thread = worker.start([1, 2], handle, stop=stop)
        log.wait(WAITS)
        stop.set()
        thread.join()
    assert (worker.acked, worker.failed) == ([], [])


def test_a_statement_that_fills_the_disk_itself_is_given_up(
    new_postgres: Callable[[], PrivatePostgres], small_disk: SmallDisk
) -> None:
    """After some tries: it would fill it for ever, and the queue stand still."""
    server = new_postgres()
    worker = Lost(server.url())
    add_tablespace(server.url(), small_disk)

    def sort(message: int, session: Session) -> None:
        session.execute(text("SET LOCAL temp_tablespaces = small; SET LOCAL work_mem = '64kB'"))
        rows = "SELECT n FROM generate_series(1, 1000000) n ORDER BY n DESC"
        session.execute(text(f"SELECT count(*) FROM ({rows}) sorted"))

    worker.run([1], sort, max_tries=2)
    assert [message for message, _ in worker.failed] == [1]
