"""What keeps a request from another try: something may be stored."""

import contextvars
import threading
from collections.abc import Callable
from typing import Any

import pytest
from pyramid.request import Request
from sqlalchemy import make_url, select, text
from sqlalchemy.exc import OperationalError

from pyramid_dbpool import get_engine, unit_of_work
from tests.support.webapp import PARTS, Row, app, database
from tests.web.retry.views import (
    LOSES_RACE,
    MARIADB_RACE,
    RACE,
    NewDatabase,
    at_first,
    exception_view,
    lose_connection,
    ours_committed,
    settings_for,
)


def ours_in_autocommit(request: Request) -> None:
    engine = get_engine(request.registry.settings)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("INSERT INTO rows (id) VALUES (1000)"))


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
    """Also where it was stored through another session."""

    def trouble(request: Request) -> None:
        stores(request)
        lose_connection(request)

    with app(settings, *PARTS, index=at_first(trouble)) as web:
        with pytest.raises(OperationalError):
            web.client.post("/")
        assert count() == 1


def stores_again(request: Request) -> None:
    with unit_of_work(request.registry.settings) as session:
        session.merge(Row(id=1000))


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
def test_a_method_that_may_be_repeated_is_tried_again_after_something_was_stored(
    settings: dict[str, Any], count: Callable[[], int], method: str
) -> None:
    """As after a COMMIT whose outcome nobody knows."""

    def trouble(request: Request) -> None:
        stores_again(request)
        lose_connection(request)

    with app(settings, *PARTS, index=at_first(trouble)) as web:
        web.client.request("/", method=method, status=200)
        assert (count(), web.checked_out()) == (2, 0)


def test_so_is_one_that_has_swallowed_a_lost_race(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """Its COMMIT is refused."""

    def trouble(request: Request) -> None:
        stores_again(request)
        with pytest.raises(OperationalError):
            request.db.execute(text(RACE))

    with app(settings, *PARTS, index=at_first(trouble)) as web:
        assert web.client.put("/").text == "1"
        assert count() == 2


def test_what_it_has_stored_is_said_where_nobody_tries_again(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It may be asked again."""

    def view(request: Request) -> None:
        stores_again(request)
        lose_connection(request)

    with app(settings, "pyramid_tm", "pyramid_dbpool", index=view) as web:
        assert web.get(status=503).headers["Retry-After"] == "1"
    assert "only a part of this attempt is stored" in caplog.text


def test_an_engine_in_autocommit_stores_with_its_first_statement(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """The pool's own setting counts as well."""
    settings["sqlalchemy.isolation_level"] = "AUTOCOMMIT"
    with app(settings, *PARTS, index=at_first(lose_connection)) as web:
        with pytest.raises(OperationalError):
            web.client.post("/")
        assert count() == 1


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
    pymysql_url: str,
) -> None:
    """Nobody has said COMMIT."""

    def trouble(request: Request) -> None:
        request.db.execute(text("create table another (id int)"))
        request.db.execute(text(MARIADB_RACE))

    with (
        database(pymysql_url) as count,
        app(settings_for(pymysql_url), *PARTS, index=at_first(trouble)) as web,
    ):
        with pytest.raises(OperationalError):
            web.client.post("/")
        assert count() == 1


def read_only_unit(request: Request) -> None:
    with unit_of_work(request.registry.settings, read_only=True) as session:
        session.scalar(select(1))


def read_only_pool(request: Request) -> None:
    request.db_replica.scalar(select(1))
    request.db_replica.commit()


@pytest.mark.parametrize("reads", [read_only_unit, read_only_pool])
def test_what_a_read_only_transaction_commits_is_nothing(
    settings: dict[str, Any], count: Callable[[], int], reads: Callable[[Request], None]
) -> None:
    """A COMMIT that cannot have stored anything keeps nobody from another try."""
    settings["sqlalchemy.replica.url"] = settings["sqlalchemy.url"]
    settings["dbpool.replica.read_only"] = "true"

    def trouble(request: Request) -> None:
        reads(request)
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
        web.client.post("/", status=500)
        assert count() == 1


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
            web.client.post("/")
        assert count() == 1
