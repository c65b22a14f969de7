"""Who may see the page, who may act, and what no other site can do in their name."""

import json
from collections.abc import Iterator
from html import escape
from typing import Any

import pytest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.interfaces import ISecurityPolicy
from pyramid.security import NO_PERMISSION_REQUIRED
from webtest import TestApp

from pyramid_dbpool import SettingsError
from pyramid_dbpool.status.page import POLICY
from tests.support.reports import holder, pool, report
from tests.support.status_app import SCENES, Host, UserHeader, status_app

BASE = {"sqlalchemy.url": "sqlite:///never.db"}
NAMED = BASE | {"dbpool.status_permission": "look"}
GUEST, ADMIN = {"X-User": "guest"}, {"X-User": "admin"}
SAME = {"Origin": "http://localhost"}
TWO = [report(1), report(2)]
KEY = f"default notes {pool()['database']}"
REFRESH = {"command": "refresh", "pool": KEY}


@pytest.fixture
def host() -> Host:
    """Give a host with two quiet processes."""
    return Host(lambda _now: TWO)


@pytest.fixture
def web(host: Host) -> TestApp:
    """Give an app whose admin may act, and whose guests may look."""
    return TestApp(status_app(host))


def made(settings: dict[str, str], *, policy: Any = None) -> TestApp:
    with Configurator(settings=settings) as config:
        config.include("pyramid_dbpool")
        config.include("pyramid_dbpool.status")
        if policy is not None:
            config.set_security_policy(policy)
    return TestApp(config.make_wsgi_app())


class TestPermission:
    """Whoever sees it is somebody whom the app's policy lets in."""

    def test_it_has_to_be_named(self) -> None:
        """An include alone opens nothing."""
        with pytest.raises(SettingsError, match=r"dbpool\.status_permission is missing") as raised:
            made(BASE, policy=UserHeader())
        assert isinstance(raised.value, ConfigurationError)

    def test_an_app_without_a_policy_does_not_start(self) -> None:
        """Pyramid would let everybody in."""
        with pytest.raises(SettingsError, match="has no security policy") as raised:
            made(NAMED)
        assert isinstance(raised.value, ConfigurationError)
        assert NO_PERMISSION_REQUIRED in str(raised.value)

    def test_the_check_costs_requests_nothing(self, web: TestApp) -> None:
        """With but one subscriber, Pyramid tells of four events in each request: a tenth of it."""
        assert not web.app.registry.has_listeners

    def test_without_a_policy_commands_are_refused_too(self) -> None:
        """Whoever opens the page to everybody may not have meant the commands."""
        everybody = {"dbpool.status_permission": NO_PERMISSION_REQUIRED}
        with pytest.raises(SettingsError, match=r"status_command_permission = 'act'"):
            made(BASE | everybody | {"dbpool.status_command_permission": "act"})

    def test_everybody_may_look_if_that_is_said(self) -> None:
        """In development, by the name that Pyramid has for it."""
        web = made(BASE | {"dbpool.status_permission": NO_PERMISSION_REQUIRED})
        assert "Only the process that has answered is shown" in web.get("/dbpool").text

    def test_a_policy_that_is_set_later_counts(self) -> None:
        """Where the configuration commits by itself, the view is there before it."""
        config = Configurator(settings=NAMED, autocommit=True)
        config.include("pyramid_dbpool")
        config.include("pyramid_dbpool.status")
        config.set_security_policy(UserHeader())
        web = TestApp(config.make_wsgi_app())
        web.get("/dbpool", status=403)
        web.get("/dbpool", headers=GUEST)

    def test_an_app_that_lost_its_policy_lets_nobody_in(self, web: TestApp) -> None:
        """By whatever way: `has_permission` alone would say yes."""
        web.app.registry.unregisterUtility(provided=ISecurityPolicy)
        web.get("/dbpool", headers=ADMIN, status=403)

    @pytest.mark.parametrize("path", ["/dbpool", "/dbpool.json"])
    def test_only_those_with_it_see_anything(self, web: TestApp, host: Host, path: str) -> None:
        """Nobody is asked for the others."""
        web.get(path, status=403)
        web.get(path, headers={"X-User": "mallory"}, status=403)
        assert host.asked == 0
        assert "All is well" in web.get(path, headers=GUEST).text

    def test_the_apps_own_answer_is_for_those_without(self, host: Host) -> None:
        """Such as the way to its login form."""

        def login(request: Any) -> Any:
            request.response.status = 303
            request.response.location = "/login"
            return request.response

        def more(config: Configurator) -> None:
            config.add_forbidden_view(login)

        web = TestApp(status_app(host, also=more))
        assert web.get("/dbpool", status=303).location.endswith("/login")

    def test_a_default_permission_of_the_apps_is_not_asked_for(self, host: Host) -> None:
        """The page has its own."""

        def more(config: Configurator) -> None:
            config.set_default_permission("everything")

        web = TestApp(status_app(host, also=more))
        web.get("/dbpool", headers=GUEST)

    def test_it_is_off_unless_included(self) -> None:
        """No path is taken from an app."""
        with Configurator(settings=BASE) as config:
            config.include("pyramid_dbpool")
        TestApp(config.make_wsgi_app()).get("/dbpool", status=404)

    def test_its_path_can_be_another(self, host: Host) -> None:
        """All that it says of itself follows, also under a prefix."""
        web = TestApp(
            status_app(host, {"dbpool.status_route": "/ops/pools"}),
            extra_environ={"SCRIPT_NAME": "/app"},
        )
        page = web.get("/app/ops/pools", headers=ADMIN)
        assert 'data-path="/app/ops/pools"' in page.text
        assert 'action="/app/ops/pools"' in page.text
        web.get("/app/ops/pools.json", headers=ADMIN)


