"""request.db in what runs around a view: tweens, subscribers, callbacks, subrequests, scripts."""

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from pyramid.config import Configurator
from pyramid.events import NewResponse
from pyramid.request import Request
from pyramid.response import Response
from pyramid.scripting import prepare
from pyramid.tweens import EXCVIEW, INGRESS
from sqlalchemy import insert, select, text

from tests.support.webapp import TM, Row, app
from tests.web.request.views import Broken, add, commits, flushes, rows


def test_a_new_response_subscriber_may_query(settings: dict[str, Any]) -> None:
    """It runs after the transaction has ended; its connection goes back all the same."""
    seen: list[int] = []

    def include(config: Configurator) -> None:
        config.add_subscriber(lambda event: seen.append(rows(event.request)), NewResponse)

    with app(settings, *TM, include, index=add) as web:
        web.get()
        assert (seen, web.checked_out()) == ([1], 0)


@pytest.mark.parametrize("breaks", [False, True], ids=["returns", "raises"])
@pytest.mark.parametrize("used_before", [False, True], ids=["first-use", "used-before"])
def test_a_finished_callback_may_query(
    settings: dict[str, Any], breaks: bool, used_before: bool
) -> None:
    """Also one that was added first, or that raises: the connection goes back."""

    def callback(request: Request) -> None:
        rows(request)
        if breaks:
            raise Broken

    def view(request: Request) -> None:
        request.add_finished_callback(callback)
        if used_before:
            add(request)

    with app(settings, *TM, index=view) as web:
        if breaks:
            with pytest.raises(Broken) as raised:
                web.get()
            # The traceback keeps the request alive: nothing is left to the
            # garbage collector.
            assert raised.value.__traceback__ and web.checked_out() == 0
        else:
            web.get()
        assert web.checked_out() == 0


def test_a_callback_of_an_outer_tween_that_raises_leaks_nothing(settings: dict[str, Any]) -> None:
    """It was added before the request had any session, and Pyramid drops those after it."""

    def include(config: Configurator) -> None:
        config.add_tween(f"{__name__}.CallbackTween", under=INGRESS)

    with app(settings, *TM, include, index=add) as web:
        with pytest.raises(Broken) as raised:
            web.get()
        assert raised.value.__traceback__ and web.checked_out() == 0


class CallbackTween:
    """Adds a finished callback that raises, before anything else happens."""

    def __init__(self, handler: Callable[[Request], Response], registry: object) -> None:
        self.handler = handler

    def __call__(self, request: Request) -> Response:
        def fail(request: Request) -> None:
            raise Broken

        request.add_finished_callback(fail)
        return self.handler(request)


def test_after_an_abort_a_subscriber_writes_on_its_own(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """The vetoed transaction is over, although it calls itself active still."""

    def include(config: Configurator) -> None:
        config.add_subscriber(lambda event: commits(event.request), NewResponse)

    def view(request: Request) -> Response:
        add(request)
        return Response(status=400)

    settings["tm.commit_veto"] = "pyramid_tm.default_commit_veto"
    with app(settings, *TM, include, index=view) as web:
        web.get(status=400)
        assert (count(), web.checked_out()) == (1, 0)


def test_an_outer_tween_may_query(settings: dict[str, Any]) -> None:
    """Before the transaction begins and after it has ended."""
    outer_tween.seen.clear()
    with app(settings, *TM, include_outer_tween, index=add) as web:
        web.get()
        assert (outer_tween.seen, web.checked_out()) == ([0, 1], 0)


@pytest.mark.parametrize(
    "write",
    ["raw", "core", "dirty", "hook"],
)
def test_what_is_written_after_an_outer_tween_has_read_is_committed(
    settings: dict[str, Any], count: Callable[[], int], write: str
) -> None:
    """The session was in a transaction already when pyramid_tm began its own."""

    def view(request: Request) -> None:
        if write == "raw":
            request.db.execute(text("INSERT INTO rows (id) VALUES (7)"))
        elif write == "core":
            request.db.execute(insert(Row).values(id=7))
        elif write == "dirty":
            request.db.get(Row, 3).id = 7
        else:
            statement = text("INSERT INTO rows (id) VALUES (7)")
            hook = request.tm.get().addBeforeCommitHook
            hook(lambda: request.db.execute(statement))

    with app(settings, *TM, include_outer_tween, index=view) as web:
        with web.engine.begin() as connection:
            connection.execute(insert(Row).values(id=3))
        web.get()
        assert web.checked_out() == 0
        with web.engine.connect() as connection:
            assert 7 in connection.scalars(select(Row.id)).all()


class outer_tween:
    """A tween around pyramid_tm's that counts rows before and after."""

    seen: ClassVar[list[int]] = []

    def __init__(self, handler: Callable[[Request], Response], registry: object) -> None:
        self.handler = handler

    def __call__(self, request: Request) -> Response:
        self.seen.append(rows(request))
        response = self.handler(request)
        self.seen.append(rows(request))
        return response


def include_outer_tween(config: Configurator) -> None:
    over = ("pyramid_tm.tm_tween_factory", EXCVIEW)
    config.add_tween(f"{__name__}.outer_tween", under=INGRESS, over=over)


def test_a_subrequest_without_tweens_gives_its_connection_back(settings: dict[str, Any]) -> None:
    """It has no transaction manager at work; it reads, and ends."""

    def outer(request: Request) -> str:
        answer = request.invoke_subrequest(Request.blank("/inner")).text
        assert web.checked_out() == 0
        return str(answer)

    with app(settings, *TM, index=outer, inner=rows) as web:
        assert web.get().text == "0"
        assert web.checked_out() == 0


@pytest.mark.parametrize("listed", [True, False], ids=["all tweens", "none of ours"])
@pytest.mark.parametrize("tweens", [False, True])
def test_a_subrequest_that_shares_the_environ_shares_the_transaction(
    settings: dict[str, Any], count: Callable[[], int], tweens: bool, listed: bool
) -> None:
    """What it writes is committed with the request's own work, or rolled back with it."""
    if not listed:
        settings["pyramid.tweens"] = f"pyramid_tm.tm_tween_factory {EXCVIEW}"

    def outer(request: Request) -> None:
        add(request)
        inner = request.copy_get()
        inner.path_info = "/inner"
        request.invoke_subrequest(inner, use_tweens=tweens)
        flushes(request)
        if request.params:
            raise Broken

    with app(settings, *TM, index=outer, inner=add) as web:
        web.get()
        assert (count(), web.checked_out()) == (3, 0)
        with pytest.raises(Broken):
            web.get("/?fail=1")
        assert (count(), web.checked_out()) == (3, 0)


def test_a_script_gives_its_connection_back(settings: dict[str, Any]) -> None:
    """bootstrap() and prepare() end with closer()."""
    with app(settings, *TM) as web:
        with prepare(registry=web.registry) as env:
            assert rows(env["request"]) == 0
            assert web.checked_out() == 1
        assert web.checked_out() == 0
