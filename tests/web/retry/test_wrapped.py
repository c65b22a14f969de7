"""Errors that the app has made of the database's."""

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPServiceUnavailable
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy import Engine, ExceptionContext, event, text
from sqlalchemy.exc import DBAPIError, OperationalError

from pyramid_dbpool import PoolTimeout
from tests.support.webapp import PARTS, Row, app
from tests.web.retry.views import (
    ENDS_SESSION,
    LOSES_RACE,
    RACE,
    at_first,
    exception_view,
    in_commit,
    lose_connection,
    number,
    ours_committed,
)

WITHOUT_RETRY = ("pyramid_tm", "pyramid_dbpool")


class AppError(Exception):
    """What an app makes of its database's errors."""


def loses_a_race(request: Request) -> None:
    request.db.execute(text(RACE))


def drivers_own(context: ExceptionContext) -> None:
    """Raise the driver's error, as some apps want it."""
    if isinstance(context.sqlalchemy_exception, DBAPIError):
        raise context.original_exception from context.sqlalchemy_exception


def apps_own(context: ExceptionContext) -> AppError | None:
    """Return an error of the app's."""
    wanted = isinstance(context.sqlalchemy_exception, DBAPIError)
    return AppError("the database") if wanted else None


@pytest.fixture(params=["of the class", "of the engine", "another"])
def listener(request: pytest.FixtureRequest) -> Iterator[Callable[[Configurator], None]]:
    """Give what includes a listener that replaces SQLAlchemy's errors."""
    everywhere = request.param == "of the class"
    if everywhere:
        event.listen(Engine, "handle_error", drivers_own)

    def include(config: Configurator) -> None:
        def listen() -> None:
            engine = config.registry["sqlalchemy.engine"]
            if request.param == "another":
                event.listen(engine, "handle_error", apps_own, retval=True)
            elif not everywhere:
                event.listen(engine, "handle_error", drivers_own)

        config.action(None, listen, order=100)

    yield include
    if everywhere:
        event.remove(Engine, "handle_error", drivers_own)


Listener = Callable[[Configurator], None]


@pytest.mark.parametrize("trouble", [lose_connection, loses_a_race])
def test_an_error_in_the_place_of_sqlalchemys_is_tried_again(
    settings: dict[str, Any],
    count: Callable[[], int],
    listener: Listener,
    trouble: Callable[[Request], None],
) -> None:
    """The driver has been heard before it was replaced."""
    with app(settings, *PARTS, listener, index=at_first(trouble)) as web:
        assert web.client.post("/").text == "1"
        assert (count(), web.checked_out()) == (1, 0)


def test_a_lost_race_at_commit_is_too(
    settings: dict[str, Any], count: Callable[[], int], listener: Listener
) -> None:
    """With an exception view for everything."""
    with app(settings, *PARTS, exception_view, listener, index=in_commit(LOSES_RACE)) as web:
        assert web.client.post("/").text == "1"
        assert count() == 1


def test_an_unknown_commit_is_unknown(
    settings: dict[str, Any], count: Callable[[], int], listener: Listener
) -> None:
    """A method that may be repeated is."""
    with app(settings, *PARTS, listener, index=in_commit(ENDS_SESSION)) as web:
        with pytest.raises((psycopg.Error, AppError)):
            web.client.post("/")
        assert web.client.put("/").text == "1"
        assert count() == 1


def test_one_after_something_was_stored_is_not_tried_again(
    settings: dict[str, Any], count: Callable[[], int], listener: Listener
) -> None:
    """Whoever raises it."""

    def trouble(request: Request) -> None:
        ours_committed(request)
        loses_a_race(request)

    with app(settings, *PARTS, listener, index=at_first(trouble)) as web:
        with pytest.raises((psycopg.Error, AppError)):
            web.client.post("/")
        assert count() == 1


