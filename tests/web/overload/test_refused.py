"""What a request is answered that gets no connection, and what the log says of it."""

import pickle
from collections.abc import Callable
from typing import Any

import pytest
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy import exc as sa_exc

from pyramid_dbpool import DatabaseUnavailable, PoolTimeout, dispose_engine, get_engine
from pyramid_dbpool.events import Kind
from pyramid_dbpool.web import incidents
from tests.support.happened import Happened
from tests.support.webapp import PARTS, Row, WebApp, app
from tests.web.overload.views import asks, attempts, fill, told


def test_a_full_pool_is_503_and_not_tried_again(
    full: Callable[..., WebApp], caplog: pytest.LogCaptureFixture, happened: Happened
) -> None:
    """With Retry-After, and a line that says what is short, the numbers and who holds it."""
    web = full()
    answer = web.get(status=503)
    assert answer.headers["Retry-After"] == "1"
    # The pool's own timeout is a minute: it was the request's that was over.
    assert attempts == [0]
    (said,) = told(caplog)
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
    (event,) = happened(Kind.REFUSED)
    assert (event.pool, event.text) == ("default", said)
    assert isinstance(event.fields["seconds"], float)
    numbers = {
        "label": "GET route 'index'",
        "status": 503,
        "reason": "PoolTimeout",
        "left_out": 0,
        "in_use": 2,
        "waiting": 0,
    }
    assert numbers.items() < event.fields.items()


def test_a_full_line_is_503_with_the_holders_in_the_log(
    settings: dict[str, Any],
    full: Callable[..., WebApp],
    caplog: pytest.LogCaptureFixture,
    happened: Happened,
) -> None:
    """Refused at once."""
    settings |= {"dbpool.max_waiting": "0", "dbpool.min_idle": "2"}
    full().get(status=503)
    (said,) = told(caplog)
    assert "its 2 connections cannot be had at once, and dbpool.max_waiting = 0 lets" in said
    assert "GET route 'slow' for" in said and "raise sqlalchemy.pool_size" in said
    (event,) = happened(Kind.REFUSED)
    numbers = {"reason": "PoolLineFull", "in_use": 2, "waiting": 0}
    assert numbers.items() < event.fields.items()


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
    monkeypatch.setattr(incidents, "LOG_EVERY", 0.0)
    web.get(status=503)
    said = told(caplog)
    assert len(said) == 2
    assert "(3 more since the last such line)" in said[1]


def test_an_outage_is_503(away: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """Retry-After is not less than a second; the log has the server's words."""
    with app(away, *PARTS, index=asks) as web:
        assert web.get(status=503).headers["Retry-After"] == "1"
        assert attempts == [0]
    assert "unreachable" in caplog.text


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


def test_a_pool_that_lets_nobody_wait_says_what_an_outage_is(
    away: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever opens for himself is refused as those are for whom it is done."""
    away |= {"sqlalchemy.pool_timeout": "0", "dbpool.outage_grace": "10"}
    with app(away, *PARTS, index=asks) as web:
        for _ in range(3):
            web.get(status=503)
        assert web.pool.outage is not None
    said = [r.getMessage() for r in caplog.records if r.name == "pyramid_dbpool.pool.outage"]
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
        assert web.pool.outage is None


@pytest.mark.parametrize("pool", [{}, {"sqlalchemy.poolclass": "NullPool"}])
def test_a_wrong_configuration_names_the_setting_that_is_there(
    sqlite_url: str, pool: dict[str, Any]
) -> None:
    """Where the URL stands under another key, in SQLAlchemy's own pools too."""
    nowhere = sqlite_url.replace("test_", "no/such/folder/test_")
    settings = {"dbpool.url_setting": "database_url", "database_url": nowhere, **pool}
    # The second time from the pool that a dispose has made.
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable, match="check database_url"):
            get_engine(settings).connect()
        get_engine(settings).dispose()
    dispose_engine(settings)


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
    (line,) = told(caplog)
    assert line.endswith(f"Retry-After 1 s{said}")


def test_each_kind_of_refusal_has_its_own_lines(caplog: pytest.LogCaptureFixture) -> None:
    """An outage is not left out because a pool was full a moment ago."""
    log = incidents.IncidentLog()
    for error in (
        PoolTimeout("full"),
        DatabaseUnavailable.saying("away", OSError()),
        PoolTimeout("full"),
    ):
        met = incidents.Incidents({})
        met.note(error)
        log.write(met, Request.blank("/"), Response(status=503))
    assert [r.getMessage()[-4:] for r in caplog.records] == ["full", "away"]


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


def test_nobody_is_told_to_come_back_for_a_wrong_configuration(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a person who has to come."""
    nowhere = sqlite_url.replace("test_", "no/such/folder/test_")
    with app({"sqlalchemy.url": nowhere}, *PARTS, index=asks) as web:
        answer = web.get(status=503)
    assert "Retry-After" not in answer.headers
    assert "no Retry-After" in caplog.text and "sqlalchemy.url" in caplog.text
