"""What a view has written and then thrown away by itself."""

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import mysql.connector
import pytest
from pyramid.request import Request
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from pyramid_dbpool import ChangesDiscarded
from tests.support.servers.fixtures import NewDatabase
from tests.support.webapp import TM, Row, TwoPhaseSession, app, database
from tests.web.request.views import Broken, add, flushes, rows

# Its execute() takes no CALL of a procedure that returns rows.
OLD_CONNECTOR = mysql.connector.__version_info__ < (9, 2)


def core(request: Request) -> None:
    request.db.connection().execute(insert(Row).values(id=7))


def sent_text(request: Request) -> None:
    request.db.execute(text("/* x */ insert into rows values (7)"))


def with_query(request: Request) -> None:
    request.db.execute(
        text("WITH a AS (INSERT INTO rows VALUES (7) RETURNING id) SELECT * FROM a")
    )


def in_savepoint(request: Request) -> None:
    with request.db.begin_nested():
        add(request)


WRITES = pytest.mark.parametrize(
    "write", [add, flushes, core, sent_text, with_query, in_savepoint]
)
CLOSES = {
    "close": lambda request: request.db.close(),
    "reset": lambda request: request.db.reset(),
    "invalidate": lambda request: request.db.invalidate(),
    "with": lambda request: request.db.__exit__(None, None, None),
    "transaction": lambda request: (request.db.flush(), request.db.get_transaction().close()),
}


@WRITES
@pytest.mark.parametrize("close", CLOSES.values(), ids=list(CLOSES))
def test_what_is_closed_unsaved_is_an_error(
    settings: dict[str, Any],
    count: Callable[[], int],
    write: Callable[[Request], None],
    close: Callable[[Request], Any],
) -> None:
    """It names the route and the cause; nothing of the request is stored."""

    def view(request: Request) -> None:
        write(request)
        close(request)
        request.db.add(Row(id=8))

    with app(settings, *TM, index=view) as web:
        with pytest.raises(ChangesDiscarded, match=r"GET route 'index'.*close\(\)"):
            web.get()
        assert (count(), web.checked_out()) == (0, 0)


@WRITES
def test_what_is_rolled_back_is_warned_of_once(
    settings: dict[str, Any],
    count: Callable[[], int],
    caplog: pytest.LogCaptureFixture,
    write: Callable[[Request], None],
) -> None:
    """A rollback is the view's right; the rest is committed, and the warning names the route."""

    def view(request: Request) -> None:
        for _ in range(2):
            write(request)
            request.db.rollback()
        request.db.add(Row(id=8))

    with app(settings, *TM, index=view) as web:
        caplog.clear()
        web.get()
        assert (count(), web.checked_out()) == (1, 0)
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert "GET route 'index'" in record.getMessage()
        assert "rollback()" in record.getMessage()


@pytest.mark.parametrize("end", ["ROLLBACK", "abort", "/* x */ rollback and chain"])
def test_a_rollback_as_text_is_warned_of(
    settings: dict[str, Any], count: Callable[[], int], caplog: pytest.LogCaptureFixture, end: str
) -> None:
    """SQLAlchemy does not know of it, and commits what came after."""

    def view(request: Request) -> None:
        flushes(request)
        request.db.execute(text(end))

    with app(settings, *TM, index=view) as web:
        caplog.clear()
        web.get()
        assert count() == 0
        (record,) = caplog.records
        assert "GET route 'index'" in record.getMessage()


def lock(request: Request) -> None:
    request.db.execute(select(Row).with_for_update())


def undo_savepoint(request: Request) -> None:
    with pytest.raises(Broken), request.db.begin_nested():
        flushes(request)
        raise Broken


def commit_on_the_driver(request: Request) -> None:
    core(request)
    request.db.connection().connection.commit()


def commit_as_text(request: Request) -> None:
    core(request)
    request.db.execute(text("COMMIT"))


@pytest.mark.parametrize("end", ["close", "reset", "rollback"])
@pytest.mark.parametrize(
    "harmless", [rows, lock, undo_savepoint, commit_on_the_driver, commit_as_text]
)
def test_nothing_is_said_where_nothing_is_lost(
    settings: dict[str, Any],
    count: Callable[[], int],
    caplog: pytest.LogCaptureFixture,
    harmless: Callable[[Request], Any],
    end: str,
) -> None:
    """A view may give its connection back after it has read, or has stored its work itself."""

    def view(request: Request) -> None:
        harmless(request)
        getattr(request.db, end)()
        request.db.add(Row(id=8))

    with app(settings, *TM, index=view) as web:
        caplog.clear()
        web.get()
        assert count() == 1 + (harmless in (commit_on_the_driver, commit_as_text))
        if not (end == "rollback" and harmless is commit_on_the_driver):
            assert not caplog.records