@pytest.mark.parametrize("swallowed", [lose_connection, loses_a_race])
def test_a_swallowed_one_has_its_commit_refused_and_is_tried_again(
    settings: dict[str, Any],
    count: Callable[[], int],
    listener: Listener,
    swallowed: Callable[[Request], None],
) -> None:
    """The refusal tells what was swallowed."""

    def trouble(request: Request) -> None:
        with pytest.raises((psycopg.Error, AppError)):
            swallowed(request)

    with app(settings, *PARTS, listener, index=at_first(trouble)) as web:
        assert web.client.post("/").text == "1"
        assert count() == 1


def test_a_drivers_error_at_the_last_attempt_is_503(settings: dict[str, Any]) -> None:
    """As SQLAlchemy's would have been."""

    def include(config: Configurator) -> None:
        config.action(
            None,
            lambda: event.listen(
                config.registry["sqlalchemy.engine"], "handle_error", drivers_own
            ),
            order=100,
        )

    with app(settings, *WITHOUT_RETRY, include, index=lose_connection) as web:
        assert web.get(status=503).headers["Retry-After"] == "1"


def wrapped(trouble: Callable[[Request], None], error: Exception) -> Callable[[Request], None]:
    def view(request: Request) -> None:
        try:
            trouble(request)
        except DBAPIError as cause:
            raise error from cause

    return view


@pytest.mark.parametrize("refused", [True, False])
def test_what_is_handled_around_a_request_is_no_error_of_its_own(
    settings: dict[str, Any], refused: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A server or a middleware may call the app where it handles an error of another database."""
    numbers: list[int] = []
    gone = OperationalError("SELECT 1", {}, Exception("gone"), connection_invalidated=True)

    def view(request: Request) -> None:
        numbers.append(number(request))
        raise AppError

    with app(settings, *PARTS, app_answers(500), index=view) as web:
        try:
            raise PoolTimeout("full") if refused else gone
        except (PoolTimeout, DBAPIError):
            assert web.get(status=500).text == "sorry"
    assert len(numbers) == 1
    assert "full" not in caplog.text


def app_answers(status: int) -> Callable[[Configurator], None]:
    def include(config: Configurator) -> None:
        answer = lambda error, request: Response(text="sorry", status=status)  # noqa: E731
        config.add_exception_view(answer, context=AppError)

    return include


@pytest.mark.parametrize("parts", [(), (app_answers(500),)], ids=["raised", "answered"])
@pytest.mark.parametrize("trouble", [lose_connection, loses_a_race])
def test_an_error_of_the_apps_own_is_tried_again(
    settings: dict[str, Any],
    count: Callable[[], int],
    trouble: Callable[[Request], None],
    parts: tuple[Any, ...],
) -> None:
    """If its answer is that of a failure."""
    view = at_first(wrapped(trouble, AppError()))
    with app(settings, *PARTS, *parts, index=view) as web:
        assert web.client.post("/").text == "1"
        assert (count(), web.checked_out()) == (1, 0)


def test_an_answer_that_the_app_has_chosen_is_one(settings: dict[str, Any]) -> None:
    """It says what the conflict means, or that the database is busy."""
    conflict = at_first(wrapped(loses_a_race, AppError()))
    busy = at_first(wrapped(loses_a_race, HTTPServiceUnavailable("later")))
    with app(settings, *PARTS, app_answers(409), conflict=conflict, busy=busy) as web:
        web.client.post("/conflict", status=409)
        assert "later" in web.client.post("/busy", status=503)


def test_a_drivers_error_that_sqlalchemy_has_not_met_is_the_apps(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """What else its author did with the driver, nobody knows."""
    attempts: list[int] = []

    def view(request: Request) -> None:
        attempts.append(number(request))
        request.db.add(Row())
        request.db.flush()
        request.db.connection().connection.cursor().execute(RACE)

    with app(settings, *PARTS, index=view) as web, pytest.raises(psycopg.Error):
        web.client.post("/")
    assert (attempts, count()) == ([0], 0)