class TestAnswers:
    """What a browser is told beside the page."""

    @pytest.mark.parametrize("path", ["/dbpool", "/dbpool.json"])
    def test_nothing_of_it_is_kept_or_shown_elsewhere(self, web: TestApp, path: str) -> None:
        """By a proxy, in a frame, by a guess at its type."""
        headers = web.get(path, headers=GUEST).headers
        assert headers["Cache-Control"] == "no-store"
        assert headers["Content-Security-Policy"] == POLICY
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"

    @pytest.mark.parametrize("name", SCENES)
    def test_both_say_the_same(self, name: str) -> None:
        """The page without a script is the one that the script makes."""
        web = TestApp(status_app(Host(lambda _now: SCENES[name](20))))
        data = web.get("/dbpool.json", headers=ADMIN).json
        text = web.get("/dbpool", headers=ADMIN).text
        assert f"<title>{escape(data['title'])}</title>" in text

        def texts(node: Any) -> Iterator[str]:
            if isinstance(node, str):
                yield node
            else:
                for child in node[2:]:
                    yield from texts(child)

        for each in texts(["main", {}, *data["content"]]):
            assert escape(each, quote=False) in text

    def test_what_is_not_to_be_seen_is_said(self, host: Host) -> None:
        """Such as that other processes are not shown."""
        host.note = "Only the process that has answered is shown."
        web = TestApp(status_app(host))
        assert host.note in web.get("/dbpool", headers=GUEST).text

    def test_a_head_and_a_put_get_nothing(self, web: TestApp) -> None:
        """There is a page, its data, and commands."""
        web.put("/dbpool", headers=ADMIN | SAME, status=404)
        web.post("/dbpool.json", headers=ADMIN | SAME, status=404)


