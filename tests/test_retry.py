"""Which requests are tried again after an error of the database, and which must not be."""

import contextvars
import itertools
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
from pyramid_retry import RetryableException, mark_error_retryable
from sqlalchemy import Connection, Engine, create_engine, event, make_url, select, text
from sqlalchemy import exc as sa_exc
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.pool import NullPool

from pyramid_dbpool import (
    CommitUnknown,
    DatabaseUnavailable,
    PoolTimeout,
    get_engine,
    retry,
    unit_of_work,
)
from pyramid_dbpool.embedded import PrivatePostgres
from pyramid_dbpool.limits import current_deadline
from pyramid_dbpool.outcomes import Outcome
from pyramid_dbpool.retry import may_try_again
from tests.webapp import Row, app, database

PARTS = ("pyramid_retry", "pyramid_tm", "pyramid_dbpool")
NewDatabase = Callable[[str], str]
NewPostgres = Callable[..., PrivatePostgres]

# Inside COMMIT, when the server has it and has not answered: a row -1 ends the session, a row
# -2 loses a race.
TROUBLE_IN_COMMIT = """
CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.id = -1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
    IF NEW.id = -2 THEN RAISE EXCEPTION 'lost the race' USING ERRCODE = '40001'; END IF;
    IF NEW.id = -3 THEN RAISE EXCEPTION 'who knows' USING ERRCODE = '40003'; END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER trouble AFTER INSERT ON rows DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION trouble();
"""
RACE = "DO $$ BEGIN RAISE EXCEPTION 'race' USING ERRCODE = '40001'; END $$"
MARIADB_RACE = "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213"
ENDS_SESSION, LOSES_RACE, UNKNOWN = -1, -2, -3


@pytest.fixture
def count(psycopg_url: str) -> Iterator[Callable[[], int]]:
    """What counts the rows of the database."""
    with database(psycopg_url) as counter:
        engine = create_engine(psycopg_url, poolclass=NullPool)
        with engine.begin() as connection:
            connection.execute(text(TROUBLE_IN_COMMIT))
        yield counter


@pytest.fixture
def settings(psycopg_url: str, count: Callable[[], int]) -> dict[str, Any]:
    """Settings of an app on the database."""
    return settings_for(psycopg_url)


def settings_for(url: str) -> dict[str, Any]:
    return {"sqlalchemy.url": url, "tm.manager_hook": "pyramid_tm.explicit_manager"}


def number(request: Request) -> int:
    """Return the number of the attempt."""
    return int(request.environ["retry.attempt"])


def lose_connection(request: Request) -> None:
    request.db.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))


def at_first(trouble: Callable[[Request], object]) -> Callable[[Request], str]:
    """Make a view that writes a row, and is in trouble at its first attempt."""

    def view(request: Request) -> str:
        request.db.add(Row())
        request.db.flush()
        if number(request) == 0:
            trouble(request)
        return str(number(request))

    return view


def in_commit(row: int) -> Callable[[Request], str]:
    """Make a view whose first attempt meets trouble inside COMMIT."""
    return at_first(lambda request: request.db.add(Row(id=row)))


def answer_500(error: Exception, request: Request) -> Response:
    return Response(text=type(error).__name__, status=500)


def exception_view(config: Configurator) -> None:
    config.add_exception_view(answer_500)


def ours_committed(request: Request) -> None:
    with unit_of_work(request.registry.settings) as session:
        session.execute(text("INSERT INTO rows (id) VALUES (1000)"))


def ours_in_autocommit(request: Request) -> None:
    engine = get_engine(request.registry.settings)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("INSERT INTO rows (id) VALUES (1000)"))


