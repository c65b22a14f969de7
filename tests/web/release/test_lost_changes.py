"""`request.release_db()` is refused where it would lose something."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
from pyramid.request import Request
from sqlalchemy import Connection, create_engine, event, func, insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, PendingRollbackError
from sqlalchemy.pool import NullPool
from webtest import AppError

from pyramid_dbpool import SessionInUse, TransactionFailed, get_engine
from tests.support.webapp import TM, Row, app, database


def refused(
    settings: dict[str, Any],
    view: Callable[[Request], Any],
    error: type,
    end: AbstractContextManager[object] | None = None,
) -> None:
    """Check that a view is refused to release what it has done.

    :param end: how the request ends, if not well.
    """
    told: list[str] = []

    def index(request: Request) -> None:
        view(request)
        with pytest.raises(error, match="GET route 'index' cannot give its connection back") as e:
            request.release_db()
        told.append(str(e.value))

    with app(settings, *TM, index=index) as web, end or nullcontext():
        web.get()
    assert told


def insert_text(request: Request) -> str:
    """Write an INSERT by hand; the table's name has to be quoted in MariaDB."""
    dialect = request.db.get_bind().dialect
    return str(
        insert(Row).values(id=1).compile(dialect=dialect, compile_kwargs={"literal_binds": True})
    )


@pytest.mark.parametrize(
    "write",
    [
        lambda request: request.db.add(Row(id=1)),
        lambda request: (request.db.add(Row(id=1)), request.db.flush()),
        lambda request: request.db.execute(insert(Row).values(id=1)),
        lambda request: request.db.execute(text(insert_text(request))),
    ],
    ids=["pending", "flushed", "orm", "text"],
)
def test_uncommitted_changes_are_not_lost(
    settings: dict[str, Any], count: Callable[[], int], write: Callable[[Request], Any]
) -> None:
    """The view is refused, and its work is committed as if it had not asked."""
    refused(settings, write, SessionInUse)
    assert count() == 1


@pytest.mark.parametrize(
    "write",
    [
        lambda request: request.db.connection().execute(insert(Row).values(id=1)),
        lambda request: request.db.bulk_insert_mappings(Row, [{"id": 1}]),
        lambda request: request.db.execute(
            text(insert_text(request).replace("INSERT ", "/* x */ INSERT\n"))
        ),
        lambda request: request.db.connection().exec_driver_sql(insert_text(request)),
    ],
    ids=["core", "bulk", "comment", "driver"],
)
def test_changes_that_the_session_has_not_seen_are_not_lost(
    settings: dict[str, Any], count: Callable[[], int], write: Callable[[Request], Any]
) -> None:
    """The engine has sent them."""
    refused(
        settings, lambda request: (request.db.execute(select(1)), write(request)), SessionInUse
    )
    assert count() == 1


@pytest.mark.parametrize(
    "write",
    [
        lambda request: request.db.connection().execute(insert(Row).values(id=1)),
        lambda request: request.db.execute(
            text("WITH new AS (INSERT INTO rows VALUES (1) RETURNING id) SELECT * FROM new")
        ),
    ],
    ids=["core", "hidden"],
)
def test_postgresql_tells_of_changes_that_nobody_saw(
    postgres_url: str, write: Callable[[Request], Any]
) -> None:
    """It numbers a transaction when that writes."""
    settings = {"sqlalchemy.url": postgres_url, "tm.manager_hook": "pyramid_tm.explicit_manager"}
    with database(postgres_url) as count:
        refused(settings, write, SessionInUse)
        assert count() == 1


def test_a_failed_statement_is_not_forgotten(psycopg_url: str) -> None:
    """What came before it would be rolled back without a word."""
    settings = {"sqlalchemy.url": psycopg_url}

    def swallow(request: Request) -> None:
        with pytest.raises(DBAPIError):
            request.db.execute(text("SELECT no_such_column"))

    end = pytest.raises(TransactionFailed, match="Nothing was committed")
    refused(settings, swallow, TransactionFailed, end)


def test_a_transaction_that_mariadb_has_rolled_back_is_told_as_failed(mariadb_url: str) -> None:
    """After a deadlock there is nothing left to lose, and nothing will be committed."""

    def swallow(request: Request) -> None:
        with pytest.raises(DBAPIError):
            request.db.execute(text("SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213"))

    end = pytest.raises(TransactionFailed, match="Nothing was committed")
    refused({"sqlalchemy.url": mariadb_url}, swallow, TransactionFailed, end)


def test_a_failed_flush_is_not_forgotten(sqlite_url: str) -> None:
    """The session itself has given its transaction up."""

    def swallow(request: Request) -> None:
        request.db.add_all([Row(id=1), Row(id=1)])
        with pytest.raises(IntegrityError):
            request.db.flush()

    settings = {"sqlalchemy.url": sqlite_url}
    with database(sqlite_url):
        refused(settings, swallow, TransactionFailed, pytest.raises(PendingRollbackError))


