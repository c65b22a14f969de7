"""How `consume` waits for the database: how long, how loudly, until when."""

import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from pyramid_dbpool import DatabaseUnavailable, get_engine, warm
from pyramid_dbpool.embedded import PrivatePostgres
from pyramid_dbpool.events import Kind
from pyramid_dbpool.worker import remedies
from tests.support.happened import Happened
from tests.support.workers import (
    IMPATIENT,
    NO_GRACE,
    TRIED,
    Lost,
    Worker,
    ask,
    ended_within,
    log_watch,
    without_server,
)

STOPPED = "neither handled nor acknowledged"


@pytest.mark.slow
def test_a_stop_ends_the_wait_for_the_database(caplog: pytest.LogCaptureFixture) -> None:
    """Within a second; the message is not acknowledged, nor handed on, and the log says so."""
    worker = without_server()
    stop = threading.Event()
    with log_watch(TRIED) as log:
        thread = worker.start("ab", ask, stop=stop)
        log.wait(TRIED)
        stop.set()
        assert ended_within(thread, 1)
    assert (worker.acked, worker.failed) == ([], [])
    assert f"message #1: {STOPPED}" in caplog.text


def test_sigterm_ends_the_wait_for_the_database() -> None:
    """The signal comes while the main thread waits."""
    worker = without_server()
    with log_watch(TRIED) as log:

        def kill() -> None:
            log.wait(TRIED)
            os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=kill)
        thread.start()
        worker.run("ab", ask, stop_on_sigterm=True)
        thread.join()
    assert (worker.acked, worker.failed) == ([], [])


def test_an_outage_is_logged_now_and_then(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, happened: Happened
) -> None:
    """Once at its start, then at most every 30 seconds; here, at every probe."""
    monkeypatch.setattr(remedies, "LOG_EVERY", 0.0)
    stop = threading.Event()
    with log_watch("still away") as log:
        thread = without_server().start("a", ask, stop=stop)
        log.wait("still away")
        stop.set()
        thread.join(30)
    levels = {record.levelno for record in caplog.records}
    assert levels == {logging.WARNING}
    first = happened(Kind.REFUSED)[0]
    assert (first.pool, first.fields["label"]) == ("default", "message #1")
    assert first.fields["reason"] == "DatabaseUnavailable"
    waiting = happened(Kind.WAITING)[0]
    assert "still away" in waiting.text
    assert isinstance(waiting.fields["seconds"], float)


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

    monkeypatch.setattr(remedies, "_pause", pause)
    without_server().start("a", ask, stop=stop).join(30)
    assert numbers == [1, 2, 3, 4, 5, 6]
    assert "still away" not in caplog.text


def test_pauses_grow_to_five_seconds_and_differ() -> None:
    """The workers of a fleet do not all come back in the same instant."""
    assert 0.05 <= remedies._pause(1) <= 0.1
    assert 2.5 <= remedies._pause(7) <= 5
    assert 2.5 <= remedies._pause(100_000) <= 5
    assert len({remedies._pause(3) for _ in range(10)}) > 1


