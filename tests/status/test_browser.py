"""The page in a browser: what people see, do and are spared.

The pictures of the documentation are written to the folder WRITE_PICTURES.
"""

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from tests.support.chromium import chromium
from tests.support.makers import wait_for
from tests.support.reports import event, holder, pool, report
from tests.support.status_app import SCENES, Host, status_app

pytestmark = pytest.mark.programs

SECOND = 1000  # milliseconds
EVERY = 1500  # milliseconds between two questions
expect.set_options(timeout=60 * SECOND)
PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
# What docs/windows.rst shows; the others are whole pages.
DOCUMENTED = {"exhausted", "dark", "phone"}
# This machine, as a server that is not trusted more than others.
OTHER_NAME = "pools.test"
# Light on dark or dark on light: what WCAG 2 asks of texts (AA, 1.4.3).
CONTRAST = """() => {
  const rgb = (css) => css.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((each) => each / 255)
    .map((each) => each <= .04045 ? each / 12.92 : ((each + .055) / 1.055) ** 2.4)
    .reduce((sum, each, at) => sum + each * [.2126, .7152, .0722][at], 0);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const [r, g, b, a = 1] = rgb(getComputedStyle(node).backgroundColor);
      if (a === 1) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const node of document.querySelectorAll("body *:not(script, style, noscript)")) {
    const own = [...node.childNodes].some((each) => each.nodeType === 3 && each.data.trim());
    if (!own || !node.checkVisibility()) continue;
    const [one, two] = [light(rgb(getComputedStyle(node).color)), light(behind(node))];
    const ratio = (Math.max(one, two) + .05) / (Math.min(one, two) + .05);
    if (ratio < 4.5) poor.push([node.outerHTML.slice(0, 80), ratio]);
  }
  return poor;
}"""


class Server(ThreadingMixIn, WSGIServer):
    """Answers beside a question that is still open."""

    daemon_threads = True


class Quiet(WSGIRequestHandler):
    """Says nothing of each request."""

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve an app on a port of its own; yield its address."""
    with make_server("127.0.0.1", 0, app, Server, Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Give Debian's Chromium."""
    with chromium(OTHER_NAME) as found:
        yield found


@pytest.fixture
def host() -> Host:
    """Give a quiet host; tests change what there is to be seen."""
    return Host(SCENES["calm"])


@pytest.fixture
def address(host: Host) -> Iterator[str]:
    """Serve the page."""
    with serving(status_app(host)) as found:
        yield found


OpenPage = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, address: str) -> Iterator[OpenPage]:
    """Open the page as an admin; none may have complained, or asked for more than its data."""
    complaints: list[str] = []
    contexts: list[BrowserContext] = []

    def window(clock: bool = False, name: str = "127.0.0.1", **options: Any) -> Page:
        context = browser.new_context(extra_http_headers={"X-User": "admin"}, **options)
        contexts.append(context)
        page = context.new_page()
        url = address.replace("127.0.0.1", name) + "/dbpool"
        if clock:
            page.clock.install()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on(
            "request",
            lambda asked: (
                None
                if asked.url.partition("?")[0] in (url, f"{url}.json")
                else complaints.append(asked.url)
            ),
        )
        page.goto(url)
        if options.get("java_script_enabled", True):
            expect(page.locator("#live")).to_have_text("live")
        return page

    yield window
    for context in contexts:
        context.close()
    unexpected = [each for each in complaints if "net::ERR" not in each and "502" not in each]
    assert set(unexpected) <= {"data:,"}


def passes(page: Page, host: Host, times: int = 1) -> None:
    """Let the page ask so many times, without the time that this takes."""
    for _time in range(times):
        asked = host.asked
        page.clock.run_for(EVERY)
        wait_for(partial(host.was_asked_after, asked))
        expect(page.locator("#live")).to_have_text("live")


@pytest.mark.parametrize("scene", SCENES)
def test_with_and_without_a_script_it_is_the_same(
    open_page: OpenPage, host: Host, scene: str
) -> None:
    """The script shows what the server has written, but for its lines."""
    host.scene = lambda _now: SCENES[scene](20)
    without = open_page(java_script_enabled=False)
    script = open_page()
    expect(script.locator("svg.trend path.line").first).to_be_attached()

    def texts(page: Page) -> list[str]:
        found: list[str] = page.locator(
            "main :is(h1, h2, h3, p, li, td, th, summary)"
        ).all_text_contents()
        return found

    assert texts(without) == texts(script)
    assert without.title() == script.title()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("scene", SCENES)
