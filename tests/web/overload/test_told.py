"""The log says that a request was refused, or its write is in doubt, whoever has answered it."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy import create_engine, select, text
from sqlalchemy import exc as sa_exc
from sqlalchemy.pool import NullPool

from pyramid_dbpool import (
    CommitUnknown,
    DatabaseUnavailable,
    ManagedPool,
    PoolError,
    PoolTimeout,
    unit_of_work,
)
from pyramid_dbpool.web import incidents
from tests.support.servers.ports import deaf_port
from tests.support.webapp import PARTS, Row, WebApp, app, database
from tests.web.overload.test_own_views import with_policy, with_tween
from tests.web.overload.views import asks, told
from tests.web.retry.views import ENDS_SESSION, TROUBLE_IN_COMMIT, in_commit

REFUSALS = (PoolTimeout, DatabaseUnavailable)
Part = Callable[[Configurator], None]
Handler = Callable[[Request], Response]


def answer_busy(error: Any, request: Request) -> Response:
    response = Response(text="own", status=503)
    response.retry_after = error.retry_after
    return response


def own_view(*contexts: type[Exception]) -> Part:
    """Answer in an exception view of the app's own, as the README does."""

    def include(config: Configurator) -> None:
        for context in contexts:
            config.add_exception_view(answer_busy, context=context)

    return include


def catching_tween_factory(handler: Handler, registry: Any) -> Handler:
    """Return a tween that answers itself."""

    def tween(request: Request) -> Response:
        try:
            return handler(request)
        except REFUSALS as error:
            return answer_busy(error, request)

    return tween


def under_the_exception_views(config: Configurator) -> None:
    """Catch before Pyramid's own tween has it."""
    name = f"{__name__}.catching_tween_factory"
    config.add_tween(name, under="pyramid.tweens.excview_tween_factory")


def catching_view(request: Request) -> Response:
    """Answer itself."""
    try:
        return Response(asks(request))
    except REFUSALS as error:
        return answer_busy(error, request)


def sub_view(use_tweens: bool) -> Callable[[Request], Response]:
    """Ask in a subrequest, and pass on what it was answered."""

    def view(request: Request) -> Response:
        return request.invoke_subrequest(Request.blank("/asks"), use_tweens=use_tweens)

    return view


ANSWERERS: list[Any] = [
    pytest.param(asks, [own_view(PoolTimeout, DatabaseUnavailable)], id="its error's view"),
    pytest.param(asks, [own_view(PoolError)], id="a view for PoolError"),
    pytest.param(asks, [own_view(sa_exc.SQLAlchemyError)], id="a view for SQLAlchemy's errors"),
    pytest.param(asks, [under_the_exception_views], id="a tween"),
    pytest.param(catching_view, [], id="the view"),
    pytest.param(asks, [with_tween, own_view(PoolError)], id="a view, for a tween"),
    pytest.param(asks, [with_policy, own_view(PoolError)], id="a view, for the policy"),
    pytest.param(sub_view(True), [own_view(PoolError)], id="a view, for a subrequest"),
    pytest.param(sub_view(False), [own_view(PoolError)], id="a view, for one without tweens"),
]


@pytest.mark.parametrize(("view", "parts"), ANSWERERS)
def test_an_outage_is_one_line_whoever_answers(
    away: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    view: Callable[[Request], Any],
    parts: list[Part],
) -> None:
    """With what was answered; the answer has when to come again."""
    with app(away, *PARTS, *parts, index=view, asks=asks) as web:
        answer = web.get(status=503)
    assert (answer.text, answer.headers["Retry-After"]) == ("own", "1")
    (said,) = told(caplog)
    # Over the router nobody knows a route's name.
    assert said.replace("'/'", "route 'index'").startswith(
        "503 for GET route 'index', Retry-After 1 s: pool 'default'"
    )
    assert "unreachable" in said


