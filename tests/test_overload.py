"""What a request is answered that gets no connection, and what the log says of it."""

import dataclasses
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy import Engine, make_url, select, text
from sqlalchemy import exc as sa_exc

from pyramid_dbpool import (
    DatabaseUnavailable,
    PoolError,
    PoolTimeout,
    dispose_engine,
    overload,
    warm,
)
from pyramid_dbpool.drivers import ConnectFailure
from pyramid_dbpool.embedded import free_port
from pyramid_dbpool.engines import process_engine
from pyramid_dbpool.labels import holder_label
from pyramid_dbpool.stats import Holder
from pyramid_dbpool.trouble import Trouble
from tests.webapp import Row, WebApp, answering, app, database

PARTS = ("pyramid_retry", "pyramid_tm", "pyramid_dbpool")


@pytest.fixture
def settings(psycopg_url: str) -> dict[str, Any]:
    """Settings of an app whose pool has two connections, and requests little patience."""
    return {
        "sqlalchemy.url": psycopg_url,
        "sqlalchemy.pool_size": "2",
        "sqlalchemy.max_overflow": "0",
        "sqlalchemy.pool_timeout": "60",
        "dbpool.request_timeout": "50ms",
        "tm.manager_hook": "pyramid_tm.explicit_manager",
    }


