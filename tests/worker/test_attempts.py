"""Which messages `consume` tries again, and how often."""

import threading
from collections.abc import Callable
from contextlib import nullcontext

import pytest
from sqlalchemy import delete, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError

from pyramid_dbpool import PoolTimeout, get_engine, unit_of_work, warm
from pyramid_dbpool.pool import checkout
from tests.support.guests import CLOCKS
from tests.support.workers import IMPATIENT, Broken, Done, Worker, outside, store


def lost_connection() -> DBAPIError:
    """Return what SQLAlchemy says of one."""
    return OperationalError("SELECT 1", {}, Exception("gone"), connection_invalidated=True)


@pytest.fixture
def pg_worker(postgres_url: str) -> Worker:
    """Give a worker on PostgreSQL."""
    return Worker(postgres_url)


@pytest.mark.parametrize("clock", ["right", *CLOCKS])
def test_a_serialization_failure_is_tried_again(pg_worker: Worker, clock: str) -> None:
    """Another transaction came between on the first try; the second one succeeds.

    Also where an app's test has stopped the clock, or counts the calls of `time.sleep`.
    """
    pg_worker.run("a")
    rename = text("UPDATE done SET message = message || :by")
    tries = []

    def handle(message: str, session: Session) -> None:
        tries.append(session.scalar(text("SELECT message FROM done")))
        if len(tries) == 1:
            with outside(pg_worker.settings).begin() as connection:
                connection.execute(rename, {"by": "-other"})
        session.execute(rename, {"by": message})

    with CLOCKS.get(clock, nullcontext)():
        pg_worker.run("b", handle, isolation_level="REPEATABLE READ")
    assert tries == ["a", "a-other"]
    assert (pg_worker.stored(), pg_worker.acked) == (["a-otherb"], ["a", "b"])


def test_a_session_with_an_engine_for_each_class_gets_the_error_itself(
    pg_worker: Worker,
) -> None:
    """It has none for all, which could be asked what the error means."""

    def routed(settings: dict[str, str]) -> Session:
        return Session(binds={Done: get_engine(settings)})

    def twice(message: str, session: Session) -> None:
        session.add_all([Done(id=1, message=message), Done(id=2, message=message)])
        session.flush()
        session.execute(update(Done).values(id=1))

    pg_worker.run(["b"], twice, session_factory=routed)
    ((_, error),) = pg_worker.failed
    assert isinstance(error, IntegrityError)
    assert pg_worker.stored() == []


def test_another_try_has_the_modes_too(pg_worker: Worker) -> None:
    """On whichever connection of a session that has an engine for each class."""

    def routed(settings: dict[str, str]) -> Session:
        return Session(binds={Done: get_engine(settings)})

    levels = []

    def handle(message: str, session: Session) -> None:
        connection = session.connection(bind_arguments={"mapper": Done})
        levels.append(connection.scalar(text("SHOW transaction_isolation")))
        if len(levels) == 1:
            connection.execute(text("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$"))

    pg_worker.run("a", handle, session_factory=routed, isolation_level="SERIALIZABLE")
    assert (levels, pg_worker.acked) == (["serializable"] * 2, ["a"])


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


def test_a_pool_without_a_free_connection_is_tried_again(postgres_url: str) -> None:
    """Somebody else gives the only connection back during the second try."""
    one = {"sqlalchemy.pool_size": "1", "sqlalchemy.max_overflow": "0"}
    worker = Worker(postgres_url, **one, **IMPATIENT)
    engine = get_engine(worker.settings)
    warm(engine)
    taken = engine.connect()
    tries = []

    def handle(message: str, session: Session) -> None:
        tries.append(message)
        if len(tries) == 2:
            taken.close()
        store(message, session)
        session.flush()

    worker.run("a", handle)
    assert (len(tries), worker.acked) == (2, ["a"])


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
            session.connection().rollback()
        store(message, session)

    worker.run("a", handle)
    assert (worker.stored(), worker.acked, len(numbers)) == (["a"], ["a"], 2)


def test_a_session_is_rolled_back_although_its_connection_is_lost(postgres_url: str) -> None:
    """A handler that begins anew goes on, with another connection."""
    worker, numbers = Worker(postgres_url), []

    def handle(message: str, session: Session) -> None:
        numbers.append(message)
        session.execute(text("SELECT 1"))
        worker.end_backends()
        session.rollback()
        store(message, session)

    worker.run("a", handle)
    assert (worker.stored(), worker.acked, len(numbers)) == (["a"], ["a"], 1)


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


