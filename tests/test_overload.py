"""What a request is answered that gets no connection, and what the log says of it."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy import Engine, make_url, select
from sqlalchemy import exc as sa_exc

from pyramid_dbpool import DatabaseUnavailable, PoolTimeout, overload, warm
from pyramid_dbpool.embedded import free_port
from pyramid_dbpool.engines import process_engine
from pyramid_dbpool.labels import holder_label
from pyramid_dbpool.stats import Holder
from tests.webapp import Row, WebApp, app, database

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


def with_view(context: type[Exception]) -> Callable[[Configurator], None]:
    def include(config: Configurator) -> None:
        config.add_exception_view(
            lambda error, request: Response(text=f"own {type(error).__name__}", status=500),
            context=context,
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
    assert said.count("ongest holders") == 1


def test_a_full_line_is_503_with_the_holders_in_the_log(
    settings: dict[str, Any], full: Callable[..., WebApp], caplog: pytest.LogCaptureFixture
) -> None:
    """Refused at once."""
    settings |= {"dbpool.max_waiting": "0", "dbpool.min_idle": "2"}
    full().get(status=503)
    (said,) = [r.getMessage() for r in caplog.records if r.name == overload.__name__]
    assert "dbpool.max_waiting" in said
    assert "2 of 2 connections checked out" in said and "GET route 'slow' for" in said


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
        (PoolTimeout, False),
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
    assert answer.text.startswith("own") is (own or context is PoolTimeout)


def test_an_apps_view_for_operational_errors_gets_the_outage(away: dict[str, Any]) -> None:
    """It has had it before."""
    with app(away, *PARTS, with_view(sa_exc.OperationalError), index=asks) as web:
        assert web.get(status=500).text == "own DatabaseUnavailable"


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
