"""What is done for a request when it asks for its first session, and that nothing is before."""

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pyramid.config import Configurator
from pyramid.events import NewResponse
from pyramid.request import Request, apply_request_extensions
from pyramid.response import Response
from pyramid.testing import DummyRequest
from sqlalchemy import text

from pyramid_dbpool import ManagedPool, RequestOver, get_engine, unit_of_work
from pyramid_dbpool.engines import probes
from pyramid_dbpool.pool.labels import current_label
from pyramid_dbpool.web.request_db import RequestSessions
from pyramid_dbpool.web.retry import TWEEN
from tests.support.servers.ports import deaf_port
from tests.support.webapp import PARTS, TM, app
from tests.web.request.views import Broken, add, rows


def labels(web: Any) -> list[str]:
    """Say who holds connections of the app's pools now."""
    pools = [get_engine(web.registry.settings, name).pool for name in ("default", "replica")]
    holders = [pool.snapshot().holders for pool in pools if isinstance(pool, ManagedPool)]
    return [each.label for each in [*holders[0], *holders[1]]]


def test_an_app_that_subscribes_to_nothing_is_told_of_nothing(settings: dict[str, Any]) -> None:
    """One subscriber would have Pyramid tell of four events in each request."""
    with app(settings, *PARTS) as web:
        assert not web.registry.has_listeners


def test_a_request_that_asks_for_no_session_has_no_owner_of_any(settings: dict[str, Any]) -> None:
    """Nor has one whose view fails, or answers with a failure."""
    seen: list[Request] = []

    def quiet(request: Request) -> Response:
        seen.append(request)
        assert current_label() is None
        if request.params:
            raise Broken
        return Response(status=404)

    with app(settings, *PARTS, index=quiet) as web:
        web.get(status=404)
        with pytest.raises(Broken):
            web.get("/?fails=1")
    assert [RequestSessions.known(request) for request in seen] == [None, None]


@pytest.mark.parametrize("asks", [False, True])
def test_a_request_goes_without_the_garbage_collector(
    settings: dict[str, Any], asks: bool
) -> None:
    """With its environ, and whatever else hangs on it."""
    seen: list[weakref.ref[Request]] = []

    def index(request: Request) -> Response:
        seen.append(weakref.ref(request))
        if asks:
            rows(request)
        return Response("ok")

    with app(settings, *PARTS, index=index) as web:
        gc.disable()
        try:
            web.router(Request.blank("/").environ, lambda *_: None)
            assert seen[0]() is None
        finally:
            gc.enable()


def test_a_request_that_a_unit_test_made_ends_as_well(settings: dict[str, Any]) -> None:
    """Its environ may be empty, of the method too."""
    with app(settings, *PARTS) as web:
        for request in (DummyRequest(), Request({})):
            request.registry = web.registry
            apply_request_extensions(request)
            rows(request)
            request._process_finished_callbacks()
            with pytest.raises(RequestOver, match="GET ''"):
                rows(request)


def early(handler: Callable[[Request], Response], _registry: Any) -> Any:
    """Answer in the place of the router, with a body that asks for a session when all is over."""

    def tween(request: Request) -> Response:
        if request.path_info == "/early":
            return Response(app_iter=late_body(request))
        return handler(request)

    return tween


def late_body(request: Request) -> Iterator[bytes]:
    yield str(rows(request)).encode()


def include_early(config: Configurator) -> None:
    config.add_tween(f"{__name__}.early")


@pytest.mark.parametrize(
    ("path", "tweens"),
    [("/early", None), ("/early", True), ("/inner", None), ("/inner", True), ("/inner", False)],
)
def test_a_body_that_is_the_first_to_ask_is_told_that_all_is_over(
    settings: dict[str, Any], path: str, tweens: bool | None
) -> None:
    """Whoever has answered: a view or a tween, of the request or (`tweens`) of a subrequest."""

    def inner(request: Request) -> Response:
        return Response(app_iter=late_body(request))

    def outer(request: Request) -> Response:
        answer: Response = request.invoke_subrequest(Request.blank(path), use_tweens=tweens)
        return answer

    with app(settings, *TM, include_early, index=outer, inner=inner) as web:
        with pytest.raises(RequestOver, match=path[1:]):
            web.get("/" if tweens is not None else path)
        assert web.checked_out() == 0


