"""An app with exception views of its own, where its pool refuses."""

from collections.abc import Callable
from typing import Any

import pytest
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy import exc as sa_exc
from sqlalchemy import text

from pyramid_dbpool import DatabaseUnavailable, PoolError, PoolTimeout, dispose_engine
from tests.support.webapp import PARTS, WebApp, answering, app
from tests.web.overload.views import asks, attempts


def with_view(context: type[Exception], **predicates: str) -> Callable[[Configurator], None]:
    def include(config: Configurator) -> None:
        config.add_exception_view(
            lambda error, request: Response(text=f"own {type(error).__name__}", status=500),
            context=context,
            **predicates,
        )

    return include


def asking_tween_factory(handler: Callable[[Request], Response], registry: Any) -> Any:
    """Return a tween that asks the database before Pyramid's own tween is reached."""

    def tween(request: Request) -> Response:
        asks(request)
        return handler(request)

    return tween


def with_tween(config: Configurator) -> None:
    config.add_tween(f"{__name__}.asking_tween_factory")


class AskingPolicy:
    """A security policy that looks the user up."""

    def authenticated_userid(self, request: Request) -> str:
        return asks(request)

    def identity(self, request: Request) -> str:
        return asks(request)

    def permits(self, *_args: object) -> bool:
        return True


def with_policy(config: Configurator) -> None:
    config.set_security_policy(AskingPolicy())


@pytest.mark.parametrize("part", [with_tween, with_policy])
@pytest.mark.parametrize("own", [False, True], ids=["ours", "own"])
def test_a_tween_and_a_security_policy_are_refused_as_a_view_is(
    full: Callable[..., WebApp], part: Any, own: bool
) -> None:
    """They ask over the tween that calls exception views."""
    web = full(part, *[with_view(sa_exc.TimeoutError)] * own)
    answer = web.get(expect_errors=True)
    assert answer.status_int == (500 if own else 503)
    assert answer.text.startswith("own") is own
    assert attempts == [0]


@pytest.mark.parametrize(
    ("context", "own"),
    [
        (PoolTimeout, True),
        (PoolError, True),
        (sa_exc.TimeoutError, True),
        (sa_exc.SQLAlchemyError, True),
        (Exception, False),
    ],
)
def test_an_apps_own_exception_view_stays_in_charge(
    full: Callable[..., WebApp], context: type[Exception], own: bool
) -> None:
    """For the error, or what it refines; one for everything is not meant."""
    answer = full(with_view(context)).get(expect_errors=True)
    assert answer.text.startswith("own") is own


@pytest.mark.parametrize(
    ("context", "own"),
    [
        (DatabaseUnavailable, True),
        (PoolError, True),
        (sa_exc.OperationalError, True),
        (sa_exc.DBAPIError, True),
        (Exception, False),
    ],
)
def test_an_apps_view_for_operational_errors_gets_the_outage(
    away: dict[str, Any], context: type[Exception], own: bool
) -> None:
    """It has had it before."""
    with app(away, *PARTS, with_view(context), index=asks) as web:
        answer = web.get(expect_errors=True)
    assert (answer.text == "own DatabaseUnavailable", answer.status_int == 503) == (own, not own)


@pytest.mark.parametrize("context", [DatabaseUnavailable, sa_exc.SQLAlchemyError])
def test_where_an_apps_view_does_not_apply_the_answer_is_503(
    away: dict[str, Any], context: type[Exception]
) -> None:
    """Its predicates choose among requests."""
    view = with_view(context, request_method="POST")
    with app(away, *PARTS, view, index=asks) as web:
        web.get(status=503)
        assert web.client.post("/", status=500).text == "own DatabaseUnavailable"


def test_an_apps_view_counts_that_comes_after_a_commit(away: dict[str, Any]) -> None:
    """As it does with a Configurator that commits each thing at once."""
    config = Configurator(settings=away, autocommit=True)
    config.include("pyramid_dbpool")
    config.include(with_view(sa_exc.OperationalError, request_method="POST"))
    config.add_route("index", "/")
    config.add_view(answering(asks), route_name="index")
    web = WebApp(config)
    web.get(status=503)
    assert web.client.post("/", status=500).text == "own DatabaseUnavailable"
    dispose_engine(away)


@pytest.mark.parametrize("own", [False, True])
def test_other_errors_of_the_database_are_not_answered(
    settings: dict[str, Any], own: bool
) -> None:
    """They are the app's, and a view for everything is there for them."""
    del settings["dbpool.request_timeout"]

    def fails(request: Request) -> str:
        return str(request.db.scalar(text("SELECT nothing FROM nowhere")))

    with app(settings, *PARTS, *[with_view(Exception)] * own, index=fails) as web:
        if own:
            assert web.get(status=500).text == "own ProgrammingError"
        else:
            with pytest.raises(sa_exc.ProgrammingError):
                web.get()


def test_a_notfound_view_that_asks_is_refused_as_a_view_is(full: Callable[..., WebApp]) -> None:
    """An exception view's own errors are asked about over all of them."""

    def include(config: Configurator) -> None:
        config.add_notfound_view(lambda request: Response(asks(request)))

    full(include).get("/nowhere", status=503)