def test_a_lost_connection_is_not_forgotten(psycopg_url: str) -> None:
    """What was done on it is gone, and the answer says so though the view swallowed the error."""
    settings = {"sqlalchemy.url": psycopg_url}

    def lose(request: Request) -> None:
        with pytest.raises(DBAPIError):
            request.db.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    refused(settings, lose, TransactionFailed, pytest.raises(AppError, match="503 Service"))


def released(settings: dict[str, Any], *views: Callable[[Request], Any]) -> None:
    """Check that each of some views in turn may release what it has done."""

    def index(request: Request) -> None:
        views[int(request.params["view"])](request)
        request.release_db()
        assert web.checked_out() == 0

    with app(settings, *TM, index=index) as web:
        for number in range(len(views)):
            web.get(f"/?view={number}")


@contextmanager
def outside(url: str) -> Iterator[Connection]:
    """Connect outside of any pool."""
    with create_engine(url, poolclass=NullPool).connect() as connection:
        yield connection


def says(statement: str) -> Callable[[Request], Any]:
    """Return a view that sends a statement."""
    return lambda request: request.db.execute(text(statement))


@pytest.mark.parametrize(
    "take",
    [
        says("SELECT pg_advisory_xact_lock(1)"),
        says("SELECT pg_try_advisory_xact_lock_shared(1)"),
        says("SELECT pg_advisory_lock(1)"),
        says("LOCK TABLE rows"),
        says("LOCK TABLE rows IN SHARE MODE"),
        lambda request: request.db.execute(select(func.pg_advisory_xact_lock(1))),
        lambda request: request.db.connection().execute(select(func.pg_advisory_xact_lock(1))),
        lambda request: request.db.connection().exec_driver_sql("LOCK TABLE rows"),
        lambda request: request.db.scalars(select(Row).with_for_update()).one(),
    ],
    ids=["advisory", "shared", "session", "table", "share", "select", "core", "driver", "rows"],
)
def test_a_lock_of_postgresql_is_not_given_up(
    postgres_url: str, take: Callable[[Request], Any]
) -> None:
    """PostgreSQL is asked for it."""
    settings = {"sqlalchemy.url": postgres_url}
    with database(postgres_url):
        with get_engine(settings).begin() as connection:
            connection.execute(insert(Row).values(id=1))
        refused(settings, take, SessionInUse)


def test_postgresql_is_asked_once(psycopg_url: str) -> None:
    """However many savepoints there were."""
    asked: list[str] = []

    def look(request: Request) -> None:
        for _ in range(3):
            with request.db.begin_nested():
                request.db.execute(select(1))
        engine = request.db.get_bind()
        event.listen(engine, "before_cursor_execute", lambda *args: asked.append(args[2]))

    released({"sqlalchemy.url": psycopg_url}, look)
    assert len([each for each in asked if "pg_locks" in each]) == 1


def test_a_role_without_privileges_may_ask_for_its_locks(postgres_url: str) -> None:
    """The question reads what everybody may read."""

    def index(request: Request) -> None:
        request.db.execute(text("SET LOCAL ROLE pg_signal_backend"))
        request.db.execute(text("SELECT pg_advisory_xact_lock(1)"))

    refused({"sqlalchemy.url": postgres_url}, index, SessionInUse)


def test_a_lock_is_not_given_up_behind_pgbouncer(bouncer_settings: dict[str, Any]) -> None:
    """The question goes to the server that the transaction is on."""
    released(bouncer_settings, says("SELECT 1"))
    refused(bouncer_settings, says("SELECT pg_advisory_xact_lock(1)"), SessionInUse)


@pytest.mark.parametrize(
    "notify",
    [
        says("NOTIFY jobs"),
        lambda request: request.db.execute(select(func.pg_notify("jobs", "1"))),
        lambda request: request.db.connection().exec_driver_sql("/* x */ notify jobs"),
    ],
    ids=["text", "select", "driver"],
)
def test_a_notification_is_not_lost(postgres_url: str, notify: Callable[[Request], Any]) -> None:
    """PostgreSQL sends it at COMMIT, and tells nobody of it before."""
    refused({"sqlalchemy.url": postgres_url}, notify, SessionInUse)


@pytest.mark.parametrize(
    "take",
    [
        says("SELECT GET_LOCK('a', 0)"),
        says("DO GET_LOCK('a', 0)"),
        says("LOCK TABLES `rows` READ"),
        lambda request: [
            request.db.execute(text(each))
            for each in ("LOCK TABLES `rows` READ", "DO GET_LOCK('a', 0)", "UNLOCK TABLES")
        ],
        lambda request: request.db.execute(select(func.get_lock("a", 0))),
        lambda request: request.db.connection().execute(select(func.get_lock("a", 0))),
        lambda request: request.db.scalars(select(Row).with_for_update()).all(),
        lambda request: request.db.scalars(select(Row).with_for_update(read=True)).all(),
    ],
    ids=["named", "do", "table", "unlocked", "select", "core", "update", "share"],
)
def test_a_lock_of_mariadb_is_not_given_up(
    mariadb_url: str, take: Callable[[Request], Any]
) -> None:
    """A named one stays with the connection, and is nobody's then."""
    with database(mariadb_url):
        refused({"sqlalchemy.url": mariadb_url}, take, SessionInUse)