class TestCommands:
    """Those who may act, from the page itself."""

    def test_nobody_may_by_default(self, host: Host) -> None:
        """There are no buttons, and no way around them."""
        web = TestApp(status_app(host, {"dbpool.status_command_permission": ""}))
        assert "<form" not in web.get("/dbpool", headers=ADMIN).text
        web.post("/dbpool", REFRESH, headers=ADMIN | SAME, status=403)
        assert host.commands == []

    def test_who_may_look_may_not_act(self, web: TestApp, host: Host) -> None:
        """A guest sees no buttons."""
        assert "<form" not in web.get("/dbpool", headers=GUEST).text
        web.post("/dbpool", REFRESH, headers=GUEST | SAME, status=403)
        assert host.commands == []

    def test_who_may_act_has_to_be_let_in_too(self, host: Host) -> None:
        """A permission for commands is none to see the page."""

        class Acts(UserHeader):
            def permits(self, request: Any, context: object, permission: str) -> bool:
                return permission == "act"

        web = TestApp(status_app(host, policy=Acts()))
        web.post("/dbpool", REFRESH, headers=ADMIN | SAME, status=403)
        assert host.commands == []

    def test_a_form_goes_back_to_the_page(self, web: TestApp, host: Host) -> None:
        """So that nothing is sent again when it is loaded again; the log has who it was."""
        page = web.get("/dbpool", headers=ADMIN)
        form = next(each for each in page.forms.values() if each["command"].value == "refresh")
        answer = form.submit(headers=ADMIN | SAME, status=303)
        assert answer.location == "http://localhost/dbpool"
        assert host.commands == [("refresh", KEY, "admin on the live page", {})]

    def test_the_script_is_told_what_was_done(self, web: TestApp, host: Host) -> None:
        """In words."""
        headers = ADMIN | SAME | {"Accept": "application/json"}
        answer = web.post("/dbpool", REFRESH, headers=headers)
        assert answer.json == {"said": "Pool default is refreshed in 2 processes."}
        host.answers[2] = "does not answer within 0.5 s"
        answer = web.post("/dbpool", REFRESH, headers=headers, status=502)
        assert answer.json == {
            "said": "Pool default is refreshed in 1 process."
            " Process 2 does not answer within 0.5 s."
        }

    def test_a_form_that_failed_says_so_on_the_page(self, web: TestApp, host: Host) -> None:
        """Where there is no script."""
        host.answers[2] = "does not answer within 0.5 s"
        page = web.post("/dbpool", REFRESH, headers=ADMIN | SAME, status=502)
        assert "Process 2 does not answer within 0.5 s." in page.text

    def test_numbers_are_numbers(self, web: TestApp, host: Host) -> None:
        """And are passed on as such."""
        sizes = {"command": "resize", "pool": KEY, "size": "7", "max_overflow": "-1"}
        web.post("/dbpool", sizes, headers=ADMIN | SAME)
        assert host.commands[0][3] == {"size": 7, "max_overflow": -1}
        wrong = web.post("/dbpool", sizes | {"size": "x"}, headers=ADMIN | SAME, status=400)
        assert "size has to be a whole number." in wrong.text
        assert len(host.commands) == 1

    @pytest.mark.parametrize(
        "form", [{}, {"command": "drop", "pool": KEY}, {"command": "pause", "pool": "<b>other"}]
    )
    def test_what_there_is_not_is_refused(
        self, web: TestApp, host: Host, form: dict[str, str]
    ) -> None:
        """A pool may have gone since the page was made."""
        page = web.post("/dbpool", form, headers=ADMIN | SAME, status=400)
        assert "<b>other" not in page.text
        assert host.commands == []

    def test_a_form_that_is_no_text_is_refused(self, web: TestApp, host: Host) -> None:
        """Its bytes are nobody's words."""
        headers = ADMIN | SAME | {"Content-Type": "application/x-www-form-urlencoded"}
        web.post("/dbpool", b"command=%ff&pool=%fe", headers=headers, status=400)
        assert host.commands == []


