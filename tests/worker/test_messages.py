"""What `consume` does with a message, on every database."""

import json
import queue
import threading
from collections.abc import Callable
from typing import Any

import pytest
from gevent import GreenletExit
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from pyramid_dbpool import TransactionFailed, get_engine, session_factory
from pyramid_dbpool.worker.loop import consume
from tests.support.workers import Broken, Worker, broken_at, store


@pytest.fixture
def worker(any_url: str) -> Worker:
    """Give a worker on each database."""
    return Worker(any_url)


@pytest.fixture
def pg_worker(postgres_url: str) -> Worker:
    """Give a worker on PostgreSQL."""
    return Worker(postgres_url)


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


def test_an_error_of_the_handler_is_not_tried_again(worker: Worker) -> None:
    """Neither its own nor one of its SQL."""
    tries = []

    def handle(message: str, session: Session) -> None:
        tries.append(message)
        session.execute(text("SELECT * FROM nowhere"))

    worker.run("a", handle)
    assert (len(tries), len(worker.failed)) == (1, 1)


def test_a_session_of_the_callers_own_needs_no_engine_of_ours() -> None:
    """It may bind each class to an engine, and none to itself."""
    seen: list[str] = []
    consume(
        "a", lambda message, session: seen.append(message), {}, session_factory=lambda _: Session()
    )
    assert seen == ["a"]
