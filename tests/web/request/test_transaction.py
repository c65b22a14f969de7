"""request.db inside of pyramid_tm's transaction."""

from collections.abc import Callable
from typing import Any

import pytest
from pyramid.request import Request
from pyramid.response import Response
from pyramid_retry import RetryableException
from sqlalchemy import insert, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from pyramid_dbpool import SessionInUse, TransactionFailed
from pyramid_dbpool.web.request_db import RequestSessions
from tests.support.webapp import TM, Row, app
from tests.web.request.views import (
    Broken,
    add,
    answer_with_rows,
    commits,
    exception_view,
    executes,
    fails,
    flushes,
    rows,
)


@pytest.mark.parametrize("order", [TM, TM[::-1]], ids=["before-tm", "after-tm"])
def test_what_a_view_writes_is_committed(
    settings: dict[str, Any], count: Callable[[], int], order: tuple[str, str]
) -> None:
    """A normal response commits and gives the connection back, in either order of inclusion."""
    with app(settings, *order, index=add) as web:
        web.get()
        assert count() == 1
        assert web.checked_out() == 0


@pytest.mark.parametrize(
    "statement",
    [text("INSERT INTO rows (id) VALUES (7)"), insert(Row).values(id=7)],
    ids=["raw", "core"],
)
def test_raw_and_core_dml_is_committed(
    settings: dict[str, Any], count: Callable[[], int], statement: Any
) -> None:
    """A transaction that the ORM knows nothing of is committed too."""
    with app(settings, *TM, index=executes(statement)) as web:
        web.get()
        assert count() == 1


def test_an_exception_rolls_back_and_gives_the_connection_back(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """What a failing view wrote is gone, and its connection is not."""
    with app(settings, *TM, index=fails) as web:
        with pytest.raises(Broken):
            web.get()
        assert (count(), web.checked_out()) == (0, 0)


def test_an_exception_view_may_query(settings: dict[str, Any], count: Callable[[], int]) -> None:
    """An exception view uses request.db, and its connection goes back."""
    with app(settings, *TM, exception_view(answer_with_rows), index=fails) as web:
        assert web.get(status=500).text.startswith("Broken")
        assert (count(), web.checked_out()) == (0, 0)


def test_a_failure_at_commit_leaves_the_exception_view_a_clean_session(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """A deferred constraint fails in COMMIT; the view queries, and may write on its own."""

    def violate(request: Request) -> None:
        request.db.execute(
            text(
                "CREATE TABLE once (id int,"
                " CONSTRAINT one UNIQUE (id) DEFERRABLE INITIALLY DEFERRED)"
            )
        )
        request.db.execute(text("INSERT INTO once VALUES (1), (1)"))
        add(request)

    def view(error: Exception, request: Request) -> Response:
        assert not request.db.in_transaction() and not request.db.new
        add(request)
        request.db.commit()
        return answer_with_rows(error, request)

    with app(settings, *TM, exception_view(view), index=violate) as web:
        assert web.get(status=500).text == "IntegrityError 1"
        assert (count(), web.checked_out()) == (1, 0)
        web.get(status=500)


def test_a_failure_at_commit_without_an_exception_view_propagates(
    settings: dict[str, Any],
) -> None:
    """The error of COMMIT is raised and nothing stays checked out."""

    def violate(request: Request) -> None:
        request.db.execute(text("CREATE TABLE o (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)"))
        request.db.execute(text("INSERT INTO o VALUES (1), (1)"))

    with app(settings, *TM, index=violate) as web:
        with pytest.raises(IntegrityError):
            web.get()
        assert web.checked_out() == 0


def test_a_swallowed_error_never_answers_2xx(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """PostgreSQL would answer this COMMIT with ROLLBACK and no error."""

    def swallow(request: Request) -> None:
        add(request)
        request.db.flush()
        with pytest.raises(DBAPIError):
            request.db.execute(text("SELECT 1 / 0"))

    with app(settings, *TM, index=swallow) as web:
        with pytest.raises(TransactionFailed, match="begin_nested"):
            web.get()
        assert (count(), web.checked_out()) == (0, 0)


def test_an_error_inside_a_savepoint_may_be_swallowed(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """A savepoint saves the transaction around it."""

    def view(request: Request) -> None:
        add(request)
        with pytest.raises(DBAPIError), request.db.begin_nested():
            request.db.execute(text("SELECT 1 / 0"))

    with app(settings, *TM, index=view) as web:
        web.get()
        assert count() == 1


def test_a_request_is_tried_again_on_a_fresh_session(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """pyramid_retry: what the failed attempts wrote is gone, and so are their connections."""
    sessions: list[Session] = []

    def view(request: Request) -> None:
        assert web.checked_out() == 0
        sessions.append(request.db)
        flushes(request)
        if len(sessions) < 3:
            raise RetryableException

    with app(settings, *TM, "pyramid_retry", index=view) as web:
        web.get()
        assert len({id(session) for session in sessions}) == 3
        assert (count(), web.checked_out()) == (1, 0)


@pytest.mark.parametrize("give_back", ["rollback", "close"])
@pytest.mark.parametrize("goes_on", [False, True], ids=["ends", "goes-on"])
def test_a_view_may_give_its_connection_back_early(
    settings: dict[str, Any], count: Callable[[], int], give_back: str, goes_on: bool
) -> None:
    """Before it goes on to something slow; what it writes later is committed."""

    def view(request: Request) -> None:
        rows(request)
        getattr(request.db, give_back)()
        assert web.checked_out() == 0
        if goes_on:
            add(request)

    with app(settings, *TM, index=view) as web:
        web.get()
        assert (count(), web.checked_out()) == (int(goes_on), 0)


def test_committing_by_hand_inside_the_transaction_is_refused(settings: dict[str, Any]) -> None:
    """pyramid_tm commits; a view that does fails at once."""
    with app(settings, *TM, index=commits) as web:
        with pytest.raises(SessionInUse, match=r"request\.tm"):
            web.get()
        assert web.checked_out() == 0


def test_what_a_before_commit_hook_writes_is_committed(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """pyramid_tm has taken tm.active away by then."""

    def view(request: Request) -> None:
        request.tm.get().addBeforeCommitHook(add, (request,))

    with app(settings, *TM, index=view) as web:
        web.get()
        assert (count(), web.checked_out()) == (1, 0)


def test_an_after_commit_hook_may_query(settings: dict[str, Any]) -> None:
    """It sees what was committed, outside of the transaction."""
    seen: list[int] = []

    def view(request: Request) -> None:
        add(request)
        request.tm.get().addAfterCommitHook(lambda ok: seen.append(rows(request)))

    with app(settings, *TM, index=view) as web:
        web.get()
        assert (seen, web.checked_out()) == ([1], 0)


def test_a_session_that_a_test_supplies_is_left_alone(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """Handed out untouched: not joined, not committed, not closed."""
    with app(settings, *TM, index=add) as web, Session(web.engine) as own:
        web.get(extra_environ={"app.dbsession": own})
        assert len(own.new) == 1
        own.flush()
        assert web.checked_out() == 1
        own.rollback()
        assert count() == 0


def test_a_session_knows_its_request(settings: dict[str, Any]) -> None:
    """Where models and listeners of the cookiecutter's apps look for it."""
    with app(settings, *TM, index=lambda request: request.db.info["request"] is request) as web:
        assert web.get().text == "True"


def test_a_request_has_one_owner_of_sessions(settings: dict[str, Any]) -> None:
    """However often it is asked for."""
    request = Request.blank("/")
    assert RequestSessions.of(request) is RequestSessions.of(request)
