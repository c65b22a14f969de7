"""What `consume` does with a message, on every database."""

import json
import logging
import queue
import threading
import uuid
from collections import namedtuple
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from gevent import GreenletExit
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from pyramid_dbpool import DatabaseUnavailable, TransactionFailed, get_engine, session_factory
from pyramid_dbpool.worker import consume
from tests.workers import Worker, outside, store


class Broken(Exception):
    """What the tests' handlers raise."""


@pytest.fixture
def worker(any_url: str) -> Worker:
    """Give a worker on each database."""
    return Worker(any_url)


@pytest.fixture
def pg_worker(postgres_url: str) -> Worker:
    """Give a worker on PostgreSQL."""
    return Worker(postgres_url)


def broken_at(*bad: Any) -> Callable[[Any, Session], None]:
    """Return a handler that stores each message, then fails at some."""

    def handle(message: Any, session: Session) -> None:
        store(message, session)
        session.flush()
        if message in bad:
            raise Broken(message)

    return handle


def test_a_message_is_acknowledged_after_its_commit(worker: Worker) -> None:
    """At the acknowledgement others see the work, and the connection is back in the pool."""
    seen = []
    worker.run("abc", ack=lambda message: seen.append((worker.stored(), worker.checked_out())))
    assert seen == [(["a"], 0), (["a", "b"], 0), (["a", "b", "c"], 0)]


def test_a_failing_message_is_handed_on_and_the_loop_goes_on(worker: Worker) -> None:
    """Its work is rolled back, it is not acknowledged; the others are done."""
    worker.run("abc", broken_at("b"))
    assert worker.acked == worker.stored() == ["a", "c"]
    assert [(message, type(error)) for message, error in worker.failed] == [("b", Broken)]


def test_the_connection_is_back_before_a_message_is_handed_on(worker: Worker) -> None:
    """What stores failed messages away may need the pool's only connection."""
    seen = []
    worker.run("a", broken_at("a"), on_error=lambda *_: seen.append(worker.checked_out()))
    assert seen == [0]


def test_without_on_error_the_error_is_raised(worker: Worker) -> None:
    """No message is lost in silence: neither this one nor those after it."""
    with pytest.raises(Broken):
        worker.run("abc", broken_at("b"), on_error=None)
    assert worker.acked == worker.stored() == ["a"]


def test_an_error_of_on_error_is_raised(worker: Worker) -> None:
    """The message could not even be handed on."""

    def on_error(message: str, error: Exception) -> None:
        raise LookupError(message)

    with pytest.raises(LookupError):
        worker.run("abc", broken_at("b"), on_error=on_error)
    assert worker.acked == ["a"]


def test_an_error_of_ack_is_raised(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    """The work is stored, the broker does not know it: that is no failed message."""

    def ack(message: str) -> None:
        raise Broken(message)

    with pytest.raises(Broken):
        worker.run("abc", ack=ack)
    assert (worker.stored(), worker.failed) == (["a"], [])
    assert "message #1 is handled, but could not be acknowledged" in caplog.text


def test_a_message_that_cannot_be_decoded_is_handed_on(worker: Worker) -> None:
    """Decoding is the handler's: it fails like any other error, and the loop goes on."""

    def handle(message: bytes, session: Session) -> None:
        store(json.loads(message)["name"], session)

    worker.run([b'{"name": "a"}', b"\xff{", b'{"name": "c"}'], handle)
    assert worker.stored() == ["a", "c"]
    assert [message for message, _ in worker.failed] == [b"\xff{"]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GreenletExit])