def test_a_row_that_another_one_changed_is_tried_again(pg_worker: Worker) -> None:
    """The second try sees what the other one has left."""
    pg_worker.run("a")
    seen = []

    def handle(message: str, session: Session) -> None:
        row = session.scalar(select(Done))
        seen.append(row)
        if row is None:
            store(message, session)
            return
        with outside(pg_worker.settings).begin() as connection:
            connection.execute(delete(Done))
        row.message = message

    pg_worker.run("b", handle)
    assert (len(seen), pg_worker.stored(), pg_worker.failed) == (2, ["b"], [])


@pytest.mark.parametrize("explicit", [False, True])
def test_an_error_that_the_handler_has_wrapped_is_tried_again(
    pg_worker: Worker, explicit: bool
) -> None:
    """An outage must not have messages rejected by an app that has errors of its own."""
    numbers: list[int] = []

    def handle(message: str, session: Session) -> None:
        numbers.append(1)
        store(message, session)
        session.flush()
        try:
            if len(numbers) == 1:
                pg_worker.end_backends()
            session.execute(text("SELECT 1"))
        except DBAPIError as error:
            if explicit:
                raise Broken from error
            raise Broken  # noqa: B904

    pg_worker.run("a", handle)
    assert (len(numbers), pg_worker.stored(), pg_worker.failed) == (2, ["a"], [])


def test_an_error_that_is_its_own_cause_is_an_error(pg_worker: Worker) -> None:
    """Whoever looks for what caused it comes to an end."""

    def handle(message: str, session: Session) -> None:
        error = Broken(message)
        raise error from error

    pg_worker.run("a", handle)
    assert [message for message, _ in pg_worker.failed] == ["a"]


def test_a_conflict_at_a_stop_is_tried_again(
    pg_worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others' transactions are short: the message in hand is finished."""
    # A busy machine takes its time to hand the connection out again.
    monkeypatch.setattr(checkout, "SLICE", 30.0)
    stop, numbers = threading.Event(), []

    def handle(message: str, session: Session) -> None:
        numbers.append(message)
        store(message, session)
        stop.set()
        if len(numbers) == 1:
            raise StaleDataError

    pg_worker.run("ab", handle, stop=stop)
    assert (numbers, pg_worker.stored(), pg_worker.acked) == (["a", "a"], ["a"], ["a"])


def test_a_stop_ends_the_pause_after_a_full_pool(pg_worker: Worker) -> None:
    """The message is not begun again, and comes again."""
    stop, numbers = Set(), []

    def handle(message: str, session: Session) -> None:
        numbers.append(message)
        raise PoolTimeout

    pg_worker.run("a", handle, stop=stop)
    assert (numbers, pg_worker.acked, pg_worker.failed) == (["a"], [], [])


class Set(threading.Event):
    """An event that is set while somebody waits for it."""

    def wait(self, timeout: float | None = None) -> bool:
        """Set it."""
        self.set()
        return True


@pytest.mark.parametrize("handled", [PoolTimeout("full"), lost_connection()])
def test_what_is_handled_around_consume_is_no_error_of_its_messages(
    pg_worker: Worker, handled: Exception
) -> None:
    """A bug of the handler is tried once, though Python names the error before it."""
    numbers: list[str] = []

    def handle(message: str, session: Session) -> None:
        numbers.append(message)
        try:
            raise KeyError(message)
        except KeyError:
            raise Broken(message)  # noqa: B904

    try:
        raise handled
    except (DBAPIError, PoolTimeout):
        pg_worker.run("a", handle)
    assert numbers == ["a"]
    assert [message for message, _ in pg_worker.failed] == ["a"]


def test_what_is_handled_around_consume_is_raised_again_as_what_it_is(pg_worker: Worker) -> None:
    """A handler's bare `raise` raises the error that is being handled."""
    numbers: list[str] = []

    def handle(message: str, session: Session) -> None:
        numbers.append(message)
        if len(numbers) == 1:
            raise  # noqa: PLE0704

    try:
        raise lost_connection()
    except DBAPIError:
        pg_worker.run("a", handle)
    assert numbers == ["a", "a"]
