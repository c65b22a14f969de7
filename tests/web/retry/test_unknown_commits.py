"""A connection that is lost at COMMIT: what is known then, and what is done."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from pyramid.request import Request
from sqlalchemy import create_engine, event, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from pyramid_dbpool import CommitUnknown, get_engine
from tests.support.webapp import PARTS, Row, TwoPhaseSession, app, database
from tests.web.retry.views import (
    ENDS_SESSION,
    UNKNOWN,
    NewDatabase,
    at_first,
    backend_ended,
    exception_view,
    in_commit,
    kill_in_mariadb,
    number,
    settings_for,
)


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


def test_a_lost_rollback_after_a_commit_is_no_unknown_commit(settings: dict[str, Any]) -> None:
    """It is that of the next transaction, of which nothing is stored for certain."""
    outside = create_engine(settings["sqlalchemy.url"], poolclass=NullPool)

    def view(request: Request) -> None:
        with get_engine(settings).connect() as connection:
            connection.execute(select(1))
            connection.commit()
            connection.execute(select(1))
            backend_ended(connection, outside)
            connection.rollback()

    with app(settings, *PARTS, index=view) as web:
        with pytest.raises(OperationalError) as raised:
            web.client.post("/")
        assert not isinstance(raised.value, CommitUnknown)
        assert web.checked_out() == 0


@pytest.mark.programs
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
        # A transaction that is prepared keeps its locks for ever.
        with outside.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
            for xid in outside.dialect.do_recover_twophase(other):
                outside.dialect.do_rollback_twophase(other, xid, recover=True)


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
