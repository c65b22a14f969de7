"""`request.release_db()`: a connection goes back before something slow."""

from collections.abc import Callable
from typing import Any

import pytest
from pyramid.request import Request
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from pyramid_dbpool import PoolTimeout, SessionInUse, deadline, get_engine
from tests.support.webapp import TM, Row, TwoPhaseSession, WebApp, app, database


def test_a_view_that_only_read_goes_on_later(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """The connection is back meanwhile; the write that comes after it is committed."""
    held: list[int] = []

    def index(request: Request) -> None:
        request.db.execute(select(Row)).all()
        held.append(web.checked_out())
        request.release_db()
        held.append(web.checked_out())
        request.db.add(Row(id=1))

    with app(settings, *TM, index=index) as web:
        web.get()
    assert held == [1, 0]
    assert count() == 1


def test_a_session_with_two_phases_goes_on_later_too(pymysql_url: str) -> None:
    """What is prepared is the transaction that it is in by then."""
    settings = {"sqlalchemy.url": pymysql_url, "dbpool.session_class": TwoPhaseSession}

    def index(request: Request) -> None:
        request.db.execute(select(Row)).all()
        request.release_db()
        request.db.add(Row(id=1))

    def read(request: Request) -> None:
        # On the connection that has written before.
        request.db.execute(select(Row)).all()
        request.release_db()

    with database(pymysql_url) as count, app(settings, *TM, index=index, read=read) as web:
        web.get()
        web.get("/read")
        assert (count(), web.checked_out()) == (1, 0)


def test_a_session_that_got_no_connection_asks_for_none(settings: dict[str, Any]) -> None:
    """A view that lives with `PoolTimeout` would wait once more to give back what it has not."""
    settings |= {"sqlalchemy.pool_size": "1", "sqlalchemy.max_overflow": "1"}

    def index(request: Request) -> None:
        with deadline(0), pytest.raises(PoolTimeout):
            request.db.execute(select(Row))
        with deadline(0):
            request.release_db()

    with app(settings, *TM, index=index) as web:
        engine = get_engine(settings)
        with engine.connect(), engine.connect():
            web.get()
            assert web.checked_out() == 2


def test_an_object_stays_in_its_session(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """A change that is made to it afterwards is not lost."""

    def index(request: Request) -> None:
        row = request.db.get_one(Row, 1)
        request.release_db()
        row.id = 2

    def check(request: Request) -> str:
        return str(request.db.scalars(select(Row.id)).all())

    with app(settings, *TM, index=index, check=check) as web:
        with Session(web.engine) as session:
            session.add(Row(id=1))
            session.commit()
        web.get()
        assert web.get("/check").text == "[2]"
    assert count() == 1


def test_a_change_in_the_transaction_before_is_past(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """The next one on this connection has only read."""

    def index(request: Request) -> None:
        with web.engine.begin() as connection:
            connection.execute(insert(Row).values(id=1))
        request.db.scalars(select(Row)).all()
        with request.db.begin_nested():
            request.db.scalars(select(Row)).all()
        request.release_db()

    with app(settings, *TM, index=index) as web:
        web.get()
    assert count() == 1


def test_a_rollback_that_fails_gives_the_connection_back(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is closed; the session takes another one at its next use, and keeps its objects."""

    def fail(_connection: object) -> None:
        raise DBAPIError("ROLLBACK", None, Exception("gone"))

    def index(request: Request) -> None:
        row = request.db.get_one(Row, 1)
        with monkeypatch.context() as patched:
            patched.setattr(web.engine.dialect, "do_rollback", fail)
            request.release_db()
        assert web.checked_out() == 0
        row.id = 2

    with database(sqlite_url), app({"sqlalchemy.url": sqlite_url}, *TM, index=index) as web:
        with web.engine.begin() as connection:
            connection.execute(insert(Row).values(id=1))
        web.get()
        with web.engine.connect() as connection:
            assert connection.scalars(select(Row.id)).all() == [2]


def test_rows_that_are_still_being_read_keep_no_connection(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """They belong to a transaction that is over; the request goes on without them."""

    def index(request: Request) -> None:
        many = " UNION ALL ".join(["SELECT 1"] * 200)
        request.db.execute(text(many)).fetchmany(10)
        request.release_db()
        assert web.checked_out() == 0
        request.db.add(Row(id=1))

    with app(settings, *TM, index=index) as web:
        web.get()
    assert count() == 1


def test_not_inside_a_savepoint(sqlite_url: str) -> None:
    """Its `with` would fail at the end."""

    def index(request: Request) -> None:
        with request.db.begin_nested(), pytest.raises(SessionInUse, match="begin_nested"):
            request.release_db()

    with app({"sqlalchemy.url": sqlite_url}, *TM, index=index) as web:
        web.get()


def two_pools(tmp_path: Any) -> dict[str, Any]:
    """Give the settings of two pools."""
    return {
        "sqlalchemy.url": f"sqlite:///{tmp_path}/one.db",
        "sqlalchemy.other.url": f"sqlite:///{tmp_path}/two.db",
    }


def test_a_refusal_leaves_every_session_as_it_was(tmp_path: Any) -> None:
    """The other pool's connection is still out."""
    held: list[int] = []

    def index(request: Request) -> None:
        request.db.execute(select(1))
        request.db_other.execute(text("CREATE TABLE made (id INTEGER)"))
        request.db_other.execute(text("INSERT INTO made VALUES (1)"))
        with pytest.raises(SessionInUse):
            request.release_db()
        held.append(web.checked_out())
        request.release_db("default")
        held.append(web.checked_out())

    with app(two_pools(tmp_path), *TM, index=index) as web:
        web.get()
    assert held == [2, 1]


def subrequest(request: Request, path: str) -> None:
    """Ask the app itself, inside of the same transaction."""
    request.invoke_subrequest(Request({**request.environ, "PATH_INFO": path}))


def test_what_a_subrequest_took_is_given_back(sqlite_url: str) -> None:
    """Its session is still in the transaction, and has a connection of its own."""
    held: list[int] = []

    def outer(request: Request) -> None:
        subrequest(request, "/inner")
        held.append(web.checked_out())
        request.release_db()
        held.append(web.checked_out())

    views = {"outer": outer, "inner": lambda request: request.db.scalar(select(1))}
    with app({"sqlalchemy.url": sqlite_url}, *TM, **views) as web:
        web.get("/outer")
    assert held == [1, 0]


def test_what_a_subrequest_changed_is_not_lost(sqlite_url: str) -> None:
    """The request around it commits that."""

    def outer(request: Request) -> None:
        subrequest(request, "/inner")
        with pytest.raises(SessionInUse):
            request.release_db()

    def inner(request: Request) -> None:
        request.db.add(Row(id=1))

    with database(sqlite_url) as count:
        with app({"sqlalchemy.url": sqlite_url}, *TM, outer=outer, inner=inner) as web:
            web.get("/outer")
        assert count() == 1


def test_an_unknown_pool_is_named(tmp_path: Any) -> None:
    """A slip of the pen would keep the connection."""

    def index(request: Request) -> None:
        with pytest.raises(ValueError, match=r"no pool 'othr': there are default, other\."):
            request.release_db("othr")

    with app(two_pools(tmp_path), *TM, index=index) as web:
        web.get()


def test_a_tests_own_session_is_left_alone(sqlite_url: str) -> None:
    """Its work is not rolled back."""

    def index(request: Request) -> None:
        request.db.execute(select(1))
        request.release_db()

    def ask(web: WebApp) -> None:
        with Session(web.engine) as own:
            web.get(extra_environ={"app.dbsession": own})
            assert own.in_transaction()

    with app({"sqlalchemy.url": sqlite_url}, *TM, index=index) as web:
        ask(web)