@pytest.fixture
def away(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of an app whose database is not there, and is not waited for."""
    url = make_url(settings["sqlalchemy.url"]).set(port=free_port())
    settings["sqlalchemy.url"] = url.render_as_string(hide_password=False)
    settings["dbpool.outage_grace"] = "0"
    del settings["dbpool.request_timeout"]
    return settings


def asks(request: Request) -> str:
    attempts.append(request.environ.get("retry.attempt"))
    return str(request.db.scalar(select(1)))


attempts: list[int | None] = []


@pytest.fixture(autouse=True)
def no_attempts() -> None:
    """Count each test's attempts."""
    attempts.clear()


def fill(engine: Engine) -> ExitStack:
    """Hold both connections of a pool."""
    held = ExitStack()
    warm(engine)
    for label in ("GET route 'slow'", "GET route 'slower'"):
        with holder_label(label):
            held.enter_context(engine.connect())
    return held


def with_view(context: type[Exception], **predicates: str) -> Callable[[Configurator], None]:
    def include(config: Configurator) -> None:
        config.add_exception_view(
            lambda error, request: Response(text=f"own {type(error).__name__}", status=500),
            context=context,
            **predicates,
        )

    return include


@pytest.fixture
def full(settings: dict[str, Any]) -> Iterator[Callable[..., WebApp]]:
    """Build an app whose pool is full."""
    with ExitStack() as stack:

        def build(*parts: Any) -> WebApp:
            web = stack.enter_context(app(settings, *PARTS, *parts, index=asks))
            stack.enter_context(fill(web.engine))
            return web

        yield build


def test_a_full_pool_is_503_and_not_tried_again(
    full: Callable[..., WebApp], caplog: pytest.LogCaptureFixture
) -> None:
    """With Retry-After, and a line that says what is short, the numbers and who holds it."""
    web = full()
    answer = web.get(status=503)
    assert answer.headers["Retry-After"] == "1"
    # The pool's own timeout is a minute: it was the request's that was over.
    assert attempts == [0]
    (said,) = [r.getMessage() for r in caplog.records if r.name == overload.__name__]
    for part in (
        "GET route 'index'",
        "Retry-After 1 s",
        "pool 'default'",
        "2 checked out",
        "slow",
        "s, when dbpool.request_timeout = 0.05 s was over (",
        "or raise dbpool.request_timeout.",
    ):
        assert part in said
    assert "\n" not in said


def test_a_full_line_is_503_with_the_holders_in_the_log(
    settings: dict[str, Any], full: Callable[..., WebApp], caplog: pytest.LogCaptureFixture
) -> None:
    """Refused at once."""
    settings |= {"dbpool.max_waiting": "0", "dbpool.min_idle": "2"}
    full().get(status=503)
    (said,) = [r.getMessage() for r in caplog.records if r.name == overload.__name__]
    assert "its 2 connections cannot be had at once, and dbpool.max_waiting = 0 lets" in said
    assert "GET route 'slow' for" in said and "raise sqlalchemy.pool_size" in said


def test_a_refused_write_is_not_warned_of_as_forgotten(
    away: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It was not the app that forgot to commit."""

    def writes(request: Request) -> str:
        request.db.add(Row())
        request.db.flush()
        return ""

    with app(away, "pyramid_dbpool", index=writes) as web:
        web.get(status=503)
    assert "uncommitted" not in caplog.text


def test_a_flood_of_refusals_is_not_a_flood_of_lines(
    full: Callable[..., WebApp], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next line counts those that were left out."""
    web = full()
    for _ in range(4):
        web.get(status=503)
    monkeypatch.setattr(overload, "LOG_EVERY", 0.0)
    web.get(status=503)
    said = [r.getMessage() for r in caplog.records if r.name == overload.__name__]
    assert len(said) == 2
    assert "(3 more since the last such line)" in said[1]


def test_an_outage_is_503(away: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """Retry-After is not less than a second; the log has the server's words."""
    with app(away, *PARTS, index=asks) as web:
        assert web.get(status=503).headers["Retry-After"] == "1"
        assert attempts == [0]
    assert "unreachable" in caplog.text


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


@pytest.mark.parametrize("poolclass", ["NullPool", "QueuePool"])
def test_an_outage_is_503_with_sqlalchemys_pools_too(away: dict[str, Any], poolclass: str) -> None:
    """They raise DatabaseUnavailable as ours does."""
    for keyword in ("pool_size", "max_overflow", "pool_timeout"):
        del away[f"sqlalchemy.{keyword}"]
    del away["dbpool.outage_grace"]
    away["sqlalchemy.poolclass"] = poolclass
    with app(away, *PARTS, index=asks) as web:
        assert web.get(status=503).headers["Retry-After"] == "1"
        assert attempts == [0]
        with pytest.raises(DatabaseUnavailable, match="pool 'default'"):
            web.engine.connect()


def test_a_full_pool_of_sqlalchemys_is_503(settings: dict[str, Any]) -> None:
    """Its TimeoutError is none of ours."""
    settings |= {"sqlalchemy.poolclass": "QueuePool", "sqlalchemy.pool_timeout": "1s"}
    with app(settings, *PARTS, index=asks) as web, fill(web.engine):
        assert web.get(status=503).headers["Retry-After"] == "1"


def test_nobody_is_told_to_come_back_for_a_wrong_configuration(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a person who has to come."""
    nowhere = sqlite_url.replace("test_", "no/such/folder/test_")
    with app({"sqlalchemy.url": nowhere}, *PARTS, index=asks) as web:
        answer = web.get(status=503)
    assert "Retry-After" not in answer.headers
    assert "no Retry-After" in caplog.text and "sqlalchemy.url" in caplog.text


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


def test_a_pool_that_lets_nobody_wait_says_what_an_outage_is(
    away: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever opens for himself is refused as those are for whom it is done."""
    away |= {"sqlalchemy.pool_timeout": "0", "dbpool.outage_grace": "10"}
    with app(away, *PARTS, index=asks) as web:
        for _ in range(3):
            web.get(status=503)
        assert web.engine.pool.trouble is not None  # type: ignore[attr-defined]
    said = [r.getMessage() for r in caplog.records if r.name == "pyramid_dbpool.outages"]
    assert len(said) == 1 and "unreachable" in said[0]


def test_a_programs_error_is_no_outage_where_nobody_waits(away: dict[str, Any]) -> None:
    """It would hide what has to be mended."""

    def broken() -> None:
        raise LookupError("no such secret")

    away |= {"sqlalchemy.pool_timeout": "0", "sqlalchemy.creator": broken}
    with app(away) as web, pytest.raises(LookupError):
        web.engine.connect()


def test_a_wrong_configuration_is_said_where_nobody_waits(sqlite_url: str) -> None:
    """And not taken for an outage."""
    nowhere = sqlite_url.replace("test_", "no/such/folder/test_")
    with app({"sqlalchemy.url": nowhere, "sqlalchemy.pool_timeout": "0"}) as web:
        with pytest.raises(DatabaseUnavailable, match=r"check sqlalchemy\.url"):
            web.engine.connect()
        assert web.engine.pool.trouble is None  # type: ignore[attr-defined]


def test_a_refusal_says_the_same_in_another_process(away: dict[str, Any]) -> None:
    """Celery and multiprocessing hand errors on."""
    with app(away, *PARTS) as web, pytest.raises(DatabaseUnavailable) as caught:
        web.engine.connect()
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value) and "\n" not in str(copy)
    assert (copy.pool_name, type(copy.orig)) == ("default", type(caught.value.orig))
    full = PoolTimeout("full")
    full.pool_name = "jobs"
    copy = pickle.loads(pickle.dumps(full))
    assert (type(copy), str(copy), copy.pool_name) == (PoolTimeout, "full", "jobs")


@pytest.mark.parametrize(("lasted", "seconds"), [(-1.0, 1), (29.5, 30), (300.0, 60)])
@pytest.mark.parametrize("kind", [ConnectFailure.UNREACHABLE, ConnectFailure.SATURATED])
def test_retry_after_is_as_long_as_the_server_was_away_or_full(
    settings: dict[str, Any], kind: ConnectFailure, lasted: float, seconds: int
) -> None:
    """But a second, and nobody knows more than a minute ahead."""
    made = process_engine(settings)
    trouble = Trouble(kind, time.monotonic() - lasted, OSError("away"))
    made.engine.pool._service.opener.trouble = trouble  # type: ignore[attr-defined]
    for error in (PoolTimeout("late"), DatabaseUnavailable.saying("away", OSError("away"))):
        assert overload.estimate(made, error) == seconds
    dispose_engine(settings)


def test_a_pool_without_limit_has_an_estimate_too(settings: dict[str, Any]) -> None:
    """Its callers can only be late because the server is slow."""
    settings |= {"sqlalchemy.pool_size": "0", "sqlalchemy.max_overflow": "-1"}
    assert overload.estimate(process_engine(settings), PoolTimeout("late")) == 1
    dispose_engine(settings)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (sa_exc.TimeoutError(), ": TimeoutError"),
        (sa_exc.TimeoutError("two\nlines", code="3o7r"), ": two lines"),
        (DatabaseUnavailable.saying("away", OSError(), "another"), ": away"),
    ],
)
def test_a_refusal_by_a_pool_that_is_not_the_apps_is_503(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture, error: Exception, said: str
) -> None:
    """An app may have engines of its own."""

    def refused(request: Request) -> str:
        raise error

    with app(settings, *PARTS, index=refused) as web:
        assert web.get(status=503).headers["Retry-After"] == "1"
    (line,) = [r.getMessage() for r in caplog.records if r.name == overload.__name__]
    assert line.endswith(f"Retry-After 1 s{said}")


def test_each_kind_of_refusal_has_its_own_lines(caplog: pytest.LogCaptureFixture) -> None:
    """An outage is not left out because a pool was full a moment ago."""
    written = overload._FloodLog()
    for kind in ("full", "away", "full"):
        written.write(("default", kind), Request.blank("/"), "Retry-After 1 s", kind)
    assert [r.getMessage()[-4:] for r in caplog.records] == ["full", "away"]


def test_a_notfound_view_that_asks_is_refused_as_a_view_is(full: Callable[..., WebApp]) -> None:
    """An exception view's own errors are asked about over all of them."""

    def include(config: Configurator) -> None:
        config.add_notfound_view(lambda request: Response(asks(request)))

    full(include).get("/nowhere", status=503)


@pytest.mark.parametrize("use_tweens", [False, True])
def test_a_subrequest_is_refused_as_its_request_is(
    full: Callable[..., WebApp], use_tweens: bool
) -> None:
    """With and without tweens of its own."""

    def sub(request: Request) -> Response:
        return request.invoke_subrequest(Request.blank("/"), use_tweens=use_tweens)

    def include(config: Configurator) -> None:
        config.add_route("sub", "/sub")
        config.add_view(sub, route_name="sub")

    full(include).get("/sub", status=503)


def test_the_longer_the_line_the_later(settings: dict[str, Any]) -> None:
    """The estimate: those who wait, at the pace of the holds, over the connections."""
    with app(settings, *PARTS) as web, database(settings["sqlalchemy.url"]):
        seen = web.engine.pool.snapshot()  # type: ignore[attr-defined]
        assert overload.estimate(process_engine(settings), PoolTimeout("")) == 1
        hold = dataclasses.replace(seen.hold, count=10, sum_seconds=20.0)
        busy = dataclasses.replace(seen, hold=hold, waiting=9, capacity=4)
        assert overload._line_seconds(busy) == 2.0 * 10 / 4


def test_a_connection_that_is_held_for_long_counts_for_the_estimate(
    settings: dict[str, Any],
) -> None:
    """Those that are out now may be nothing like those that came back before."""
    with app(settings, *PARTS) as web, database(settings["sqlalchemy.url"]):
        seen = web.engine.pool.snapshot()  # type: ignore[attr-defined]
        hold = dataclasses.replace(seen.hold, count=10, sum_seconds=0.1)
        holders = (Holder("GET route 'slow'", 30.0), Holder("GET route 'slower'", 50.0))
        busy = dataclasses.replace(seen, hold=hold, waiting=0, capacity=2, holders=holders)
        assert overload._line_seconds(busy) == 40.0 / 2