PUT = "INSERT INTO `rows` VALUES (7)"


@pytest.mark.parametrize("end", ["close", "rollback"])
@pytest.mark.parametrize(
    "sent",
    [
        ["CALL put()"],
        [f"EXECUTE IMMEDIATE '{PUT}'"],
        [f"BEGIN NOT ATOMIC {PUT}; END"],
        [PUT, "CREATE TEMPORARY TABLE of_mine (a int)", "DROP TEMPORARY TABLE of_mine"],
        [PUT, "ANALYZE SELECT 1"],
        [PUT, "SELECT 1 FROM `rows` WHERE 'a;commit' = ''"],
        [PUT, "INSERT INTO `rows` SELECT 8 FROM dual WHERE 'a;commit' = ''"],
    ],
)
def test_what_mariadb_may_have_committed_is_looked_for(
    pymysql_url: str, caplog: pytest.LogCaptureFixture, sent: list[str], end: str
) -> None:
    """A procedure may commit, and mostly does not."""

    def made(request: Request) -> None:
        request.db.execute(text(f"CREATE PROCEDURE put() {PUT}"))

    def view(request: Request) -> None:
        for each in sent:
            request.db.execute(text(each))
        getattr(request.db, end)()

    with (
        database(pymysql_url) as count,
        app({"sqlalchemy.url": pymysql_url}, *TM, made=made, index=view) as web,
    ):
        web.get("/made")
        caplog.clear()
        with contextlib.nullcontext() if end == "rollback" else pytest.raises(ChangesDiscarded):
            web.get()
        assert (count(), len(caplog.records)) == (0, end == "rollback")


@pytest.mark.parametrize("backend", ["mysql+pymysql", "mysql+mysqlconnector"])
@pytest.mark.parametrize("does", ["DO 1", "SELECT 1", f"BEGIN {PUT}; COMMIT; END"])
def test_a_procedure_that_leaves_nothing_open_is_no_loss(
    new_database: NewDatabase, caplog: pytest.LogCaptureFixture, backend: str, does: str
) -> None:
    """The driver shows whether there is a transaction."""
    if does == "SELECT 1" and backend.endswith("connector") and OLD_CONNECTOR:
        pytest.skip(f"mysql-connector {mysql.connector.__version__}")
    url = new_database(backend)

    def made(request: Request) -> None:
        request.db.execute(text(f"CREATE PROCEDURE done() {does}"))

    def view(request: Request) -> None:
        request.db.execute(text("CALL done()"))
        request.db.close()

    with (
        database(url) as count,
        app({"sqlalchemy.url": url}, *TM, made=made, index=view) as web,
    ):
        web.get("/made")
        caplog.clear()
        web.get()
        assert (count(), caplog.records) == (int("COMMIT" in does), [])


