"""The page, in a browser."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

import pytest
from playwright.sync_api import Browser, Page, Route, expect
from processes import BOTH, PATIENCE, StartProgram

from example_app.migrate import upgrade
from example_app.models import Note
from pyramid_dbpool import dispose_engine, unit_of_work
from pyramid_dbpool.embedded import PrivatePostgres
from tests.support.chromium import chromium

SECOND = 1000  # milliseconds
expect.set_options(timeout=PATIENCE * SECOND)

THREE = [
    "The pool is ready: five connections, and one line before them.",
    "Deployed. Open this page in a second window and write something.",
    "Who restarts the streamer? Nothing is lost: this page comes back and catches up.",
]

# One cause, and a word of Chromium's for each moment at which a server goes: before it is
# asked, as it takes the connection, with the question or half of the answer on the way.
AWAY = (
    "net::ERR_CONNECTION_REFUSED",
    "net::ERR_SOCKET_NOT_CONNECTED",
    "net::ERR_CONNECTION_RESET",
    "net::ERR_CONNECTION_CLOSED",
    "net::ERR_EMPTY_RESPONSE",
    "Connection closed before receiving a handshake response",
)
# The page's host under another name, in plain HTTP.
OTHER_NAME = "notes.test"

OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Give Debian's Chromium."""
    with chromium(OTHER_NAME) as found:
        yield found


@pytest.fixture
def database(
    settings: dict[str, Any], new_postgres: Callable[[], PrivatePostgres]
) -> PrivatePostgres:
    """Let the app have a PostgreSQL that may be stopped; to be asked for before the page."""
    for pool in ("default", "replica"):
        dispose_engine(settings, pool)
    server = new_postgres()
    settings["sqlalchemy.url"] = settings["sqlalchemy.replica.url"] = server.url()
    settings["sqlalchemy.pool_timeout"] = "60"
    upgrade(settings)
    return server


@pytest.fixture
def open_page(
    browser: Browser, settings: dict[str, Any], both_environments: None, start_web: StartProgram
) -> Iterator[OpenPage]:
    """Open windows on the page; none may have complained at the end."""
    complaints: list[str] = []
    windows = []
    start_web()

    def complain(text: str) -> None:
        # What a page cannot keep quiet: that a server is away, that a note is refused.
        quiet = (*AWAY, "status of 400", "status of 503", "Unexpected response code: 403")
        if not any(each in text for each in quiet):
            complaints.append(text)

    def window(clock: bool = False, **options: Any) -> Page:
        context = browser.new_context(**options)
        windows.append(context)
        page = context.new_page()
        if clock:
            page.clock.install()
        page.on("console", lambda message: complain(message.text))
        page.on("pageerror", lambda error: complain(str(error)))
        page.goto(settings["streamer.origins"])
        expect(page.locator("#live")).to_have_text("live")
        return page

    yield window
    for context in windows:
        context.close()
    assert complaints == []


def write(page: Page, words: str) -> None:
    """Write a note as a person would, with the keyboard."""
    field = page.get_by_label("A new note")
    field.focus()
    page.keyboard.type(words)
    page.keyboard.press("Control+Enter")
    expect(field).to_have_value("")


@BOTH
def test_note_appears_in_the_other_window(
    open_page: OpenPage, start_streamer: StartProgram
) -> None:
    """What is written in one window appears in the other one, once in each."""
    start_streamer()
    one, other = open_page(), open_page()
    write(one, "Hello")
    expect(other.get_by_text("Hello")).to_have_count(1)
    write(one, "<b>again</b>")
    expect(other.locator("li").first).to_contain_text("<b>again</b>")
    expect(one.locator("li")).to_have_count(2)
    expect(other.locator("li")).to_have_count(2)


@BOTH
@pytest.mark.slow
def test_note_appears_within_a_second(open_page: OpenPage, start_streamer: StartProgram) -> None:
    """In the other window, from the moment at which its writer knows that it is stored."""
    start_streamer()
    one, other = open_page(), open_page()

    def appears(words: str) -> bool:
        write(one, words)
        began = monotonic()
        expect(other.get_by_text(words)).to_have_count(1)
        return monotonic() - began < 1

    # One of some: others may be at work on this machine.
    assert any(appears(f"Note {number}") for number in range(5))


