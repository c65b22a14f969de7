"""Answers that report a failure, and what they and exception views find."""

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from pyramid_dbpool import TransactionFailed
from tests.support.webapp import TM, Row, app
from tests.web.request.views import (
    Broken,
    add,
    answer_with_rows,
    exception_view,
    flushes,
)

LOST = "SELECT pg_terminate_backend(pg_backend_pid())"


def catches(statement: str, status: int) -> Callable[[Request], Response]:
    """Return a view that answers itself when the database fails, as the cookiecutter's does."""

    def view(request: Request) -> Response:
        flushes(request)
        try:
            request.db.execute(text(statement))
        except SQLAlchemyError:
            return Response("db problem", status=status)
        return Response("stored")

    return view


@pytest.mark.parametrize("status", [400, 409, 500])
@pytest.mark.parametrize("statement", ["SELECT 1 / 0", LOST], ids=["failed", "lost"])
def test_an_answer_that_reports_a_failure_is_let_through(
    settings: dict[str, Any],
    count: Callable[[], int],
    caplog: pytest.LogCaptureFixture,
    status: int,
    statement: str,
) -> None:
    """It claims nothing to be stored, and nothing is."""
    with app(settings, *TM, index=catches(statement, status)) as web:
        caplog.clear()
        assert web.get(status=status).text == "db problem"
        assert (count(), web.checked_out()) == (0, 0)
        assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


@pytest.mark.parametrize("status", [200, 302])
def test_an_answer_that_reports_success_is_not(
    settings: dict[str, Any], count: Callable[[], int], status: int
) -> None:
    """Its author believes that all is well."""
    with app(settings, *TM, index=catches("SELECT 1 / 0", status)) as web:
        with pytest.raises(TransactionFailed):
            web.get()
        assert count() == 0


def test_what_another_try_may_mend_is_tried_again_first(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """A view's own page comes for the last one."""
    tries: list[int] = []

    def view(request: Request) -> Response:
        tries.append(1)
        return catches(LOST if len(tries) < 3 else "SELECT 1", 500)(request)

    parts = (*TM, "pyramid_retry")
    with app(settings, *parts, index=view) as web:
        assert web.get().text == "stored"
        assert (len(tries), count()) == (3, 1)
    with app(settings, *parts, index=catches(LOST, 500)) as web:
        assert web.get(status=500).text == "db problem"
        assert (count(), web.checked_out()) == (1, 0)


def test_an_answer_of_a_failure_may_store(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """Where nothing has failed in the database, tm.commit_veto is whose word counts."""

    def view(request: Request) -> Response:
        add(request)
        return Response(status=404)

    with app(settings, *TM, index=view) as web:
        web.get(status=404)
        assert count() == 1


def test_a_read_only_pool_that_fails_takes_nothing_with_it(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """It has no part in the transaction, whose work is stored as with any other answer."""
    settings |= {"sqlalchemy.ro.url": settings["sqlalchemy.url"], "dbpool.ro.read_only": "true"}

    def view(request: Request) -> Response:
        add(request)
        with suppress(SQLAlchemyError):
            request.db_ro.execute(text("SELECT 1 / 0"))
        return Response(status=503)

    with app(settings, *TM, index=view) as web:
        web.get(status=503)
        assert (count(), web.checked_out()) == (1, 0)


def test_a_subrequest_that_fails_leaves_its_parents_answer_to_the_parent(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """What the parent then says to be stored is not aborted in silence."""

    def view(request: Request) -> str:
        subrequest = Request.blank("/inner", environ=request.environ | {"PATH_INFO": "/inner"})
        assert request.invoke_subrequest(subrequest, use_tweens=True).status_code == 500
        return "stored"

    inner = catches("SELECT 1 / 0", 500)
    with app(settings, *TM, index=view, inner=inner) as web:
        with pytest.raises(TransactionFailed):
            web.get()
        assert (count(), web.checked_out()) == (0, 0)


def test_a_failed_hook_leaves_the_exception_view_a_clean_session(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """pyramid_tm asks for it with its transaction open, which nobody will commit."""

    def fails_in_hook(request: Request) -> None:
        flushes(request)

        def hook() -> None:
            raise Broken

        request.tm.get().addBeforeCommitHook(hook)

    def view(error: Exception, request: Request) -> Response:
        assert not request.db.in_transaction() and not request.db.new
        add(request)
        request.db.commit()
        return answer_with_rows(error, request)

    with app(settings, *TM, exception_view(view), index=fails_in_hook) as web:
        for number in (1, 2):
            # Its own row, and not the one of the transaction that has failed.
            assert web.get(status=500).text == f"Broken {number}"
            assert (count(), web.checked_out()) == (number, 0)


@pytest.mark.parametrize("end", ["rollback", "close", "reset"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_view_may_end_a_session_whose_connection_is_lost(
    settings: dict[str, Any], count: Callable[[], int], end: str, nested: bool
) -> None:
    """Nothing stays checked out, and the session takes another one."""

    def view(request: Request) -> None:
        if nested:
            request.db.begin_nested()
            request.db.begin_nested()
        pid = request.db.scalar(text("SELECT pg_backend_pid()"))
        with web.engine.connect() as other:
            other.execute(text(f"SELECT pg_terminate_backend({pid}, 5000)"))
        getattr(request.db, end)()
        assert web.checked_out() == 0
        add(request)

    with app(settings, *TM, index=view) as web:
        web.get()
        assert (count(), web.checked_out()) == (1, 0)


def test_a_swallowed_race_is_no_loss(settings: dict[str, Any], count: Callable[[], int]) -> None:
    """A view that looks up what another one has inserted meanwhile begins anew, and is warned."""

    def view(request: Request) -> None:
        add(request)
        with suppress(IntegrityError):
            request.db.add_all([Row(id=1), Row(id=1)])
            request.db.flush()
        request.db.rollback()
        add(request)

    with app(settings, *TM, index=view) as web:
        web.get()
        assert count() == 1


@pytest.mark.parametrize("end", ["close", "rollback"])
def test_an_answer_of_a_failure_is_told_of_no_loss(
    settings: dict[str, Any], count: Callable[[], int], caplog: pytest.LogCaptureFixture, end: str
) -> None:
    """It claims nothing: neither an error in its place nor a warning."""

    def view(request: Request) -> Response:
        flushes(request)
        getattr(request.db, end)()
        return Response(status=409)

    with app(settings, *TM, index=view) as web:
        caplog.clear()
        web.get(status=409)
        assert (count(), web.checked_out(), caplog.records) == (0, 0, [])
