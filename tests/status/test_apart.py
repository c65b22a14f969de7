"""The page is there while nobody gets a connection, also where the security policy needs one."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError

from pyramid_dbpool.embedded import PrivatePostgres
from pyramid_dbpool.status import apart
from pyramid_dbpool.status.apart import MOST, REMEMBERED, Visitors
from tests.support.status_app import UserHeader
from tests.support.webapp import PARTS, WebApp, app

GUEST = {"X-User": "guest"}


class FromTheDatabase(UserHeader):
    """A policy that looks its users up, as most do."""

    def identity(self, request: Request) -> str | None:
        """Ask the database."""
        user = super().identity(request)
        found: str | None = request.db.scalar(select(text("'guest'")))
        return user if user == found else None

    authenticated_userid = identity


@pytest.fixture
def settings(psycopg_url: str) -> dict[str, Any]:
    """Settings of an app with the page and a pool of two."""
    return {
        "sqlalchemy.url": psycopg_url,
        "sqlalchemy.pool_size": "2",
        "sqlalchemy.max_overflow": "0",
        "dbpool.status_permission": "look",
        "tm.annotate_user": "true",
    }


@pytest.fixture
def web(settings: dict[str, Any]) -> Iterator[WebApp]:
    """Give an app whose policy asks the database."""
    with app(settings, *PARTS, "pyramid_dbpool.status", with_policy(FromTheDatabase())) as made:
        yield made


def with_policy(policy: object) -> Callable[[Configurator], None]:
    def includeme(config: Configurator) -> None:
        config.set_security_policy(policy)

    return includeme


@contextmanager
def held(web: WebApp, patience: float = 0.0) -> Iterator[None]:
    """Hold all connections of the pool; nobody waits for one for long."""
    with ExitStack() as stack, pytest.MonkeyPatch.context() as changed:
        for _place in range(2):
            stack.callback(web.engine.raw_connection().close)
        changed.setattr(apart, "PATIENCE", patience)
        yield


def test_a_policy_that_needs_no_connection_is_not_delayed(settings: dict[str, Any]) -> None:
    """The usual way: the page itself asks for none, whatever pyramid_tm asks for."""
    with (
        app(settings, *PARTS, "pyramid_dbpool.status", with_policy(UserHeader())) as web,
        held(web),
    ):
        assert "2 of 2" in web.get("/dbpool", headers=GUEST).text
        web.get("/dbpool.json", headers=GUEST)
        numbers = web.pool.snapshot()
        assert (numbers.checkouts, numbers.refused) == (2, {})


def test_it_is_in_no_transaction(settings: dict[str, Any]) -> None:
    """pyramid_tm neither begins one nor asks who the user is."""
    seen = []

    class Looks(UserHeader):
        def permits(self, request: Request, context: object, permission: str) -> bool:
            seen.append("tm.active" in request.environ)
            return True

    with app(settings, *PARTS, "pyramid_dbpool.status", with_policy(Looks())) as web:
        web.get("/dbpool", headers=GUEST)
    assert seen == [False]


def test_who_was_let_in_sees_it_when_the_policy_cannot_say(web: WebApp) -> None:
    """Though somebody else holds every connection; nothing of it is left behind."""
    web.get("/dbpool", headers=GUEST)
    with held(web):
        page = web.get("/dbpool", headers=GUEST)
        assert "2 of 2" in page.text and "<form" not in page.text
        assert web.get("/dbpool.json", headers=GUEST).json["title"]
    assert web.checked_out() == 0


def test_strangers_do_not(web: WebApp) -> None:
    """Nor does anybody who says but a little else of himself."""
    web.get("/dbpool", headers=GUEST)
    with held(web):
        for other in (
            {},
            {"X-User": "admin"},
            GUEST | {"Cookie": "a=b"},
            GUEST | {"Authorization": "Basic eDp5"},
        ):
            web.get("/dbpool", headers=other, status=503)
        web.get("/dbpool", headers=GUEST, extra_environ={"REMOTE_ADDR": "10.0.0.1"}, status=503)
        web.get("/dbpool", headers=GUEST, extra_environ={"REMOTE_USER": "x"}, status=503)


def test_nobody_acts_on_what_is_remembered(web: WebApp) -> None:
    """A command waits for the policy."""
    web.get("/dbpool", headers=GUEST)
    with held(web):
        headers = GUEST | {"Origin": "http://localhost"}
        web.client.post("/dbpool", {"command": "pause"}, headers=headers, status=503)


def test_who_is_turned_away_is_forgotten(settings: dict[str, Any]) -> None:
    """A permission that was taken away does not come back with an incident."""
    policy = FromTheDatabase()
    with app(settings, *PARTS, "pyramid_dbpool.status", with_policy(policy)) as web:
        web.get("/dbpool", headers=GUEST)
        policy.permits = lambda request, context, permission: False  # type: ignore[method-assign]
        web.get("/dbpool", headers=GUEST, status=403)
        del policy.permits
        with held(web):
            web.get("/dbpool", headers=GUEST, status=503)


def test_the_policy_waits_for_a_moment_only(web: WebApp, caplog: pytest.LogCaptureFixture) -> None:
    """An incident is looked at now, and not after `pool_timeout`."""
    with held(web, 0.001):
        web.get("/dbpool", headers=GUEST, status=503)
    assert "the deadline of the caller" in caplog.text


@pytest.mark.parametrize("own_view", [False, True])
def test_a_database_that_is_away_hides_nothing(
    settings: dict[str, Any], new_postgres: Callable[..., PrivatePostgres], own_view: bool
) -> None:
    """When connections break, which is no reason to ask again, and when there are none."""
    server, asked = new_postgres(), []

    class Counted(FromTheDatabase):
        def permits(self, request: Request, context: object, permission: str) -> bool:
            asked.append(permission)
            return super().permits(request, context, permission)

    settings |= {"sqlalchemy.url": server.url("psycopg"), "dbpool.liveness": "false"}

    def sorry(config: Configurator) -> None:
        if own_view:
            answer = Response("sorry", status=500)
            config.add_exception_view(lambda error, request: answer, context=OperationalError)

    parts = (*PARTS, "pyramid_dbpool.status", with_policy(Counted()), sorry)
    with app(settings, *parts) as web:
        web.get("/dbpool", headers=GUEST)
        server.stop("fast")
        for _time in range(3):
            page = web.get("/dbpool", headers=GUEST)
        assert "has been away for" in page.text
        assert len(asked) == 4


class TestVisitors:
    """Who was let in, and for how long that counts."""

    def test_it_is_forgotten_in_time(self) -> None:
        """Counted from the last time."""
        now = [0.0]
        visitors = Visitors(lambda: now[0])
        visitors.let_in({"HTTP_COOKIE": "a"})
        now[0] = REMEMBERED - 1
        assert visitors.was_let_in({"HTTP_COOKIE": "a"})
        now[0] = REMEMBERED
        assert not visitors.was_let_in({"HTTP_COOKIE": "a"})

    def test_a_page_and_its_data_are_asked_for_by_the_same(self) -> None:
        """Browsers word the two differently."""
        visitors = Visitors()
        visitors.let_in({"HTTP_COOKIE": "a", "HTTP_ACCEPT": "text/html", "PATH_INFO": "/dbpool"})
        asked = {"HTTP_COOKIE": "a", "HTTP_SEC_FETCH_MODE": "cors", "HTTP_ACCEPT": "*/*"}
        assert visitors.was_let_in(asked | {"HTTP_REFERER": "/dbpool", "REMOTE_PORT": "1"})

    def test_many_visitors_do_not_fill_the_memory(self) -> None:
        """The oldest one goes."""
        visitors = Visitors()
        for number in range(MOST + 1):
            visitors.let_in({"HTTP_COOKIE": f"{number}"})
        assert not visitors.was_let_in({"HTTP_COOKIE": "0"})
        assert visitors.was_let_in({"HTTP_COOKIE": f"{MOST}"})

    def test_threads_do_not_harm_each_other(self) -> None:
        """Requests come side by side."""
        visitors, errors = Visitors(), []

        def run(name: str) -> None:
            try:
                for number in range(300):
                    visitors.let_in({"HTTP_COOKIE": f"{name}{number % 120}"})
                    visitors.turned_away({"HTTP_COOKIE": f"a{number % 120}"})
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=run, args=(name,)) for name in "aaab"]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert errors == []
