"""What is answered when nobody tries again: 503 if nothing is stored, else the error."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError

from pyramid_dbpool import CommitUnknown, DatabaseUnavailable, deadline
from pyramid_dbpool.drivers.sockets import has_ended
from tests.support.makers import wait_for
from tests.support.servers.fixtures import NewProxy
from tests.support.webapp import PARTS, Row, app, database
from tests.web.overload.views import told
from tests.web.retry.views import (
    ENDS_SESSION,
    MARIADB_RACE,
    NewDatabase,
    exception_view,
    lose_connection,
    number,
    ours_committed,
    settings_for,
)

WITHOUT_RETRY = ("pyramid_tm", "pyramid_dbpool")
BACKENDS = ["postgresql+psycopg", "postgresql+psycopg2", "mysql+pymysql", "mysql+mysqlconnector"]


def test_a_disconnect_at_the_last_attempt_is_503(
    settings: dict[str, Any], count: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is stored, so whoever asks may do so again; one line in the log says why."""
    seen: list[int] = []

    def view(request: Request) -> None:
        request.db.add(Row())
        request.db.flush()
        seen.append(number(request))
        lose_connection(request)

    with app(settings, *PARTS, index=view) as web:
        answer = web.client.post("/", status=503)
        assert answer.headers["Retry-After"] == "1"
        assert (seen, count(), web.checked_out()) == ([0, 1, 2], 0, 0)
    (said,) = told(caplog)
    # psycopg before 3.2.4 says first what it was doing.
    assert re.search(r"nothing of this attempt is stored \((\w+ input failed: )?terminating", said)
    assert "\n" not in said


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("where", ["before", "at"])
def test_a_disconnect_without_pyramid_retry_is_503(
    new_database: NewDatabase, new_proxy: NewProxy, backend: str, where: str
) -> None:
    """Also where the connection is lost between the last statement and COMMIT."""
    url = new_database(backend)
    proxy = new_proxy(url)

    def view(request: Request) -> None:
        request.db.add(Row())
        request.db.flush()
        connection: Any = request.db.connection().connection
        proxy.cut()
        wait_for(lambda: has_ended(connection.dbapi_connection))
        if where == "before":
            request.db.execute(text("SELECT 1"))

    settings = settings_for(proxy.url(url))
    # The C extension shows no socket to look at.
    if backend == "mysql+mysqlconnector":
        settings["sqlalchemy.connect_args"] = '{"use_pure": true}'
    with database(url) as count, app(settings, *WITHOUT_RETRY, exception_view, index=view) as web:
        assert web.client.post("/", status=503).headers["Retry-After"] == "1"
        assert (count(), web.checked_out()) == (0, 0)


def test_the_apps_own_view_for_a_database_that_is_away_answers(settings: dict[str, Any]) -> None:
    """The view gets a DatabaseUnavailable with the driver's error in it."""
    errors: list[DatabaseUnavailable] = []

    def busy(error: DatabaseUnavailable, request: Request) -> Response:
        errors.append(error)
        return Response(text="busy", status=503)

    def include(config: Configurator) -> None:
        config.add_exception_view(busy, context=DatabaseUnavailable)

    with app(settings, *WITHOUT_RETRY, include, index=lose_connection) as web:
        assert web.get(status=503).text == "busy"
    assert errors[0].orig is not None and errors[0].connection_invalidated


def test_a_view_may_catch_it_as_before(settings: dict[str, Any]) -> None:
    """It is an error of SQLAlchemy still."""

    def view(request: Request) -> str:
        with pytest.raises(OperationalError):
            lose_connection(request)
        request.db.rollback()
        return str(request.db.scalar(text("SELECT 7")))

    with app(settings, *WITHOUT_RETRY, index=view) as web:
        assert web.get().text == "7"


def test_a_disconnect_after_something_was_stored_is_no_503(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """To do it again would be wrong."""

    def view(request: Request) -> None:
        ours_committed(request)
        lose_connection(request)

    with app(settings, *WITHOUT_RETRY, index=view) as web:
        with pytest.raises(OperationalError) as raised:
            web.client.post("/")
        assert not isinstance(raised.value, DatabaseUnavailable)
        assert count() == 1


def test_an_unknown_commit_is_no_503(settings: dict[str, Any]) -> None:
    """Nobody knows what is stored, so nobody is told to try again."""

    def view(request: Request) -> None:
        request.db.add(Row(id=ENDS_SESSION))

    with app(settings, *WITHOUT_RETRY, index=view) as web, pytest.raises(CommitUnknown):
        web.get()


def test_a_race_that_is_lost_each_time_is_no_503(pymysql_url: str) -> None:
    """The database is there."""

    def view(request: Request) -> None:
        request.db.execute(text(MARIADB_RACE))

    with app(settings_for(pymysql_url), *PARTS, index=view) as web:
        with pytest.raises(DBAPIError) as raised:
            web.client.post("/")
        assert not isinstance(raised.value, DatabaseUnavailable)


@pytest.mark.parametrize("method", ["post", "put"])
def test_a_refusal_after_something_was_stored_invites_nobody_to_store_it_twice(
    settings: dict[str, Any],
    count: Callable[[], int],
    caplog: pytest.LogCaptureFixture,
    method: str,
) -> None:
    """There is no Retry-After, unless the method says that it may be done again."""

    def view(request: Request) -> None:
        ours_committed(request)
        with deadline(0), web.engine.connect():
            request.db.execute(text("SELECT 1"))

    one = settings | {"sqlalchemy.pool_size": "1", "sqlalchemy.max_overflow": "0"}
    with app(one, *PARTS, index=view) as web:
        answer = getattr(web.client, method)("/", status=503)
        assert count() == 1
    (said,) = told(caplog)
    stored = method == "post"
    assert ("Retry-After" in answer.headers) is not stored
    assert ("A part of this request may be stored" in answer.text) is stored
    assert ("no Retry-After because a part of it may be stored: pool" in said) is stored