def test_an_interrupt_rolls_back_and_propagates(
    worker: Worker, kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """It is no error of the message: not handed on, not logged, not acknowledged."""

    def handle(message: str, session: Session) -> None:
        store(message, session)
        session.flush()
        if message == "b":
            raise kind

    with pytest.raises(kind):
        worker.run("abc", handle)
    assert worker.acked == worker.stored() == ["a"]
    assert (worker.failed, worker.checked_out(), caplog.records) == ([], 0, [])


def test_a_swallowed_error_is_an_error(pg_worker: Worker) -> None:
    """PostgreSQL would roll back and say nothing; the message is not acknowledged for that."""

    def handle(message: str, session: Session) -> None:
        with pytest.raises(DBAPIError):
            session.execute(text("SELECT 1 / 0"))

    pg_worker.run("a", handle)
    assert pg_worker.acked == []
    assert isinstance(pg_worker.failed[0][1], TransactionFailed)


def test_the_modes_hold_for_each_message(pg_worker: Worker) -> None:
    """As h's streamer sets them; what follows on the same connection has the server's own."""
    seen = []
    show = text(
        "SELECT current_setting('transaction_isolation'),"
        " current_setting('transaction_read_only'), current_setting('transaction_deferrable')"
    )

    def handle(message: str, session: Session) -> None:
        seen.append(tuple(session.execute(show).one()))

    pg_worker.run("ab", handle, isolation_level="SERIALIZABLE", read_only=True, deferrable=True)
    pg_worker.run("c", handle)
    assert seen == [("serializable", "on", "on")] * 2 + [("read committed", "off", "off")]


def test_the_loop_of_h_works_as_it_stands(pg_worker: Worker) -> None:
    """Called `process_work_queue(settings, queue, session_factory=session_factory)`."""
    made = []

    def handle(message: dict[str, Any], session: Session) -> None:
        session.execute(text("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE"))
        if message["id"] == 2:
            session.execute(text("SELECT 1 / 0"))
        pg_worker.acked.append(session.scalar(text("SHOW transaction_read_only")))

    def process_work_queue(
        settings: dict[str, Any],
        messages: "queue.Queue[dict[str, Any]]",
        session_factory: Callable[..., Session],
    ) -> None:
        stop = threading.Event()

        def last(message: dict[str, Any]) -> None:
            if message["id"] == 3:
                stop.set()

        consume(
            messages,
            handle,
            settings,
            session_factory=session_factory,
            ack=last,
            on_error=lambda message, error: None,
            stop=stop,
        )

    def one_argument(settings: dict[str, Any]) -> Session:
        made.append(session_factory(settings))
        return made[-1]

    work: queue.Queue[dict[str, Any]] = queue.Queue()
    for number in (1, 2, 3):
        work.put({"id": number})
    process_work_queue(pg_worker.settings, work, session_factory=one_argument)
    assert (pg_worker.acked, len(made)) == (["on", "on"], 1)


def test_another_pool_is_asked_for_by_name(sqlite_url: str) -> None:
    """The name goes to the session factory too."""
    worker = Worker(sqlite_url)
    worker.settings |= {"sqlalchemy.queue.url": sqlite_url}
    seen = []
    worker.run("a", lambda _, session: seen.append(session.get_bind()), name="queue")
    assert seen == [get_engine(worker.settings, "queue")]
    assert seen != [get_engine(worker.settings)]


def test_a_serialization_failure_is_tried_again(pg_worker: Worker) -> None:
    """Another transaction came between on the first try; the second one succeeds."""
    pg_worker.run("a")
    rename = text("UPDATE done SET message = message || :by")
    tries = []

    def handle(message: str, session: Session) -> None:
        tries.append(session.scalar(text("SELECT message FROM done")))
        if len(tries) == 1:
            with outside(pg_worker.settings).begin() as connection:
                connection.execute(rename, {"by": "-other"})
        session.execute(rename, {"by": message})

    pg_worker.run("b", handle, isolation_level="REPEATABLE READ")
    assert tries == ["a", "a-other"]
    assert (pg_worker.stored(), pg_worker.acked) == (["a-otherb"], ["a", "b"])


def test_a_deadlock_is_tried_again(mariadb_url: str) -> None:
    """MariaDB ends one of two transactions."""
    worker = Worker(mariadb_url)
    tries = []

    def handle(message: str, session: Session) -> None:
        store(message, session)
        session.flush()
        tries.append(message)
        if len(tries) < 3:
            session.execute(text("SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213"))

    worker.run("a", handle)
    assert (len(tries), worker.stored(), worker.acked) == (3, ["a"], ["a"])


def test_a_locked_file_is_tried_again(sqlite_url: str) -> None:
    """Another process writes to the SQLite file during the first try."""
    worker = Worker(sqlite_url, **{"sqlalchemy.connect_args": '{"timeout": 0}'})
    other = outside(worker.settings).connect()
    other.exec_driver_sql("BEGIN EXCLUSIVE")
    tries = []

    def handle(message: str, session: Session) -> None:
        tries.append(message)
        if len(tries) == 2:
            other.close()
        store(message, session)

    worker.run("a", handle)
    assert (len(tries), worker.stored()) == (2, ["a"])


@pytest.mark.parametrize("max_tries", [1, 3])
def test_tries_are_bounded(pg_worker: Worker, max_tries: int) -> None:
    """A conflict that never ends is an error in the end, once for its message."""
    tries = []

    def handle(message: str, session: Session) -> None:
        tries.append(message)
        if message == "a":
            session.execute(
                text("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40001'; END $$")
            )

    pg_worker.run("ab", handle, max_tries=max_tries)
    assert tries == ["a"] * max_tries + ["b"]
    assert [message for message, _ in pg_worker.failed] == ["a"]


def test_an_error_of_the_handler_is_not_tried_again(worker: Worker) -> None:
    """Neither its own nor one of its SQL."""
    tries = []

    def handle(message: str, session: Session) -> None:
        tries.append(message)
        session.execute(text("SELECT * FROM nowhere"))

    worker.run("a", handle)
    assert (len(tries), len(worker.failed)) == (1, 1)


def test_a_pool_without_a_free_connection_is_tried_again(postgres_url: str) -> None:
    """Somebody else gives the only connection back during the second try."""
    one = {"sqlalchemy.pool_size": "1", "sqlalchemy.max_overflow": "0"}
    worker = Worker(postgres_url, **one, **{"sqlalchemy.pool_timeout": "100ms"})
    taken = get_engine(worker.settings).connect()
    tries = []

    def handle(message: str, session: Session) -> None:
        tries.append(message)
        if len(tries) == 2:
            taken.close()
        store(message, session)
        session.flush()

    worker.run("a", handle)
    assert (len(tries), worker.acked) == (2, ["a"])


def test_a_wrong_setting_is_not_waited_for(postgres_url: str) -> None:
    """A database that does not exist does not come back; the loop ends at once."""
    worker = Worker(postgres_url)
    worker.settings["sqlalchemy.url"] += "_nowhere"
    tries = []

    def handle(message: str, session: Session) -> None:
        tries.append(message)
        session.execute(text("SELECT 1"))

    with pytest.raises(DatabaseUnavailable, match="_nowhere"):
        worker.run("ab", handle)
    assert (tries, worker.acked, worker.failed) == (["a"], [], [])


Frame = namedtuple("Frame", "id delivery_tag")
KEY = uuid.UUID(int=7)


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (SimpleNamespace(message_id="m-1", id=2), "message 'm-1'"),
        (Frame(7, "tag"), "message '7'"),
        (Frame(KEY, "tag"), f"message '{KEY}'"),
        (Frame(b"5-0", "tag"), "message '5-0'"),
        (Frame(object(), "tag"), "message 'tag'"),
        (SimpleNamespace(properties={"message_id": "p-1"}, delivery_tag=3), "message 'p-1'"),
        ({"id": "d-1", "secret": "x"}, "message 'd-1'"),
        ({"id": "two\nlines"}, "message 'two\\nlines'"),
        ({"name": "hidden"}, "message #1"),
        ("hidden", "message #1"),
    ],
)
def test_the_log_names_a_message_but_shows_nothing_of_it(
    sqlite_url: str, caplog: pytest.LogCaptureFixture, message: Any, named: str
) -> None:
    """Its content may be secret."""

    def handle(message: Any, session: Session) -> None:
        raise Broken

    Worker(sqlite_url).run([message], handle)
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (
        logging.ERROR,
        f"{named} could not be handled",
    )
    assert record.exc_info
    assert "hidden" not in caplog.text