class TestOtherSites:
    """A page elsewhere sends a form in the name of the admin who looks at it."""

    @pytest.mark.parametrize(
        "said",
        [
            {},
            {"Origin": "null"},
            {"Origin": "https://evil.example"},
            {"Origin": "http://localhost:8080"},
            {"Origin": "https://localhost"},
            {"Origin": "http://localhost.evil.example"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
            {"Sec-Fetch-Site": "none"},
            {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
            {"Referer": "http://localhost/dbpool"},
        ],
        ids=str,
    )
    def test_it_is_refused(self, web: TestApp, host: Host, said: dict[str, str]) -> None:
        """Also one on another port of this machine, and one that says nothing of itself."""
        web.post("/dbpool", REFRESH, headers=ADMIN | said, status=400)
        assert host.commands == []

    @pytest.mark.parametrize("said", [{"Sec-Fetch-Site": "same-origin"}, SAME], ids=str)
    def test_the_page_itself_is_heard(
        self, web: TestApp, host: Host, said: dict[str, str]
    ) -> None:
        """Whatever session factory the app has, and without one."""
        web.post("/dbpool", REFRESH, headers=ADMIN | said)
        assert len(host.commands) == 1

    def test_one_that_says_nothing_is_told_what_is_missing(self, web: TestApp) -> None:
        """A program has to say where it comes from, too."""
        answer = web.post("/dbpool", REFRESH, headers=ADMIN, status=400)
        assert "(Origin is missing)" in answer.text

    def test_an_apps_own_tokens_are_not_asked_for(self, host: Host) -> None:
        """It may ask for them everywhere; here nothing has to be stored."""

        def more(config: Configurator) -> None:
            config.set_default_csrf_options(require_csrf=True)

        web = TestApp(status_app(host, also=more))
        web.post("/dbpool", REFRESH, headers=ADMIN | SAME)
        assert len(host.commands) == 1

    def test_a_get_does_nothing(self, web: TestApp, host: Host) -> None:
        """Whatever is in its query."""
        web.get("/dbpool", REFRESH, headers=ADMIN)
        assert host.commands == []


def test_the_data_is_json(web: TestApp) -> None:
    """For the page's own script."""
    data = json.loads(web.get("/dbpool.json", headers=GUEST).body)
    assert set(data) == {"content", "numbers", "title"}
    assert set(data["numbers"][KEY]) == {"1/0", "2/0"}


def test_letters_of_no_encoding_are_written_out() -> None:
    """As of a file's name that is not UTF-8."""
    strange = [report(1, [pool(holders=[holder("caf\udce9", 1.0, ["caf\udce9.py"])])])]
    shown = TestApp(status_app(Host(lambda _now: strange))).get("/dbpool", headers=GUEST)
    assert r"caf\udce9.py" in shown.text


@pytest.mark.parametrize("prefix", [None, "ops", "/ops/"])
def test_an_app_may_include_it_under_a_prefix(prefix: str | None) -> None:
    """And it is apart from the app's transactions there, too."""
    everybody = {"dbpool.status_permission": NO_PERMISSION_REQUIRED}
    with Configurator(settings=BASE | everybody) as config:
        config.include("pyramid_dbpool")
        config.include("pyramid_dbpool.status", route_prefix=prefix)
    web = TestApp(config.make_wsgi_app())
    path = "/ops/dbpool" if prefix else "/dbpool"
    for each in (path, f"{path}.json"):
        assert web.get(each).request.environ["repoze.tm.active"] is True


def test_a_query_that_is_no_text_is_none(web: TestApp) -> None:
    """Only one word is looked for in it."""
    assert "stop reloading" in web.get("/dbpool?%ff", headers=GUEST).text
    assert "stop reloading" not in web.get("/dbpool?still", headers=GUEST).text


def test_a_form_in_another_charset_is_refused(web: TestApp) -> None:
    """No browser sends one."""
    given = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-7"}
    web.post("/dbpool", b"command=refresh", headers=ADMIN | SAME | given, status=400)