def test_every_text_can_be_read(open_page: OpenPage, host: Host, scene: str, scheme: str) -> None:
    """In light and dark, and nothing sticks out of a phone."""
    host.scene = lambda _now: SCENES[scene](20)
    host.silent = {4714: "does not answer within 0.5 s"}
    page = open_page(color_scheme=scheme, **PHONE)
    for summary in page.locator("main summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(CONTRAST) == []
    page.set_viewport_size({"width": 1200, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_hostile_labels_are_texts(open_page: OpenPage, host: Host) -> None:
    """Before the script has run, and after it."""
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    host.scene = lambda now: [
        report(1, [pool(holders=[holder(evil, now)])], events=[event(text=f"{evil}{now}")])
    ]
    page = open_page(clock=True)
    passes(page, host)
    expect(page.locator("#holders summary b")).to_have_text(evil)
    assert page.locator("main script, main img").count() == 0


def test_it_shows_what_changes(open_page: OpenPage, host: Host) -> None:
    """The verdict in large letters and in the tab, and a screen reader hears of it once."""
    page = open_page(clock=True)
    expect(page.locator("h1")).to_have_text("All is well")
    heard = page.locator("#heard")
    expect(heard).to_have_role("status")
    expect(heard).to_have_text("All is well")
    host.scene = SCENES["away"]
    host.asked = 10
    passes(page, host)
    away = re.compile(r"^The database of pool default has been away for \d+ s$")
    expect(page.locator("h1")).to_have_text(away)
    said = heard.text_content()
    assert said and said.startswith("The database of pool default has been away")
    assert page.title().startswith("\N{MULTIPLICATION X} The database of pool default")
    passes(page, host, 2)
    # The seconds go on, and are not read out.
    assert heard.text_content() == said


def test_lines_are_what_the_page_has_seen(open_page: OpenPage, host: Host) -> None:
    """Of what is used, who waits, and how long; the server keeps nothing."""
    host.scene = SCENES["busy"]
    page = open_page(clock=True)
    passes(page, host, 8)
    for series in ("used", "waiting", "p99"):
        path = page.locator(f"svg[data-series={series}] path.line").first
        points = (path.get_attribute("d") or "").count("L")
        assert points >= 7, series
    p99 = page.locator("#pools article").first.locator("dd b").nth(2)
    expect(p99).to_contain_text("ms")


def test_it_asks_only_while_somebody_looks(open_page: OpenPage, host: Host) -> None:
    """A tab in the background costs nothing, and is up to date when it is looked at again."""
    page = open_page(clock=True)
    passes(page, host)
    see = """(state) => {
        Object.defineProperty(document, "visibilityState", {value: state, configurable: true});
        document.dispatchEvent(new Event("visibilitychange", {bubbles: true}));
    }"""
    page.evaluate(see, "hidden")
    asked = host.asked
    page.clock.run_for(60 * SECOND)
    assert host.asked == asked
    page.evaluate(see, "visible")
    wait_for(lambda: host.asked == asked + 1)
    expect(page.locator("#live")).to_have_text("live")
    passes(page, host)


def test_what_somebody_has_opened_stays_open(open_page: OpenPage, host: Host) -> None:
    """Stacks, what is focused and what is typed, while everything around it changes."""
    host.scene = SCENES["exhausted"]
    page = open_page(clock=True)
    passes(page, host, 8)
    page.locator("#holders summary").first.focus()
    page.keyboard.press("Enter")
    stack = page.locator("#holders details[open] .stack")
    expect(stack).to_contain_text("wait_for_report (reports.py:118)")
    passes(page, host, 5)
    expect(stack).to_contain_text("wait_for_report (reports.py:118)")
    expect(page.locator("#holders summary").first).to_be_focused()
    page.locator("#pools summary").click()
    page.get_by_label("Size").fill("9")
    passes(page, host, 2)
    expect(page.get_by_label("Size")).to_have_value("9")


def test_a_server_that_is_away_shows(open_page: OpenPage, host: Host) -> None:
    """For how long, and that what is shown is old; it goes on by itself."""
    page = open_page(clock=True)
    live = page.locator("#live")
    page.route("**/dbpool.json", lambda route: route.abort("connectionrefused"))
    page.clock.run_for(EVERY)
    expect(live).to_contain_text("s old: the app does not answer")
    page.unroute("**/dbpool.json")

    def refuse(route: Route) -> None:
        route.fulfill(status=502, body="<h1>Bad gateway</h1>")

    page.route("**/dbpool.json", refuse)
    page.clock.run_for(EVERY)
    expect(live).to_contain_text("s old: the app answers 502")
    expect(page.locator("body")).to_have_class("stale")
    page.unroute("**/dbpool.json")
    passes(page, host)
    expect(page.locator("body")).not_to_have_class("stale")


class TestCommands:
    """The buttons."""

    @pytest.mark.parametrize("name", ["127.0.0.1", OTHER_NAME])
    def test_a_command_is_given_by_keyboard(
        self, open_page: OpenPage, host: Host, name: str
    ) -> None:
        """And what has come of it is said; also where the browser says less of the page."""
        page = open_page(clock=True, name=name)
        page.locator("#pools summary").focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        expect(page.get_by_role("button", name="Refresh")).to_be_focused()
        page.keyboard.press("Enter")
        said = page.locator("#said")
        expect(said).to_have_text("Pool default is refreshed in 2 processes.")
        expect(said).to_have_role("status")
        page.get_by_label("Overflow").fill("0")
        page.get_by_label("Overflow").press("Enter")
        expect(said).to_have_text("Pool default is resized in 2 processes.")
        assert [(each[0], each[3]) for each in host.commands] == [
            ("refresh", {}),
            ("resize", {"size": 5, "max_overflow": 0}),
        ]

    def test_it_works_without_a_script(self, open_page: OpenPage, host: Host) -> None:
        """The page comes back; what failed is said."""
        page = open_page(java_script_enabled=False)
        page.locator("#pools summary").click()
        page.get_by_role("button", name="Pause").click()
        expect(page.locator("h1")).to_have_text("All is well")
        assert [each[0] for each in host.commands] == ["pause"]
        host.answers[2] = "does not answer within 0.5 s"
        page.locator("#pools summary").click()
        page.get_by_role("button", name="Refresh").click()
        expect(page.locator("#said")).to_contain_text("Process 2 does not answer within 0.5 s.")

    def test_another_site_cannot(self, browser: Browser, address: str, host: Host) -> None:
        """Though the admin's browser sends the form with all that it knows."""
        form = f"""<form method=post action="{address}/dbpool"><input name=command value=pause>
            <input name=pool value="default notes {pool()["database"]}"></form>
            <script>document.forms[0].submit()</script>"""

        def send(route: Route) -> None:
            route.fulfill(body=form, content_type="text/html")

        with browser.new_context(extra_http_headers={"X-User": "admin"}) as context:
            page = context.new_page()
            for site in ("http://evil.example/", "https://evil.example/"):
                context.route(site, send)
                page.goto(site, wait_until="commit")
                page.wait_for_url(f"{address}/dbpool")
                expect(page.locator("body")).to_contain_text("This comes from another site")
        assert host.commands == []


@pytest.mark.parametrize(
    ("picture", "scene", "options"),
    [
        ("calm", "calm", {}),
        ("busy", "busy", {}),
        ("exhausted", "exhausted", {}),
        ("away", "away", {}),
        ("paused", "paused", {}),
        ("dark", "exhausted", {"color_scheme": "dark"}),
        ("phone", "exhausted", PHONE),
        ("no-script", "exhausted", {"java_script_enabled": False}),
    ],
)
def test_the_pictures(
    open_page: OpenPage, host: Host, picture: str, scene: str, options: dict[str, Any]
) -> None:
    """One look answers: each has its verdict where it is seen first."""
    host.scene = SCENES[scene]
    if options.get("java_script_enabled", True):
        page = open_page(clock=True, **{"viewport": {"width": 1000, "height": 760}} | options)
        passes(page, host, 25)
    else:
        host.asked = 25
        page = open_page(viewport={"width": 1000, "height": 760}, **options)
    if scene == "exhausted":
        page.locator("#holders summary").first.click()
        page.evaluate("scrollTo(0, 0)")
    box = page.locator("h1").bounding_box()
    assert box is not None and box["y"] < 200
    folder = os.environ.get("WRITE_PICTURES")
    if folder:
        path = Path(folder, f"{picture}.png")
        page.screenshot(path=path, animations="disabled", full_page=picture not in DOCUMENTED)