@pytest.mark.parametrize(
    "environment", [pytest.param("development", marks=pytest.mark.slow), "production"]
)
def test_note_written_while_the_streamer_was_dead(
    open_page: OpenPage, start_streamer: StartProgram
) -> None:
    """The streamer is killed and started again: the windows come back and catch up."""
    streamer = start_streamer()
    one, other = open_page(), open_page()
    streamer.kill()
    expect(other.locator("#live")).to_have_text("reconnecting …")
    write(one, "Is anybody there?")
    expect(one.get_by_text("Is anybody there?")).to_have_count(1)
    start_streamer()
    expect(other.get_by_text("Is anybody there?")).to_have_count(1)
    expect(other.locator("#live")).to_have_text("live")
    write(one, "Welcome back")
    expect(other.get_by_text("Welcome back")).to_have_count(1)


def test_note_whose_event_was_lost(
    open_page: OpenPage, start_streamer: StartProgram, settings: dict[str, Any]
) -> None:
    """What was committed and never published appears when the page next catches up."""
    start_streamer()
    page = open_page(clock=True)
    with unit_of_work(settings) as session:
        session.add(Note(id=uuid4(), text="The process died after the commit"))
    page.clock.fast_forward(30 * SECOND)
    expect(page.locator("li")).to_have_count(1)


def test_note_that_is_refused(open_page: OpenPage, start_streamer: StartProgram) -> None:
    """The page says why, keeps the text, and stores it once at the next attempt."""
    start_streamer()
    page = open_page()
    field = page.get_by_label("A new note")
    field.fill("   ")
    field.press("Control+Enter")
    expect(page.get_by_role("alert")).to_have_text(
        "The note is not stored: the text must not be empty"
    )
    field.fill("x" * 20_000)
    field.press("Control+Enter")
    expect(page.get_by_role("alert")).to_have_text(
        "The note is not stored: the text has 20000 characters; 10000 are allowed"
    )
    expect(page.locator("li")).to_have_count(0)
    field.fill("text")
    page.get_by_role("button", name="Write").click()
    expect(page.locator("li")).to_have_count(1)
    expect(page.get_by_role("alert")).to_have_text("")
    expect(field).to_be_focused()


def test_note_whose_server_cannot_be_reached(
    open_page: OpenPage, start_streamer: StartProgram
) -> None:
    """The page says what to do, also of a proxy's own errors, and keeps the text."""
    start_streamer()
    page = open_page()
    field = page.get_by_label("A new note")
    field.fill("Hello")
    wrong = {
        "the server cannot be reached": lambda route: route.abort("connectionrefused"),
        "the server says 503": lambda route: route.fulfill(status=503, body="<h1>Sorry</h1>"),
    }
    for said, fail in wrong.items():
        page.route("**/api/notes/*", fail)
        field.press("Control+Enter")
        expect(page.get_by_role("alert")).to_contain_text(f"The note is not stored: {said}")
        page.unroute("**/api/notes/*")
    expect(field).to_be_editable()
    field.press("Control+Enter")
    expect(page.locator("li")).to_have_text([re.compile("Hello$")])
    expect(field).to_have_value("")


def test_list_that_cannot_be_loaded(
    open_page: OpenPage, start_streamer: StartProgram, settings: dict[str, Any]
) -> None:
    """The page says so, instead of an empty list, and loads it later."""
    start_streamer()
    page = open_page()
    with unit_of_work(settings) as session:
        # Without an event, which would show it.
        session.add(Note(id=uuid4(), text="Hello"))
    away = {"error": "the database is busy or away; try again in a moment"}
    page.route("**/api/notes?*", lambda route: route.fulfill(status=503, json=away))
    page.clock.install()
    page.reload()
    expect(page.locator("#away")).to_contain_text("The notes cannot be loaded just now")
    expect(page.locator("li")).to_have_count(0)
    page.unroute("**/api/notes?*")
    page.clock.fast_forward(6 * SECOND)
    expect(page.locator("li")).to_have_count(1)
    expect(page.locator("#away")).to_have_text("")


def test_page_under_another_name(
    open_page: OpenPage, start_streamer: StartProgram, settings: dict[str, Any]
) -> None:
    """In plain HTTP browsers keep things back there, such as crypto.randomUUID."""
    start_streamer()
    page = open_page()
    page.goto(settings["streamer.origins"].replace("127.0.0.1", OTHER_NAME))
    assert page.evaluate("[isSecureContext, location.hostname]") == [False, OTHER_NAME]
    write(page, "Hello")
    write(page, "and again")
    expect(page.locator("li")).to_have_count(2)


def test_page_without_javascript(
    open_page: OpenPage,
    browser: Browser,
    start_streamer: StartProgram,
    settings: dict[str, Any],
) -> None:
    """It says so, and takes no text that it would lose."""
    start_streamer()
    open_page()
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(settings["streamer.origins"])
        # By what is to be seen: playwright's other ways leave such an element out.
        seen = "This page needs JavaScript"
        expect(page.locator("body")).to_contain_text(seen, use_inner_text=True)
        expect(page.get_by_role("button", name="Write")).to_be_disabled()