def test_a_savepoint_does_not_make_a_lock_forgotten(mariadb_url: str) -> None:
    """It is a part of the transaction that the view is in."""

    def index(request: Request) -> None:
        request.db.execute(select(func.get_lock("a", 0)))
        with request.db.begin_nested():
            request.db.execute(select(1))

    refused({"sqlalchemy.url": mariadb_url}, index, SessionInUse)


@pytest.mark.parametrize("word", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_lock_of_sqlite_is_not_given_up(sqlite_url: str, word: str) -> None:
    """Nobody else can write while it is held."""
    refused({"sqlalchemy.url": sqlite_url}, says(f"BEGIN {word}"), SessionInUse)


@pytest.mark.parametrize("key", ["dbpool.read_only", "sqlalchemy.isolation_level"])
def test_locks_that_need_no_transaction_are_not_given_up(
    postgres_url: str, mariadb_url: str, key: str
) -> None:
    """A read-only session takes them too, and one that stores each statement at once."""
    option = {key: "AUTOCOMMIT" if "level" in key else "true"}
    refused(
        {"sqlalchemy.url": postgres_url, **option},
        says("SELECT pg_advisory_lock(1)"),
        SessionInUse,
    )
    for statement in ("SELECT GET_LOCK('a', 0)", "LOCK TABLES `rows` READ"):
        with database(mariadb_url) if "LOCK T" in statement else nullcontext():
            refused({"sqlalchemy.url": mariadb_url, **option}, says(statement), SessionInUse)


@pytest.mark.parametrize(
    "look",
    [
        says("SELECT count(*) FROM rows"),
        says("SELECT nextval('numbers')"),
        says("SELECT notify_by FROM (SELECT 1 AS notify_by) AS s"),
        says("SELECT pg_advisory_lock(1), pg_advisory_unlock(1)"),
        lambda request: request.db.scalars(select(Row).with_for_update()).all(),
        says("DECLARE c CURSOR WITH HOLD FOR SELECT 1"),
    ],
    ids=["read", "number", "name", "unlocked", "nothing", "cursor"],
)
def test_a_view_that_holds_nothing_on_postgresql_goes_on(
    postgres_url: str, look: Callable[[Request], Any]
) -> None:
    """Nobody counts on what these leave; also in SERIALIZABLE, which notes what was read."""
    settings = {"sqlalchemy.url": postgres_url, "sqlalchemy.isolation_level": "SERIALIZABLE"}
    with database(postgres_url):
        with get_engine(settings).begin() as connection:
            connection.execute(text("CREATE SEQUENCE numbers"))
            # The first one writes for the next 32.
            connection.execute(text("SELECT nextval('numbers')"))
        with outside(postgres_url) as other:
            other.execute(text("SELECT pg_advisory_lock(2)"))
            released(settings, look)


def test_a_notification_that_is_sent_at_once_is_not_lost(postgres_url: str) -> None:
    """In AUTOCOMMIT no COMMIT comes after it."""
    settings = {"sqlalchemy.url": postgres_url, "sqlalchemy.isolation_level": "AUTOCOMMIT"}
    released(settings, says("NOTIFY jobs"))


def test_a_view_that_has_released_its_locks_goes_on_on_mariadb(mariadb_url: str) -> None:
    """And one that has got the connection of somebody who has not."""
    with database(mariadb_url):
        released(
            {"sqlalchemy.url": mariadb_url},
            says(
                "SELECT GET_LOCK('a', 0), GET_LOCK('b', 0), RELEASE_LOCK('a'), RELEASE_LOCK('b')"
            ),
            says("SELECT GET_LOCK('a', 0), GET_LOCK('b', 0), RELEASE_ALL_LOCKS()"),
            says("SELECT 1 AS `lock`"),
        )

    def leave(request: Request) -> None:
        request.db.execute(select(func.get_lock("a", 0)))

    def index(request: Request) -> None:
        request.db.execute(select(1))
        request.release_db()

    with app({"sqlalchemy.url": mariadb_url}, *TM, leave=leave, index=index) as web:
        web.get("/leave")
        web.get()


def test_an_app_whose_transactions_all_begin_immediate_goes_on(sqlite_url: str) -> None:
    """As SQLAlchemy's page on SQLite has it: there it is no lock that the view has asked for."""

    def index(request: Request) -> None:
        request.db.execute(select(1))
        request.release_db()

    with app({"sqlalchemy.url": sqlite_url}, *TM, index=index) as web:
        event.listen(
            web.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE")
        )
        web.get()
