"""Tweens of the app, whose commits ours has to see."""

from collections.abc import Callable
from typing import Any

import pytest
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
from pyramid_retry import RetryableException
from sqlalchemy.exc import OperationalError

from pyramid_dbpool.web import retry
from tests.support.webapp import PARTS, app
from tests.web.retry.views import at_first, lose_connection, number, ours_committed


def audit_tween_factory(handler: Callable[[Request], Response], registry: Any) -> Any:
    """Return a tween that commits before anybody else has a say."""

    def tween(request: Request) -> Response:
        ours_committed(request)
        return handler(request)

    return tween


def audit(config: Configurator) -> None:
    config.add_tween(f"{__name__}.audit_tween_factory")


def test_what_a_tween_of_the_app_has_committed_is_stored(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """Ours is over those that are added after it."""
    view = at_first(lose_connection)
    with app(settings, *PARTS, audit, index=view) as web:
        with pytest.raises(OperationalError):
            web.client.post("/")
        assert count() == 1


def commit_now(config: Configurator) -> None:
    config.commit()


def test_tweens_that_are_added_after_a_commit_are_warned_of(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """They are over ours, which so does not see what they commit."""
    with app(settings, *PARTS, commit_now, audit):
        pass
    (said,) = [r.getMessage() for r in caplog.records if r.name == retry.__name__]
    assert said.startswith(f"{__name__}.audit_tween_factory: added after a config.commit()")


def test_nobody_is_warned_of_a_second_attempt_where_there_is_none(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Without pyramid_retry, that is."""
    with app(settings, "pyramid_tm", "pyramid_dbpool", commit_now, audit):
        pass
    assert [r for r in caplog.records if r.name == retry.__name__] == []


def test_nobody_is_warned_of_tweens_where_they_belong(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Under ours, or where the app's own list has put them."""
    settings["dbpool.readiness_route"] = "/ready"
    with app(settings, *PARTS, audit):
        pass
    settings["pyramid.tweens"] = f"{__name__}.audit_tween_factory {retry.TWEEN}"
    with app(settings, *PARTS, commit_now, audit):
        pass
    assert [r for r in caplog.records if r.name == retry.__name__] == []


def impatient_tween_factory(handler: Callable[[Request], Response], registry: Any) -> Any:
    """Return a tween that reads the body, and has the first attempt of a request end there."""

    def tween(request: Request) -> Response:
        if number(request) == 0:
            request.environ["wsgi.input"].read()
            raise RetryableException
        return handler(request)

    return tween


def impatient(config: Configurator) -> None:
    config.add_tween(f"{__name__}.impatient_tween_factory")


def test_a_body_is_read_from_its_beginning_where_ours_had_no_part_in_the_first_attempt(
    settings: dict[str, Any],
) -> None:
    """A tween over ours has read it, and asked for another attempt."""

    def index(request: Request) -> Any:
        return request.environ["wsgi.input"].read().decode()

    with app(settings, *PARTS, commit_now, impatient, index=index) as web:
        assert web.client.post("/", b"all of it").text == "all of it"