def test_the_caller_may_name_messages(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """And an error of that hides neither the message's own nor stops the loop."""
    worker = Worker(sqlite_url)
    worker.run(["a"], broken_at("a"), identify=lambda message: message * 3)
    worker.run(["b"], broken_at("b"), identify=lambda message: message.no_such_thing)
    assert "message 'aaa' could not" in caplog.text
    assert "message #1 could not" in caplog.text
    assert caplog.text.count("message #1 cannot be identified: AttributeError") == 1
    assert [message for message, _ in worker.failed] == ["a", "b"]


def test_an_identity_is_found_once(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """However many log lines need it: here, one for each try and one for the end."""
    worker, asked = Worker(sqlite_url), []

    def identify(message: str) -> str:
        asked.append(message)
        raise Broken

    def handle(message: str, session: Session) -> None:
        raise DatabaseUnavailable("SELECT 1", None, Broken())

    worker.run(["a"], handle, identify=identify, max_tries=2)
    assert "try 1 of 2" in caplog.text
    assert asked == ["a"]
    assert caplog.text.count("cannot be identified") == 1


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_log_shows_no_parameters(
    psycopg_url: str, caplog: pytest.LogCaptureFixture, wrapped: bool
) -> None:
    """SQLAlchemy prints them with its errors, also with those that caused another one."""
    insert = text("INSERT INTO nowhere (message) VALUES (:message)")

    def handle(message: str, session: Session) -> None:
        try:
            session.execute(insert, {"message": message})
        except DBAPIError as error:
            if wrapped:
                raise Broken from error
            raise

    Worker(psycopg_url).run(["content"], handle)
    assert "INSERT INTO nowhere" in caplog.text
    assert "content" not in caplog.text


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ({"handle": None}, TypeError, "handle is NoneType"),
        ({"messages": 3}, TypeError, "messages is int"),
        ({"ack": "yes"}, TypeError, "ack is str"),
        ({"on_error": 1}, TypeError, "on_error is int"),
        ({"identify": "id"}, TypeError, "identify is str"),
        ({"session_factory": None}, TypeError, "session_factory is NoneType"),
        ({"stop": True}, TypeError, "stop is bool"),
        ({"max_tries": "5"}, TypeError, "max_tries is '5'"),
        ({"max_tries": 0}, ValueError, "max_tries is 0"),
        ({"isolation_level": "CHAOS"}, ValueError, "CHAOS"),
    ],
)
def test_wrong_arguments_are_refused_at_once(
    sqlite_url: str, wrong: dict[str, Any], error: type[Exception], said: str
) -> None:
    """Before the first message is taken; none would be handled."""
    work: queue.Queue[str] = queue.Queue()
    work.put("a")
    right: dict[str, Any] = {
        "messages": work,
        "handle": store,
        "settings": {"sqlalchemy.url": sqlite_url},
    }
    with pytest.raises(error, match=said):
        consume(**(right | wrong))
    assert work.qsize() == 1


def test_wrong_settings_are_refused_at_once(sqlite_url: str) -> None:
    """They are not an error of the first message."""
    with pytest.raises(ValueError, match="pool_sice"):
        consume([1], store, {"sqlalchemy.url": sqlite_url, "sqlalchemy.pool_sice": "3"})


def test_messages_may_use_the_session_that_is_handed_over(worker: Worker) -> None:
    """A handler may commit by itself; what follows is committed as well."""

    def handle(message: str, session: Session) -> None:
        store(message, session)
        session.commit()
        store(message * 2, session)
        with pytest.raises(SQLAlchemyError):
            session.execute(text("SELECT * FROM nowhere"))
        session.rollback()
        store(message * 3, session)

    worker.run("a", handle)
    assert worker.stored() == ["a", "aaa"]
