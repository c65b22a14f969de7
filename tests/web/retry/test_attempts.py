"""What is tried again."""

import itertools
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid_retry import mark_error_retryable
from sqlalchemy import exc as sa_exc
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm.exc import StaleDataError

from pyramid_dbpool import DatabaseUnavailable, PoolTimeout, unit_of_work
from pyramid_dbpool.embedded import PrivatePostgres
from pyramid_dbpool.engines.stored import Outcome
from pyramid_dbpool.web.retry import may_try_again
from tests.support.servers.fixtures import MARIADB
from tests.support.webapp import PARTS, app, database
from tests.web.retry.views import (
    ENDS_SESSION,
    LOSES_RACE,
    NewDatabase,
    answer_500,
    at_first,
    exception_view,
    in_commit,
    lose_connection,
    number,
    settings_for,
)


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


@pytest.mark.parametrize("code", [1205, 1213])
def test_mariadbs_lost_races_are_tried_again(mariadb_url: str, code: int) -> None:
    """zope.sqlalchemy knows 1213 from PyMySQL, and nothing else."""

    def trouble(request: Request) -> None:
        request.db.execute(text(f"SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = {code}"))

    settings = settings_for(mariadb_url)
    with database(mariadb_url) as count, app(settings, *PARTS, index=at_first(trouble)) as web:
        assert web.client.post("/").text == "1"
        assert (count(), web.checked_out()) == (1, 0)


NewPostgres = Callable[..., PrivatePostgres]


@pytest.mark.slow
@pytest.mark.parametrize("code", [1053, 1927])
@pytest.mark.parametrize("driver", MARIADB)
def test_mariadbs_last_words_are_a_lost_connection(
    new_database: NewDatabase, driver: str, code: int
) -> None:
    """To a statement that is under way when the server ends, or the connection is killed."""
    url = new_database(driver)
    said = f"SIGNAL SQLSTATE '08S01' SET MYSQL_ERRNO = {code}, MESSAGE_TEXT = 'farewell'"
    view = at_first(lambda request: request.db.execute(text(said)))
    with database(url), app(settings_for(url), *PARTS, index=view) as web:
        assert web.client.post("/").text == "1"
        assert web.pool.snapshot().closed["invalidated"] == 1


def test_an_attempt_is_not_burnt_while_the_database_is_away(new_postgres: NewPostgres) -> None:
    """The second of two attempts waits for the server, which is gone for a second."""
    server = new_postgres()
    settings = settings_for(server.url("psycopg")) | {"retry.attempts": "2"}
    # However long it takes to start on a busy machine.
    settings |= {"sqlalchemy.pool_timeout": "60", "dbpool.outage_grace": "60"}
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
        assert stopped.wait(60)
        time.sleep(1.0)
        # Here, because the server ends with the thread that started it.
        server.start()
        request.join(60)
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
