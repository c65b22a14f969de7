"""request.db without pyramid_tm: the app commits."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
from pyramid.request import Request
from pyramid.response import Response
from pyramid.scripting import prepare
from sqlalchemy import insert, text

from tests.support.webapp import TM, Row, app
from tests.web.request.views import (
    EXPLICIT,
    Broken,
    add,
    commits,
    exception_view,
    executes,
    fails,
    flushes,
    rows,
)


def test_without_pyramid_tm_the_app_commits(
    settings: dict[str, Any], count: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    """Committed work stays; the rest is rolled back."""

    with app(settings, "pyramid_dbpool", index=commits) as web:
        caplog.clear()
        web.get()
        assert (count(), web.checked_out()) == (1, 0)
        assert not caplog.records


@pytest.mark.parametrize(
    "write",
    [
        add,
        flushes,
        executes(insert(Row).values(id=7)),
        executes(text("\n insert into rows values (1)")),
    ],
    ids=["pending", "flushed", "core", "text"],
)
def test_uncommitted_changes_are_warned_of_once_with_the_route(
    settings: dict[str, Any],
    count: Callable[[], int],
    caplog: pytest.LogCaptureFixture,
    write: Callable[[Request], None],
) -> None:
    """Whoever forgets commit() reads about it."""
    with app(settings, "pyramid_dbpool", index=write) as web:
        caplog.clear()
        web.get()
        assert count() == 0
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert "GET route 'index'" in record.getMessage()
        assert "uncommitted" in record.getMessage()


def test_a_path_that_is_not_utf8_is_warned_of_and_leaks_nothing(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The warning names what it can."""

    def view(error: Exception, request: Request) -> Response:
        flushes(request)
        return Response(status=400)

    with app(settings, "pyramid_dbpool", exception_view(view)) as web:
        caplog.clear()
        web.get("/%ff", status=400)
        assert web.checked_out() == 0
        assert "uncommitted" in caplog.text


@pytest.mark.parametrize(
    "stores_at_once",
    [
        {"sqlalchemy.isolation_level": "AUTOCOMMIT"},
        {"sqlalchemy.execution_options": {"isolation_level": "AUTOCOMMIT"}},
        {"sqlalchemy.connect_args": {"autocommit": True}},
    ],
    ids=["isolation_level", "execution_options", "driver"],
)
def test_what_autocommit_has_stored_is_not_called_lost(
    settings: dict[str, Any],
    count: Callable[[], int],
    caplog: pytest.LogCaptureFixture,
    stores_at_once: dict[str, Any],
) -> None:
    """It is stored, and nothing is said."""
    settings.update(stores_at_once)
    with app(settings, "pyramid_dbpool", index=executes(insert(Row).values(id=7))) as web:
        caplog.clear()
        web.get()
        assert count() == 1
        assert not caplog.records


def test_reading_is_not_warned_of(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A session that only read closes in silence."""
    with app(settings, "pyramid_dbpool", index=rows) as web:
        caplog.clear()
        web.get()
        assert not caplog.records


def test_a_manager_that_is_not_active_is_not_joined(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """tm.activate_hook leaves the request to itself: the app commits."""

    settings["tm.activate_hook"] = lambda request: False
    with app(settings, *TM, index=commits) as web:
        web.get()
        assert (count(), web.checked_out()) == (1, 0)


def test_a_transaction_that_a_script_begins_is_joined(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """As the cookiecutter's scripts and its pshell begin one; some never end the request."""
    with app(settings | EXPLICIT, *TM) as web, prepare(registry=web.registry) as env:
        request = env["request"]
        assert rows(request) == 0
        with request.tm:
            add(request)
        assert (count(), web.checked_out()) == (1, 0)
        with pytest.raises(Broken), request.tm:
            fails(request)
        request.tm.begin()
        executes(insert(Row).values(id=7))(request)
        request.tm.commit()
        assert (count(), web.checked_out()) == (2, 0)


def test_an_attribute_that_is_no_transaction_manager_is_left_alone(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """Without pyramid_tm the name is the app's."""

    def view(request: Request) -> None:
        request.tm = "the team"
        commits(request)

    with app(settings, "pyramid_dbpool", index=view) as web:
        web.get()
        assert (count(), web.checked_out()) == (1, 0)
