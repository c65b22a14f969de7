"""The page, in a browser."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Page, expect, sync_playwright
from processes import StartProgram

from tests.servers import report

PICTURE = Path(__file__).parents[1] / "notes.png"
SECOND = 1000  # milliseconds

OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Give Debian's Chromium."""
    program = os.environ.get("TEST_CHROMIUM") or shutil.which("chromium")
    if program is None:
        report.skip_without("Chromium", "no program chromium on this machine")
    with sync_playwright() as playwright:
        # In a container, as root, its sandbox cannot be had.
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        report.used("Chromium", chromium.version, program)
        yield chromium
        chromium.close()


@pytest.fixture(params=["development", "production"])
def environment(request: pytest.FixtureRequest) -> str:
    """Run the tests with the files of both."""
    name: str = request.param
    return name


@pytest.fixture
def open_page(
    browser: Browser, settings: dict[str, Any], both_environments: None, start_web: StartProgram
) -> Iterator[OpenPage]:
    """Open windows on the page; none may have complained at the end."""
    complaints: list[str] = []
    windows = []
    start_web()

    def complain(text: str) -> None:
        # That the streamer is away is no fault of the page, and it cannot keep it quiet.
        if "ERR_CONNECTION_REFUSED" not in text:
            complaints.append(text)

    def window(**options: Any) -> Page:
        context = browser.new_context(**options)
        windows.append(context)
        page = context.new_page()
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
    page.keyboard.type(words)
    page.keyboard.press("Control+Enter")


def test_note_appears_in_the_other_window(
    open_page: OpenPage, start_streamer: StartProgram
) -> None:
    """What is written in one window appears in the other one within a second, once in each."""
    start_streamer()
    one, other = open_page(), open_page()
    one.get_by_label("A new note").focus()
    write(one, "Hello")
    expect(other.get_by_text("Hello")).to_have_count(1, timeout=SECOND)
    write(one, "<b>again</b>")
    expect(other.locator("li").first).to_contain_text("<b>again</b>", timeout=SECOND)
    expect(one.locator("li")).to_have_count(2)
    expect(other.locator("li")).to_have_count(2)
