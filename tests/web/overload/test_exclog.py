"""What pyramid_exclog logs beside our line: nothing for a 503, once it is told which errors."""

from collections.abc import Callable
from typing import Any

import pytest
from pyramid.config import Configurator
from pyramid.request import Request

from pyramid_dbpool import DatabaseUnavailable, PoolTimeout
from pyramid_dbpool.web import incidents
from tests.support.webapp import PARTS, WebApp, app
from tests.web.overload.test_own_views import with_policy
from tests.web.overload.views import asks, attempts
from tests.web.retry.views import lose_connection

IGNORE = """
    pyramid.httpexceptions.WSGIHTTPException
    pyramid_dbpool.PoolTimeout
    pyramid_dbpool.DatabaseUnavailable
"""


def over_tm(config: Configurator) -> None:
    """Have its tween where it goes by itself."""
    config.include("pyramid_exclog")


def under_tm(config: Configurator) -> None:
    """Have its tween where h, lms and checkmate do, inside of the transaction."""
    config.add_tween("pyramid_exclog.exclog_tween_factory", under="pyramid_tm.tm_tween_factory")
    config.include("pyramid_exclog")


both_places = pytest.mark.parametrize("place", [over_tm, under_tm])


def logged(caplog: pytest.LogCaptureFixture) -> list[type[BaseException] | None]:
    """Return the errors of which it wrote a traceback."""
    records = [each for each in caplog.records if each.name.endswith("exc_logger")]
    return [each.exc_info[0] for each in records if each.exc_info]


@both_places
@pytest.mark.parametrize("ignore", ["", IGNORE], ids=["as it is", "ignored"])
def test_a_full_pool_is_a_traceback_until_it_is_ignored(
    settings: dict[str, Any],
    full: Callable[..., WebApp],
    caplog: pytest.LogCaptureFixture,
    place: Callable[[Configurator], None],
    ignore: str,
) -> None:
    """Our own line stays."""
    settings |= {"exclog.ignore": ignore} if ignore else {}
    full(place).get(status=503)
    assert logged(caplog) == ([] if ignore else [PoolTimeout])
    assert [each.name for each in caplog.records].count(incidents.__name__) == 1


@both_places
@pytest.mark.parametrize("ignore", ["", IGNORE], ids=["as it is", "ignored"])
def test_an_outage_is_a_traceback_until_it_is_ignored(
    away: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    place: Callable[[Configurator], None],
    ignore: str,
) -> None:
    """Our own line stays."""
    settings = away | ({"exclog.ignore": ignore} if ignore else {})
    with app(settings, *PARTS, place, index=asks) as web:
        web.get(status=503)
    assert logged(caplog) == ([] if ignore else [DatabaseUnavailable])
    assert [each.name for each in caplog.records].count(incidents.__name__) == 1


@both_places
def test_a_lost_connection_is_a_traceback_for_each_attempt(
    settings: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    place: Callable[[Configurator], None],
) -> None:
    """Also where the next one succeeds: it looks under what tries again."""

    def view(request: Request) -> str:
        asks(request)
        if len(attempts) == 1:
            lose_connection(request)
        return "served"

    settings |= {"exclog.ignore": IGNORE, "dbpool.request_timeout": "off"}
    with app(settings, *PARTS, place, index=view) as web:
        assert web.get().text == "served"
    assert len(logged(caplog)) == 1


@pytest.mark.filterwarnings("ignore:The new security policy has deprecated")
@both_places
@pytest.mark.parametrize("ignore", ["", IGNORE], ids=["as it is", "ignored"])
def test_who_is_refused_is_not_asked_for(
    away: dict[str, Any], place: Callable[[Configurator], None], ignore: str
) -> None:
    """With `extra_info` it looks the user up, in the database that has just refused."""
    settings = away | {"exclog.extra_info": "true", "tm.annotate_user": "false"}
    settings |= {"exclog.ignore": ignore} if ignore else {}
    with app(settings, *PARTS, place, with_policy, index=asks) as web:
        web.get(status=503)
    assert len(attempts) == (1 if ignore else 2)