@pytest.mark.parametrize("parts", list(itertools.permutations(PARTS)), ids="-".join)
def test_the_order_of_the_includes_does_not_matter(
    settings: dict[str, Any], count: Callable[[], int], parts: tuple[str, ...]
) -> None:
    """A lost race at COMMIT is tried again although an exception view matches."""
    with app(settings, *parts, exception_view, index=in_commit(LOSES_RACE)) as web:
        assert web.client.post("/").text == "1"
        assert (count(), web.checked_out()) == (1, 0)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("parts", [PARTS, (*PARTS, exception_view)], ids=["plain", "excview"])
def test_a_disconnect_is_tried_again(
    settings: dict[str, Any], count: Callable[[], int], method: str, parts: Any
) -> None:
    """Before COMMIT nothing is stored, whatever the method."""
    with app(settings, *parts, index=at_first(lose_connection)) as web:
        assert web.client.request("/", method=method).text == "1"
        assert (count(), web.checked_out()) == (1, 0)


def test_the_last_attempt_raises(settings: dict[str, Any]) -> None:
    """Attempts are pyramid_retry's; there are no more of them than it says."""
    seen: list[int] = []

    def view(request: Request) -> None:
        seen.append(number(request))
        lose_connection(request)

    with app(settings, *PARTS, index=view) as web:
        with pytest.raises(OperationalError):
            web.get()
        assert (seen, web.checked_out()) == ([0, 1, 2], 0)


def ours_in_lower_case(request: Request) -> None:
    engine = get_engine(request.registry.settings)
    with engine.connect().execution_options(isolation_level="autocommit") as connection:
        connection.execute(text("INSERT INTO rows (id) VALUES (1000)"))


def ours_without_sqlalchemy(request: Request) -> None:
    connection = get_engine(request.registry.settings).raw_connection()
    connection.cursor().execute("INSERT INTO rows (id) VALUES (1000)")
    connection.commit()
    connection.close()


def ours_in_words(request: Request) -> None:
    with get_engine(request.registry.settings).connect() as connection:
        connection.execute(text("INSERT INTO rows (id) VALUES (1000)"))
        connection.execute(text("/* now */ COMMIT"))


def ours_in_a_thread(request: Request) -> None:
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(ours_committed, request))
    thread.start()
    thread.join()


STORES = [
    ours_committed,
    ours_in_autocommit,
    ours_in_lower_case,
    ours_without_sqlalchemy,
    ours_in_words,
    ours_in_a_thread,
]


@pytest.mark.parametrize("stores", STORES)
def test_a_disconnect_after_something_was_stored_is_not_tried_again(
    settings: dict[str, Any], count: Callable[[], int], stores: Callable[[Request], None]
) -> None:
    """Also where it was stored through another session, and for any method."""

    def trouble(request: Request) -> None:
        stores(request)
        lose_connection(request)

    with app(settings, *PARTS, index=at_first(trouble)) as web:
        with pytest.raises(OperationalError):
            web.get()
        assert count() == 1