def test_what_a_procedure_wrote_before_it_failed_is_warned_of(
    pymysql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """MariaDB undoes the one statement of it that failed."""

    def made(request: Request) -> None:
        request.db.execute(text(f"CREATE PROCEDURE put_twice() BEGIN {PUT}; {PUT}; END"))

    def view(request: Request) -> None:
        with pytest.raises(IntegrityError):
            request.db.execute(text("CALL put_twice()"))
        assert rows(request) == 1
        request.db.rollback()

    with (
        database(pymysql_url) as count,
        app({"sqlalchemy.url": pymysql_url}, *TM, made=made, index=view) as web,
    ):
        web.get("/made")
        caplog.clear()
        web.get()
        assert (count(), len(caplog.records)) == (0, 1)


DATABASES = pytest.mark.parametrize("backend", ["postgresql+psycopg", "sqlite", "mysql+pymysql"])


def get_or_create(request: Request) -> None:
    request.db.add(Row(id=1))
    with pytest.raises(IntegrityError):
        request.db.flush()
    request.db.rollback()


def several_or_none(request: Request) -> None:
    with pytest.raises(IntegrityError):
        request.db.execute(insert(Row).values([{"id": 2}, {"id": 1}]))
    request.db.rollback()


def is_kept_in_a_savepoint(request: Request) -> None:
    with pytest.raises(IntegrityError), request.db.begin_nested():
        request.db.execute(insert(Row).values(id=1))


def updates_none(request: Request) -> None:
    request.db.execute(update(Row).where(Row.id == 99).values(id=100))


def deletes_none(request: Request) -> None:
    request.db.execute(delete(Row).where(Row.id == 99))


def temporary(request: Request) -> None:
    request.db.execute(text("CREATE TEMPORARY TABLE of_mine (a int)"))


def other_words(request: Request) -> None:
    request.db.execute(text("/* update? */ WITH a AS (SELECT 'delete' AS x) SELECT * FROM a"))


def explains(request: Request) -> None:
    how = "QUERY PLAN " if request.db.get_bind().dialect.name == "sqlite" else ""
    said = delete(Row).compile(request.db.get_bind())
    request.db.execute(text(f"EXPLAIN {how}{said}"))


def goes_back(request: Request) -> None:
    for set_, back in (("SAVEPOINT a;", "ROLLBACK TO A"), ("savepoint b", "rollback to b;")):
        request.db.execute(text(set_))
        request.db.execute(insert(Row).values(id=50))
        request.db.execute(text(back))


@DATABASES
@pytest.mark.parametrize("end", ["close", "rollback"])
@pytest.mark.parametrize(
    "harmless",
    [
        *(get_or_create, several_or_none, is_kept_in_a_savepoint, updates_none, deletes_none),
        *(temporary, other_words, explains, goes_back),
    ],
)
def test_nothing_is_said_of_what_changes_nothing(
    new_database: NewDatabase,
    caplog: pytest.LogCaptureFixture,
    backend: str,
    harmless: Callable[[Request], None],
    end: str,
) -> None:
    """An error at each such request would be worse than none."""
    url = new_database(backend)

    def view(request: Request) -> None:
        harmless(request)
        getattr(request.db, end)()
        request.db.add(Row(id=8))

    def stored(request: Request) -> None:
        request.db.add(Row(id=1))

    with (
        database(url) as count,
        app({"sqlalchemy.url": url}, *TM, index=view, stored=stored) as web,
    ):
        web.get("/stored")
        caplog.clear()
        web.get()
        assert (count(), caplog.records) == (2, [])


def writes_before(request: Request) -> None:
    request.db.execute(insert(Row).values(id=7))


def fails_later(request: Request) -> None:
    writes_before(request)
    with pytest.raises(DBAPIError):
        request.db.execute(text("SELECT no_such_column FROM nothing"))


def fails_again(request: Request) -> None:
    writes_before(request)
    with pytest.raises(IntegrityError):
        request.db.execute(insert(Row).values(id=1))


def misses_later(request: Request) -> None:
    writes_before(request)
    updates_none(request)


def goes_back_to_later(request: Request) -> None:
    request.db.execute(text("SAVEPOINT a"))
    writes_before(request)
    request.db.execute(text("SAVEPOINT b"))
    request.db.execute(text("RELEASE SAVEPOINT b"))
    request.db.execute(text("SAVEPOINT B"))
    request.db.execute(text("ROLLBACK TO SAVEPOINT b"))


def fails_at_the_second_row(request: Request) -> None:
    rows = [{"old": 1, "new": 7}, {"old": 7, "new": None}]
    with pytest.raises(IntegrityError):
        request.db.execute(text(f"UPDATE {quoted(request)} SET id = :new WHERE id = :old"), rows)


def quoted(request: Request) -> str:
    return str(request.db.get_bind().dialect.identifier_preparer.quote(Row.__tablename__))


@DATABASES
@pytest.mark.parametrize(
    "write",
    [
        *(writes_before, fails_later, fails_again, misses_later, goes_back_to_later),
        fails_at_the_second_row,
    ],
)
def test_what_was_written_before_is_not_forgotten(
    new_database: NewDatabase,
    caplog: pytest.LogCaptureFixture,
    backend: str,
    write: Callable[[Request], None],
) -> None:
    """Only the statement that came to nothing is."""
    url = new_database(backend)

    def view(request: Request) -> None:
        write(request)
        request.db.rollback()

    def stored(request: Request) -> None:
        request.db.add(Row(id=1))

    with database(url), app({"sqlalchemy.url": url}, *TM, index=view, stored=stored) as web:
        web.get("/stored")
        caplog.clear()
        web.get()
        (record,) = caplog.records
        assert "rollback()" in record.getMessage()


@pytest.mark.parametrize("backend", ["sqlite", "mysql+pymysql", "mysql+mysqlconnector"])
@pytest.mark.parametrize("end", ["close", "reset"])
def test_what_the_driver_has_committed_is_not_told_as_lost(
    new_database: NewDatabase, backend: str, end: str
) -> None:
    """Whoever was told so would do it again."""
    settings = {"sqlalchemy.url": (url := new_database(backend))}

    def view(request: Request) -> None:
        commit_on_the_driver(request)
        getattr(request.db, end)()

    with database(url) as count, app(settings, *TM, index=view) as web:
        web.get()
        assert count() == 1


@pytest.mark.parametrize("end", ["close", "reset"])
def test_what_is_closed_on_a_connection_that_was_lost_unseen_is_an_error(
    settings: dict[str, Any], count: Callable[[], int], end: str
) -> None:
    """Its author believes that it is stored, as on one that is there."""

    def view(request: Request) -> None:
        flushes(request)
        pid = request.db.scalar(text("SELECT pg_backend_pid()"))
        with web.engine.connect() as other:
            other.execute(text(f"SELECT pg_terminate_backend({pid}, 10000)"))
        getattr(request.db, end)()

    with app(settings, *TM, index=view) as web:
        with pytest.raises(ChangesDiscarded):
            web.get()
        assert (count(), web.checked_out()) == (0, 0)


@pytest.mark.parametrize("words", ["UPDATE", "NO KEY UPDATE", "SHARE", "KEY SHARE"])
@pytest.mark.parametrize("query", ["{}", "WITH a AS ({}) SELECT * FROM a"])
def test_a_lock_of_a_row_is_no_loss(
    settings: dict[str, Any],
    count: Callable[[], int],
    caplog: pytest.LogCaptureFixture,
    words: str,
    query: str,
) -> None:
    """Though PostgreSQL numbers a transaction that locks one as if it had written."""

    def view(request: Request) -> None:
        request.db.execute(text(query.format(f"SELECT * FROM rows FOR {words}")))
        request.db.close()

    with app(settings, *TM, index=view, stored=add) as web:
        web.get("/stored")
        caplog.clear()
        web.get()
        assert (count(), caplog.records) == (1, [])


def test_what_a_function_has_written_is_warned_of(
    settings: dict[str, Any], count: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    """PostgreSQL knows that there was something."""

    def view(request: Request) -> None:
        request.db.execute(text("SELECT write()"))
        request.db.close()

    create = "CREATE FUNCTION write() RETURNS int AS 'INSERT INTO rows VALUES (7) RETURNING id'"

    def made(request: Request) -> None:
        request.db.execute(text(f"{create} LANGUAGE sql"))

    with app(settings, *TM, index=view, made=made) as web:
        web.get("/made")
        caplog.clear()
        web.get()
        assert count() == 0
        (record,) = caplog.records
        assert "GET route 'index'" in record.getMessage()


def test_closing_a_session_whose_work_has_failed_is_a_rollback(
    settings: dict[str, Any], count: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    """Its author knows that it is lost, and begins anew."""

    def view(request: Request) -> None:
        request.db.add_all([Row(id=7), Row(id=7)])
        with pytest.raises(IntegrityError):
            request.db.flush()
        request.db.close()
        request.db.add(Row(id=8))

    with app(settings, *TM, index=view) as web:
        caplog.clear()
        web.get()
        assert (count(), web.checked_out()) == (1, 0)
        (record,) = caplog.records
        assert "GET route 'index'" in record.getMessage()


@pytest.mark.parametrize("end", ["close", "rollback"])
def test_a_view_that_fails_is_told_of_its_own_error_alone(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture, end: str
) -> None:
    """Nobody has promised it anything."""

    def view(request: Request) -> None:
        flushes(request)
        getattr(request.db, end)()
        raise Broken

    with app(settings, *TM, index=view) as web:
        caplog.clear()
        with pytest.raises(Broken):
            web.get()
        assert not caplog.records


def test_a_session_with_two_phases_is_refused_before_it_prepares(mariadb_url: str) -> None:
    """No other database commits its part."""
    settings = {
        "sqlalchemy.url": mariadb_url,
        "dbpool.session_class": f"{TwoPhaseSession.__module__}.TwoPhaseSession",
    }

    def view(request: Request) -> None:
        flushes(request)
        request.db.close()

    with database(mariadb_url) as count, app(settings, *TM, index=view) as web:
        with pytest.raises(ChangesDiscarded):
            web.get()
        assert (count(), web.checked_out()) == (0, 0)


@pytest.mark.parametrize("end", ["close", "leave"])
def test_what_an_app_without_pyramid_tm_closes_is_its_own(
    psycopg_url: str, count: Callable[[], int], caplog: pytest.LogCaptureFixture, end: str
) -> None:
    """What is left to the end of the request is warned of."""

    def view(request: Request) -> None:
        flushes(request)
        if end == "close":
            request.db.close()

    with app({"sqlalchemy.url": psycopg_url}, "pyramid_dbpool", index=view) as web:
        caplog.clear()
        web.get()
        assert len(caplog.records) == (end == "leave")
        assert count() == 0