@pytest.mark.parametrize("pool", ["default", "replica"])
def test_who_takes_a_connection_of_the_engine_is_named_all_the_same(
    settings: dict[str, Any], pool: str
) -> None:
    """A request that goes by its sessions: by its route, and no longer than it lasts."""
    settings["sqlalchemy.replica.url"] = settings["sqlalchemy.url"]
    settings["dbpool.replica.read_only"] = "true"
    seen: list[str] = []

    def index(request: Request) -> None:
        with get_engine(settings, pool).connect():
            seen.extend(labels(web))

    with app(settings, *PARTS, index=index) as web:
        web.get()
        assert current_label() is None
        with web.engine.connect():
            seen.extend(labels(web))
    assert seen == ["GET route 'index'", "thread 'MainThread'"]


@pytest.mark.parametrize("read_only", [True, False])
def test_a_unit_of_work_in_a_request_is_named_after_that(
    settings: dict[str, Any], read_only: bool
) -> None:
    """Also where the request has asked for no session of its own."""
    settings["sqlalchemy.replica.url"] = settings["sqlalchemy.url"]
    seen: list[str] = []

    def index(request: Request) -> None:
        with unit_of_work(settings, read_only=read_only) as session:
            session.execute(text("SELECT 1"))
            seen.extend(labels(web))

    with app(settings, *PARTS, index=index) as web:
        web.get()
    assert seen == ["GET route 'index'"]


def test_who_asks_first_after_the_view_is_named(settings: dict[str, Any]) -> None:
    """A subscriber to the response, when the tweens are over."""
    seen: list[str] = []

    def ask(event: NewResponse) -> None:
        rows(event.request)
        seen.extend(labels(web))

    settings["sqlalchemy.replica.url"] = settings["sqlalchemy.url"]
    with app(
        settings, *TM, lambda config: config.add_subscriber(ask, NewResponse), index=lambda _: None
    ) as web:
        web.get()
        assert current_label() is None
    assert seen == ["GET route 'index'"]


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("tweens", [False, True])
def test_a_subrequest_may_be_the_first_to_ask_in_the_transaction(
    settings: dict[str, Any], count: Callable[[], int], tweens: bool, listed: bool
) -> None:
    """What it writes is committed with its request, or rolled back with it.

    Also where an app's own list of tweens has left ours out.
    """
    if not listed:
        settings["pyramid.tweens"] = "pyramid_tm.tm_tween_factory"

    def outer(request: Request) -> None:
        inner = request.copy_get()
        inner.path_info = "/inner"
        request.invoke_subrequest(inner, use_tweens=tweens)
        if request.params:
            raise Broken

    with app(settings, *TM, index=outer, inner=add) as web:
        web.get()
        assert (count(), web.checked_out()) == (1, 0)
        with pytest.raises(Broken):
            web.get("/?fail=1")
        assert (count(), web.checked_out()) == (1, 0)


@pytest.mark.parametrize("listed", [True, False])
def test_what_is_done_at_the_start_needs_no_tween(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture, listed: bool
) -> None:
    """Nor does the end of a request: an app's own list of tweens may have left ours out."""
    tweens = [TWEEN] if listed else []
    settings["pyramid.tweens"] = "\n".join([*tweens, "pyramid.tweens.excview_tween_factory"])
    settings["sqlalchemy.replica.url"] = f"postgresql+psycopg://127.0.0.1:{deaf_port()}/x"
    settings["dbpool.replica.startup_check"] = "warn"

    def first_use(request: Request) -> Response:
        return Response(app_iter=late_body(request))

    with app(settings, "pyramid_dbpool", index=first_use) as web:
        said = [r.getMessage() for r in caplog.records if r.name == probes.__name__]
        assert len(said) == 1 and "pool 'replica' cannot connect" in said[0]
        with pytest.raises(RequestOver):
            web.get()
        assert web.checked_out() == 0