def test_an_engine_in_autocommit_stores_with_its_first_statement(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """The pool's own setting counts as well."""
    settings["sqlalchemy.isolation_level"] = "AUTOCOMMIT"
    with app(settings, *PARTS, index=at_first(lose_connection)) as web:
        with pytest.raises(OperationalError):
            web.get()
        assert count() == 1


def audit_tween_factory(handler: Callable[[Request], Response], registry: Any) -> Any:
    """Return a tween that commits before anybody else has a say."""

    def tween(request: Request) -> Response:
        ours_committed(request)
        return handler(request)

    return tween


def audit(config: Configurator) -> None:
    config.add_tween(f"{__name__}.audit_tween_factory")


def test_what_a_tween_of_the_app_has_committed_is_stored(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """Ours is over those that are added after it."""
    view = at_first(lose_connection)
    with app(settings, *PARTS, audit, index=view) as web:
        with pytest.raises(OperationalError):
            web.client.post("/")
        assert count() == 1


READS: list[Callable[[Request], bytes]] = [
    lambda request: request.body,
    lambda request: request.body_file.read(),
    lambda request: request.body_file_raw.read(),
    lambda request: request.environ["wsgi.input"].read(),
]


@pytest.mark.parametrize("read", READS, ids=["body", "body_file", "raw", "wsgi"])
def test_each_attempt_reads_the_body_from_its_beginning(
    settings: dict[str, Any], read: Callable[[Request], bytes]
) -> None:
    """However it reads."""

    def view(request: Request) -> str:
        said = read(request).decode()
        if number(request) == 0:
            lose_connection(request)
        return f"{number(request)} {said}"

    with app(settings, *PARTS, index=view) as web:
        assert web.client.post("/", "hello").text == "1 hello"


@pytest.mark.parametrize(
    ("backend", "query", "race"),
    [
        ("postgresql+psycopg", {"autocommit": "true"}, RACE),
        ("mysql+pymysql", {"autocommit": "1"}, MARIADB_RACE),
    ],
)
def test_a_driver_that_commits_by_itself_stores_with_its_first_statement(
    new_database: NewDatabase, backend: str, query: dict[str, str], race: str
) -> None:
    """SQLAlchemy knows nothing of it."""
    url = new_database(backend)
    mine = make_url(url).update_query_dict(query).render_as_string(hide_password=False)
    view = at_first(lambda request: request.db.execute(text(race)))
    with database(url) as count, app(settings_for(mine), *PARTS, index=view) as web:
        with pytest.raises(OperationalError):
            web.client.post("/")
        assert count() == 1


def test_what_mariadb_commits_before_it_changes_a_table_is_stored(
    new_database: NewDatabase,
) -> None:
    """Nobody has said COMMIT."""
    url = new_database("mysql+pymysql")

    def trouble(request: Request) -> None:
        request.db.execute(text("create table another (id int)"))
        request.db.execute(text(MARIADB_RACE))

    with database(url) as count, app(settings_for(url), *PARTS, index=at_first(trouble)) as web:
        with pytest.raises(OperationalError):
            web.client.post("/")
        assert count() == 1


def test_what_a_read_only_unit_commits_is_nothing(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """A COMMIT that cannot have stored anything keeps nobody from another try."""

    def trouble(request: Request) -> None:
        with unit_of_work(request.registry.settings, read_only=True) as session:
            session.scalar(select(1))
        lose_connection(request)

    with app(settings, *PARTS, index=at_first(trouble)) as web:
        assert web.client.post("/").text == "1"
        assert count() == 1


def test_nor_is_that_of_a_read_only_pool(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """Its transactions are read-only, each of them."""
    settings["sqlalchemy.replica.url"] = settings["sqlalchemy.url"]
    settings["dbpool.replica.read_only"] = "true"

    def trouble(request: Request) -> None:
        request.db_replica.scalar(select(1))
        request.db_replica.commit()
        lose_connection(request)

    with app(settings, *PARTS, index=at_first(trouble)) as web:
        assert web.client.post("/").text == "1"
        assert count() == 1


def test_a_lost_race_after_something_was_stored_is_not_tried_again(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """zope.sqlalchemy would; it does not know of the other session."""

    def trouble(request: Request) -> None:
        ours_committed(request)
        request.db.execute(text("DO $$ BEGIN RAISE EXCEPTION '' USING ERRCODE='40001'; END $$"))

    with app(settings, *PARTS, index=at_first(trouble)) as web:
        with pytest.raises(OperationalError):
            web.client.post("/")
        assert count() == 1


def test_a_lost_race_at_the_second_of_two_commits_is_not_tried_again(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """The first has been stored."""

    def trouble(request: Request) -> None:
        request.tm.get().addBeforeCommitHook(ours_committed, (request,))
        request.db.add(Row(id=LOSES_RACE))

    with app(settings, *PARTS, exception_view, index=at_first(trouble)) as web:
        web.client.put("/", status=500)
        assert count() == 1


def test_an_app_may_say_by_itself_that_a_request_is_to_be_tried_again(
    settings: dict[str, Any],
) -> None:
    """Only errors of the database are judged here."""

    def trouble(request: Request) -> None:
        with unit_of_work(request.registry.settings) as session:
            session.execute(select(1))
        error = ValueError("again, please")
        mark_error_retryable(error)
        raise error

    with app(settings, *PARTS, index=at_first(trouble)) as web:
        assert web.client.post("/").text == "1"


def test_a_subrequest_is_a_part_of_its_request(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """What it has committed is stored, so the request is not tried again."""

    def trouble(request: Request) -> None:
        request.invoke_subrequest(Request.blank("/inner"), use_tweens=True)
        lose_connection(request)

    def inner(request: Request) -> None:
        request.db.add(Row(id=5))

    with app(settings, *PARTS, index=at_first(trouble), inner=inner) as web:
        with pytest.raises(OperationalError):
            web.get()
        assert count() == 1


@pytest.mark.parametrize("row", [ENDS_SESSION, UNKNOWN])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
def test_an_unknown_commit_of_an_idempotent_method_is_tried_again(
    settings: dict[str, Any], count: Callable[[], int], method: str, row: int
) -> None:
    """Whether it is stored or not, a second time does no harm."""
    attempts: list[int] = []

    def view(request: Request) -> str:
        attempts.append(number(request))
        return in_commit(row)(request)

    with app(settings, *PARTS, exception_view, index=view) as web:
        web.client.request("/", method=method, status=200)
        assert (attempts, count(), web.checked_out()) == ([0, 1], 1, 0)


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_an_unknown_commit_of_another_method_says_so(
    settings: dict[str, Any], count: Callable[[], int], method: str
) -> None:
    """The error names what nobody knows; an exception view gets it too."""
    with app(settings, *PARTS, index=in_commit(ENDS_SESSION)) as web:
        with pytest.raises(CommitUnknown, match="may or may not be stored"):
            web.client.request("/", method=method)
        assert (count(), web.checked_out()) == (0, 0)
    with app(settings, *PARTS, exception_view, index=in_commit(ENDS_SESSION)) as web:
        answer = web.client.request("/", method=method, status=500)
        assert answer.text == "CommitUnknown"


def test_a_commit_by_hand_is_one_too(settings: dict[str, Any]) -> None:
    """Without pyramid_tm the view commits."""

    def view(request: Request) -> str:
        answer = in_commit(ENDS_SESSION)(request)
        request.db.commit()
        return answer

    with app(settings, "pyramid_retry", "pyramid_dbpool", index=view) as web:
        with pytest.raises(CommitUnknown):
            web.client.post("/")
        assert web.client.put("/").text == "1"


@pytest.mark.parametrize("backend", ["postgresql+psycopg", "postgresql+psycopg2", "mysql+pymysql"])
def test_a_session_that_ends_just_before_commit_stores_nothing(
    new_database: NewDatabase, backend: str
) -> None:
    """A look at the socket finds it, and COMMIT is not sent: any method is tried again."""
    url = new_database(backend)
    outside = create_engine(url, poolclass=NullPool)

    def trouble(request: Request) -> None:
        hook = request.tm.get().addBeforeCommitHook
        hook(backend_ended, (request.db.connection(), outside))

    with database(url) as count, app(settings_for(url), *PARTS, index=at_first(trouble)) as web:
        assert web.client.post("/").text == "1"
        assert (count(), web.checked_out()) == (1, 0)


def test_exception_views_are_chosen_by_what_will_happen(settings: dict[str, Any]) -> None:
    """pyramid_retry's predicate knows already what is tried again, at COMMIT and before."""
    seen: list[bool] = []

    def include(config: Configurator) -> None:
        for retryable in (True, False):
            config.add_exception_view(
                lambda error, request, it=retryable: seen.append(it) or answer_500(error, request),
                retryable_error=retryable,
            )

    views = {"lost": at_first(lose_connection), "unknown": in_commit(ENDS_SESSION)}
    with app(settings, *PARTS, include, **views) as web:
        web.client.get("/lost", status=200)
        web.client.get("/unknown", status=200)
        assert seen == [True, True]
        web.client.post("/unknown", status=500)
        assert seen == [True, True, False]


def test_a_row_that_another_transaction_changed_is_tried_again_at_commit(
    settings: dict[str, Any],
) -> None:
    """The ORM's own lost race, which zope.sqlalchemy forgets if an exception view matches."""

    def trouble(request: Request) -> None:
        def change() -> None:
            raise StaleDataError("changed by another transaction")

        request.tm.get().addBeforeCommitHook(change)

    with app(settings, *PARTS, exception_view, index=at_first(trouble)) as web:
        assert web.client.post("/").text == "1"


def backend_ended(connection: Connection, outside: Engine) -> None:
    """End a connection's session on the server, and wait until it is over."""
    dbapi: Any = connection.connection.dbapi_connection
    with outside.connect() as other:
        if connection.dialect.name == "postgresql":
            pid = dbapi.info.backend_pid
            other.execute(text(f"SELECT pg_terminate_backend({pid}, 5000)"))
        else:
            kill_in_mariadb(other, dbapi.thread_id())


def kill_in_mariadb(other: Connection, number: int) -> None:
    other.execute(text(f"KILL {number}"))
    gone = text(f"SELECT count(*) FROM information_schema.processlist WHERE id = {number}")
    while other.scalar(gone):
        pass


@pytest.mark.parametrize("backend", ["postgresql", "mysql"])
def test_nothing_is_tried_again_after_a_two_phase_prepare(
    backend: str, request: pytest.FixtureRequest
) -> None:
    """What is prepared stays with the server until somebody commits it or rolls it back."""
    if backend == "mysql":
        url = request.getfixturevalue("new_database")("mysql+pymysql")
    else:
        start = request.getfixturevalue("new_postgres")
        url = start({"max_prepared_transactions": 5}).url("psycopg")
    outside = create_engine(url, poolclass=NullPool)
    settings = settings_for(url) | {"dbpool.session_class": TwoPhaseSession}
    attempts: list[int] = []

    def view(request: Request) -> None:
        attempts.append(number(request))
        request.db.add(Row())

    with database(url), app(settings, *PARTS, index=view) as web:
        event.listen(web.engine, "commit_twophase", lambda c, *_: backend_ended(c, outside))
        with pytest.raises(CommitUnknown):
            web.client.put("/")
        assert attempts == [0]
        # Else it would keep its locks for ever.
        with outside.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
            for xid in outside.dialect.do_recover_twophase(other):
                outside.dialect.do_rollback_twophase(other, xid, recover=True)


class TwoPhaseSession(Session):
    """A session that prepares before it commits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "twophase": True})


@pytest.mark.parametrize("code", [1205, 1213])
def test_mariadbs_lost_races_are_tried_again(mariadb_url: str, code: int) -> None:
    """zope.sqlalchemy knows 1213 from PyMySQL, and nothing else."""

    def trouble(request: Request) -> None:
        request.db.execute(text(f"SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = {code}"))

    settings = settings_for(mariadb_url)
    with database(mariadb_url) as count, app(settings, *PARTS, index=at_first(trouble)) as web:
        assert web.client.post("/").text == "1"
        assert (count(), web.checked_out()) == (1, 0)


@pytest.mark.parametrize("where", ["before", "at"])
def test_a_session_that_mariadb_kills(mariadb_url: str, where: str) -> None:
    """Before COMMIT everything is tried again, at COMMIT what is idempotent."""
    outside = create_engine(mariadb_url, poolclass=NullPool)

    def kill(connection: Any) -> None:
        with outside.connect() as other:
            kill_in_mariadb(other, connection.info["number"])

    def trouble(request: Request) -> None:
        connection = request.db.connection()
        connection.info["number"] = connection.scalar(text("SELECT CONNECTION_ID()"))
        if where == "before":
            kill(connection)
            request.db.execute(select(1))
        else:
            event.listen(web.engine, "commit", partial(kill), once=True)

    settings = settings_for(mariadb_url)
    with database(mariadb_url) as count, app(settings, *PARTS, index=at_first(trouble)) as web:
        assert web.client.put("/").text == "1"
        assert count() == 1
        if where == "at":
            with pytest.raises(CommitUnknown):
                web.client.post("/")
        else:
            assert web.client.post("/").text == "1"


def test_a_locked_sqlite_file_is_tried_again(sqlite_url: str) -> None:
    """Somebody else is writing; at the second attempt it has finished."""
    settings = settings_for(sqlite_url) | {"sqlalchemy.connect_args": '{"timeout": 0}'}
    with database(sqlite_url) as count:
        other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")

        def view(request: Request) -> str:
            if number(request) == 1:
                other.rollback()
            request.db.add(Row())
            request.db.flush()
            return str(number(request))

        with app(settings, *PARTS, exception_view, index=view) as web:
            assert web.client.post("/").text == "1"
            assert count() == 1
        other.close()


@pytest.mark.slow
def test_an_attempt_is_not_burnt_while_the_database_is_away(new_postgres: NewPostgres) -> None:
    """The second of two attempts waits for the server, which is gone for a second."""
    server = new_postgres()
    settings = settings_for(server.url("psycopg")) | {"retry.attempts": "2"}

    stopped = threading.Event()

    def trouble(request: Request) -> None:
        server.stop("fast")
        stopped.set()
        request.db.execute(select(1))

    url = server.url("psycopg")
    with database(url) as count, app(settings, *PARTS, index=at_first(trouble)) as web:
        answers: list[str] = []
        request = threading.Thread(target=lambda: answers.append(web.client.post("/").text))
        request.start()
        assert stopped.wait(30)
        time.sleep(1.0)
        # Here, because the server ends with the thread that started it.
        server.start()
        request.join(30)
        assert (answers, count()) == (["1"], 1)


@pytest.mark.parametrize(
    "refused",
    [PoolTimeout(""), DatabaseUnavailable(None, None, OSError()), sa_exc.TimeoutError("")],
)
def test_saturation_and_outages_are_never_tried_again(refused: Exception) -> None:
    """Also where the error beneath would be one that passes."""
    busy = sqlite3.OperationalError("database is locked")
    busy.sqlite_errorcode = sqlite3.SQLITE_BUSY
    for error in (refused, DatabaseUnavailable(None, None, busy)):
        assert may_try_again("GET", Outcome(), error) is False
    assert may_try_again("GET", Outcome(), OperationalError(None, None, busy)) is True


def test_all_attempts_share_one_deadline(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`request_timeout` counts from the beginning of the request."""
    settings["dbpool.request_timeout"] = "30m"
    began = time.monotonic()
    left: list[float] = []

    def view(request: Request) -> None:
        left.append((current_deadline() or 0.0) - began)
        # Ten minutes go by.
        monkeypatch.setattr(retry, "time", SimpleNamespace(monotonic=lambda: began + 600))
        if len(left) < 2:
            raise RetryableException

    with app(settings, *PARTS, index=view) as web:
        web.get()
        assert left == [pytest.approx(1800, abs=60), pytest.approx(1200, abs=60)]
        assert current_deadline() is None


def test_a_request_whose_time_is_over_waits_for_nothing(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again all the same: there may be a connection that it need not wait for."""
    settings["dbpool.request_timeout"] = "30m"
    began = time.monotonic()
    left: list[float] = []

    def view(request: Request) -> None:
        left.append((current_deadline() or 0.0) - time.monotonic())
        # An hour goes by.
        monkeypatch.setattr(retry, "time", SimpleNamespace(monotonic=lambda: began + 3600))
        if len(left) < 2:
            raise RetryableException

    with app(settings, *PARTS, index=view) as web:
        web.get()
    assert len(left) == 2 and left[1] <= 0