@pytest.mark.parametrize(("view", "parts"), ANSWERERS)
def test_a_full_pool_is_one_line_whoever_answers(
    full: Callable[..., WebApp],
    caplog: pytest.LogCaptureFixture,
    view: Callable[[Request], Any],
    parts: list[Part],
) -> None:
    """With the numbers and who holds it."""

    def with_routes(config: Configurator) -> None:
        config.add_route("another", "/another")
        config.add_view(lambda request: view_response(view(request)), route_name="another")
        config.add_route("asks", "/asks")
        config.add_view(lambda request: Response(asks(request)), route_name="asks")

    answer = full(*parts, with_routes).get("/another", status=503)
    assert (answer.text, answer.headers["Retry-After"]) == ("own", "1")
    (said,) = told(caplog)
    assert said.replace("'/another'", "route 'another'").startswith(
        "503 for GET route 'another', Retry-After 1 s: pool 'default'"
    )
    assert "Longest holders: GET route 'slow" in said


def view_response(answer: Any) -> Response:
    return answer if isinstance(answer, Response) else Response(text=answer)


@pytest.mark.parametrize("poolclass", ["NullPool", "QueuePool"])
def test_with_sqlalchemys_pools_too(
    away: dict[str, Any], caplog: pytest.LogCaptureFixture, poolclass: str
) -> None:
    """Also where the view catches it."""
    for keyword in ("pool_size", "max_overflow", "pool_timeout"):
        del away[f"sqlalchemy.{keyword}"]
    del away["dbpool.outage_grace"]
    away["sqlalchemy.poolclass"] = poolclass
    with app(away, *PARTS, index=catching_view) as web:
        assert web.get(status=503).headers["Retry-After"] == "1"
    assert len(told(caplog)) == 1


@pytest.mark.parametrize("use_tweens", [False, True])
@pytest.mark.parametrize("own", [False, True], ids=["ours", "own"])
def test_an_engine_that_the_app_has_made_is_one_line_too(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture, own: bool, use_tweens: bool
) -> None:
    """In a subrequest that our view answers, and in a request that the app's does."""
    url = f"postgresql+psycopg://nobody@127.0.0.1:{deaf_port()}/none"
    arguments = ManagedPool.plugin_arguments() | {"outage_grace": 0}
    engine = create_engine(url, poolclass=ManagedPool, **arguments)

    def other(_request: Request) -> str:
        with engine.connect() as connection:
            return str(connection.scalar(select(1)))

    view = other if own else sub_view(use_tweens)
    parts = [own_view(PoolError)] if own else []
    with app(settings, *PARTS, *parts, index=view, asks=other) as web:
        web.get(status=503)
    engine.dispose()
    assert len(told(caplog)) == 1