def test_pauses_begin_where_the_tries_are(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> None:
    """A message that itself brings the server down finds it back at once, each time."""
    numbers: list[int] = []
    monkeypatch.setattr(remedies, "_pause", lambda number: numbers.append(number) or 0.0)

    def handle(message: str, session: Session) -> None:
        raise DatabaseUnavailable("SELECT 1", None, OSError("gone"))

    Worker(postgres_url).run("a", handle, max_tries=4)
    assert numbers == [1, 2, 3]


def test_a_database_that_comes_back_and_refuses_us_ends_the_wait(
    new_postgres: Callable[..., PrivatePostgres], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for a password; the message is not to blame."""
    monkeypatch.setattr(remedies, "_pause", lambda number: 0.01)
    server = new_postgres()
    worker = Lost(server.url(database="nowhere"), **NO_GRACE)
    server.stop()
    with log_watch(TRIED) as log:
        raised: list[BaseException] = []
        thread = threading.Thread(target=lambda: raised.append(refusal_of(worker)))
        thread.start()
        log.wait(TRIED)
        server.start()
        thread.join(60)
    assert "nowhere" in str(raised[0])
    assert (worker.acked, worker.failed) == ([], [])


def refusal_of(worker: Worker) -> BaseException:
    """Consume until the database refuses."""
    with pytest.raises(DatabaseUnavailable) as caught:
        worker.run("a", ask)
    return caught.value


def test_a_pool_that_is_full_when_the_database_is_back_is_waited_for(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else was faster: that is no error of the message."""
    one = {"sqlalchemy.pool_size": "1", "sqlalchemy.max_overflow": "0"}
    worker, numbers = Worker(postgres_url, **one, **IMPATIENT), []
    engine = get_engine(worker.settings)
    warm(engine)
    taken = engine.connect()

    def pause(number: int) -> float:
        numbers.append(number)
        if number == 2:
            taken.close()
        return 0.0

    monkeypatch.setattr(remedies, "_pause", pause)
    errors = [DatabaseUnavailable("SELECT 1", None, OSError("gone"))]

    def handle(message: str, session: Session) -> None:
        if errors:
            raise errors.pop()

    worker.run("a", handle, max_tries=2)
    assert (numbers, worker.acked, worker.failed) == ([1, 2], ["a"], [])


def test_a_pool_that_is_paused_is_waited_for(
    sqlite_url: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    happened: Happened,
) -> None:
    """However often: that is no try of the message's."""
    worker, numbers = Worker(sqlite_url, **{"sqlalchemy.pool_timeout": "10ms"}), []
    pool: Any = get_engine(worker.settings).pool
    pool.pause("ann")

    def pause(number: int) -> float:
        numbers.append(number)
        if len(numbers) == 9:
            pool.resume("ann")
        return 0.0

    monkeypatch.setattr(remedies, "_pause", pause)
    monkeypatch.setattr(remedies, "LOG_EVERY", 0.0)
    worker.run("a", max_tries=1)
    assert (worker.acked, worker.failed, worker.stored()) == (["a"], [], ["a"])
    assert "waiting until the pool is resumed: PoolTimeout: pool 'default': no conn" in caplog.text
    waiting = happened(Kind.WAITING)[0]
    assert waiting.text.startswith("waiting: pool 'default' is still paused; `pdbpool resume`")
    assert waiting.fields == {"reason": "PoolTimeout"}
    assert len(numbers) == 9


def test_a_stop_ends_the_wait_for_a_paused_pool(sqlite_url: str) -> None:
    """The message is left for the next worker."""
    worker, stop = Worker(sqlite_url, **{"sqlalchemy.pool_timeout": "10ms"}), threading.Event()
    pool: Any = get_engine(worker.settings).pool
    pool.pause()
    with log_watch("waiting until the pool is resumed") as log:
        thread = worker.start("a", stop=stop)
        log.wait("waiting until the pool is resumed")
        stop.set()
        thread.join(30)
    assert (worker.acked, worker.failed, thread.is_alive()) == ([], [], False)


def test_an_engine_of_the_callers_own_is_waited_for_too(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error is SQLAlchemy's own, and the message is no more to blame for it."""
    worker, stop = without_server(), threading.Event()
    engine = create_engine(worker.settings["sqlalchemy.url"])
    monkeypatch.setattr(remedies, "_pause", lambda number: stop.set() or 0.0)
    worker.run("a", ask, stop=stop, session_factory=lambda settings: Session(engine))
    assert (worker.acked, worker.failed) == ([], [])
    assert "waiting for the database" in caplog.text


def test_a_lost_connection_that_sqlalchemy_misses_is_tried_again(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it misses that of mysql-connector."""
    monkeypatch.setattr(remedies, "_pause", lambda number: 0.0)
    worker = Worker(sqlite_url)
    errors = [DBAPIError("SELECT 1", None, OSError("MySQL Connection not available"))]

    def handle(message: str, session: Session) -> None:
        if errors:
            raise errors.pop()

    worker.run("a", handle)
    assert (worker.acked, worker.failed) == (["a"], [])