def test_database_that_is_away_shows(open_page: OpenPage, start_streamer: StartProgram) -> None:
    """Though the socket is open, and until the database is back; a screen reader says so."""
    start_streamer()
    page = open_page(clock=True)
    status = page.locator("#live")
    expect(status).to_have_role("status")
    away = {"error": "the database is busy or away; try again in a moment"}
    page.route("**/api/notes?*", lambda route: route.fulfill(status=503, json=away))
    page.clock.fast_forward(10 * SECOND)
    expect(status).to_have_text("the database is busy or away")
    page.unroute("**/api/notes?*")
    page.clock.fast_forward(10 * SECOND)
    expect(status).to_have_text("live")


def test_note_that_takes_long(open_page: OpenPage, start_streamer: StartProgram) -> None:
    """The page says that it waits, keeps the text, and says when the note is stored."""
    start_streamer()
    page = open_page(clock=True)
    waiting: list[Route] = []

    def hold(route: Route) -> None:
        waiting.append(route)

    page.route("**/api/notes/*", hold)
    field = page.get_by_label("A new note")
    field.fill("Hello")
    page.keyboard.press("Control+Enter")
    page.clock.fast_forward(3 * SECOND)
    expect(page.locator("#progress")).to_contain_text("The database does not answer yet")
    expect(page.locator("#live")).to_have_text("waiting for the database …")
    expect(field).to_have_value("Hello")
    # Once more does not send it twice.
    page.keyboard.press("Control+Enter")
    (request,) = waiting
    request.continue_()
    expect(page.locator("#progress")).to_contain_text("The note is stored, after")
    expect(page.locator("#live")).to_have_text("live")
    expect(page.locator("li")).to_have_count(1)
    expect(field).to_have_value("")
    expect(field).to_be_focused()


def test_note_written_while_the_database_restarts(
    database: PrivatePostgres, open_page: OpenPage, start_streamer: StartProgram
) -> None:
    """It waits, is stored, and appears in the other window: nothing fails."""
    start_streamer()
    one, other = open_page(), open_page()
    database.stop()
    field = one.get_by_label("A new note")
    field.fill("Is anybody there?")
    field.press("Control+Enter")
    expect(one.locator("#live")).to_have_text("waiting for the database …")
    database.start()
    expect(field).to_have_value("")
    expect(one.get_by_role("alert")).to_have_text("")
    expect(other.get_by_text("Is anybody there?")).to_have_count(1)
    for page in (one, other):
        expect(page.locator("#live")).to_have_text("live")


def test_what_the_toolbar_shows(
    open_page: OpenPage, start_streamer: StartProgram, settings: dict[str, Any]
) -> None:
    """Of the request that has written a note: its connection, and where the app took it."""
    start_streamer()
    page = open_page(viewport={"width": 1400, "height": 900})
    write(page, "Hello")
    expect(page.locator("li")).to_have_count(1)
    # Its pages have none.
    page.route("**/favicon.ico", lambda route: route.fulfill())
    page.goto(f"{settings['streamer.origins']}/_debug_toolbar/")
    page.locator("#requests a", has_text="PUT").first.click()
    page.locator("#pDebugPanel-dbpool a").click()
    panel = page.locator("#pDebugPanel-dbpool-content")
    row = panel.locator("#pDbpoolCheckouts tbody tr")
    expect(row).to_have_count(1)
    for words in ("request.db", "committed", "write_note", "example_app/models.py:"):
        expect(row).to_contain_text(words)
    expect(panel.locator("#pDbpoolPools tbody tr")).to_have_count(2)
    take_picture(page, "toolbar")


def test_the_picture_of_the_readme(open_page: OpenPage, start_streamer: StartProgram) -> None:
    """Light, dark and on a phone nothing sticks out.

    The pictures are written to the folder WRITE_PICTURES; `notes.png` is the README's.
    """
    start_streamer()
    phone = {"viewport": {"width": 360, "height": 640}, "is_mobile": True, "has_touch": True}
    light, dark, small = (
        open_page(viewport={"width": 720, "height": 560}, color_scheme="light"),
        open_page(color_scheme="dark"),
        open_page(**phone),
    )
    for words in THREE:
        write(light, words)
    for name, page in {"notes": light, "dark": dark, "phone": small}.items():
        expect(page.locator("li")).to_have_count(3)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        take_picture(page, name)


def take_picture(page: Page, name: str) -> None:
    """Write a picture of a page, if somebody wants it."""
    folder = os.environ.get("WRITE_PICTURES")
    if folder:
        page.screenshot(path=Path(folder, f"{name}.png"), animations="disabled")