def test_where_the_tween_is_not_listed_our_view_writes_it(
    away: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """An app with `pyramid.tweens` may have left it out."""
    away["pyramid.tweens"] = "pyramid_tm.tm_tween_factory pyramid.tweens.excview_tween_factory"
    with app(away, *PARTS, index=asks) as web:
        assert web.get(status=503).headers["Retry-After"] == "1"
    (said,) = told(caplog)
    assert said.startswith("503 for GET route 'index', Retry-After 1 s: pool 'default'")


def test_a_page_that_does_without_says_what_it_was_answered(
    away: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody notices an empty sidebar."""

    def view(request: Request) -> str:
        with pytest.raises(DatabaseUnavailable):
            asks(request)
        return "without a sidebar"

    with app(away, *PARTS, index=view) as web:
        web.get(status=200)
    (said,) = told(caplog)
    assert said.startswith("200 for GET route 'index', no Retry-After: pool 'default'")


def test_an_error_that_no_view_answers_is_one_line_too(
    away: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The server has the traceback; which request it was is here."""

    def view(request: Request) -> str:
        try:
            return asks(request)
        except DatabaseUnavailable as error:
            raise LookupError("no such note") from error

    with app(away, *PARTS, index=view) as web, pytest.raises(LookupError):
        web.get()
    (said,) = told(caplog)
    assert said.startswith("500 for GET route 'index', no Retry-After: pool 'default'")


@pytest.mark.parametrize("own", [False, True], ids=["ours", "own"])
@pytest.mark.parametrize(("method", "seconds"), [("POST", None), ("PUT", "1")])
def test_nobody_is_told_to_repeat_what_may_be_stored(
    settings: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    own: bool,
    method: str,
    seconds: str | None,
) -> None:
    """The error in an app's own view says so too, unless the method may be repeated."""
    other = settings | {
        "sqlalchemy.other.url": f"postgresql+psycopg://nobody@127.0.0.1:{deaf_port()}/none",
        "dbpool.other.outage_grace": "0",
    }
    del other["dbpool.request_timeout"]

    def view(request: Request) -> None:
        with unit_of_work(other) as session:
            session.add(Row())
        request.db_other.execute(select(1))

    parts = [own_view(PoolError)] if own else []
    with database(settings["sqlalchemy.url"]), app(other, *PARTS, *parts, index=view) as web:
        answer = web.client.request("/", method=method, status=503)
    assert answer.headers.get("Retry-After") == seconds
    (said,) = told(caplog)
    why = "no Retry-After because a part of it may be stored" if seconds is None else "1 s"
    assert f"{why}: pool 'other'" in said


@pytest.fixture
def doubtful(psycopg_url: str) -> Iterator[dict[str, Any]]:
    """Settings of an app on a database that ends a session inside COMMIT when it is told to."""
    with database(psycopg_url):
        engine = create_engine(psycopg_url, poolclass=NullPool)
        with engine.begin() as connection:
            connection.execute(text(TROUBLE_IN_COMMIT))
        yield {"sqlalchemy.url": psycopg_url, "tm.manager_hook": "pyramid_tm.explicit_manager"}


def answer_unknown(error: Any, request: Request) -> Response:
    return Response(text="own", status=202)


def unknown_view(config: Configurator) -> None:
    config.add_exception_view(answer_unknown, context=CommitUnknown)


def unknown_tween_factory(handler: Handler, registry: Any) -> Handler:
    """Return a tween that answers itself."""

    def tween(request: Request) -> Response:
        try:
            return handler(request)
        except CommitUnknown as error:
            return answer_unknown(error, request)

    return tween


def unknown_tween(config: Configurator) -> None:
    """Catch what pyramid_tm's COMMIT raises."""
    config.add_tween(f"{__name__}.unknown_tween_factory", over="pyramid_tm.tm_tween_factory")


def catches_unknown(request: Request) -> Response:
    """Answer itself."""
    try:
        with unit_of_work(request.registry.settings) as session:
            session.add(Row(id=ENDS_SESSION))
    except CommitUnknown as error:
        return answer_unknown(error, request)
    raise AssertionError


@pytest.mark.parametrize(
    ("view", "parts"),
    [
        pytest.param(in_commit(ENDS_SESSION), [unknown_view], id="its view"),
        pytest.param(in_commit(ENDS_SESSION), [unknown_tween], id="a tween"),
        pytest.param(catches_unknown, [], id="the view"),
    ],
)
def test_a_write_in_doubt_is_told_whoever_answers(
    doubtful: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    view: Callable[[Request], Any],
    parts: list[Part],
) -> None:
    """Each of them: somebody has to look."""
    with app(doubtful, *PARTS, *parts, index=view) as web:
        for _ in range(2):
            assert web.client.post("/", status=202).text == "own"
    said = told(caplog)
    assert len(said) == 2
    assert all(each.startswith("202 for POST route 'index': The connection was") for each in said)
    assert all("may or may not be stored" in each for each in said)
    levels = {r.levelno for r in caplog.records if r.name == incidents.__name__}
    assert levels == {logging.ERROR}


def test_a_write_in_doubt_that_nobody_answers_is_told_too(
    doubtful: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The server's traceback does not say which request it was."""
    with app(doubtful, *PARTS, index=in_commit(ENDS_SESSION)) as web, pytest.raises(CommitUnknown):
        web.client.post("/")
    assert [each.partition(":")[0] for each in told(caplog)] == ["500 for POST route 'index'"]


def test_a_write_that_was_repeated_is_in_no_doubt(
    doubtful: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It is stored now, once or twice over."""
    with app(doubtful, *PARTS, unknown_view, index=in_commit(ENDS_SESSION)) as web:
        assert web.client.put("/", status=200).text == "1"
    assert told(caplog) == []


def test_a_write_is_in_doubt_whose_repetition_fails(
    doubtful: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The answer tells of the second attempt, and it is the first that may be stored."""

    def view(request: Request) -> str:
        if request.environ["retry.attempt"]:
            raise LookupError
        return in_commit(ENDS_SESSION)(request)

    with app(doubtful, *PARTS, index=view) as web, pytest.raises(LookupError):
        web.client.put("/")
    assert [each.partition(":")[0] for each in told(caplog)] == ["500 for PUT route 'index'"]
