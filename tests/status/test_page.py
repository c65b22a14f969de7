"""What the page is made of: texts that stay texts, one document, and what it says."""

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from pyramid_dbpool.status.elements import el, html
from pyramid_dbpool.status.overview import Overview
from pyramid_dbpool.status.page import POLICY, content, document, numbers
from tests.support.reports import NOW, event, holder, pool, report, waiter
from tests.support.status_app import SCENES

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{content}}"


def page(
    overview: Overview, *, may_command: bool = True, still: bool = False, said: str = ""
) -> str:
    return document(overview, "/dbpool", may_command=may_command, still=still, said=said)


class Reader(HTMLParser):
    """Notes the elements of a document, its attributes, and whether each is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "link", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def hostile() -> Overview:
    """Give reports in which every text is an attack."""
    one = pool(
        EVIL,
        database=EVIL,
        holders=[holder(EVIL, 90.0, [EVIL], worker=EVIL)],
        waiters=[waiter(EVIL, 1.0, True, [EVIL], worker=EVIL)],
        outage_seconds=1.0,
    )
    events = [event(1, "outage", EVIL, pool=EVIL, level=EVIL), event(2, EVIL, EVIL)]
    mine = report(1, [one], events=events, app=EVIL, role=EVIL, program=EVIL, host=EVIL)
    return Overview([mine], {2: EVIL}, note=EVIL)


def test_hostile_texts_are_texts() -> None:
    """A label may hold what somebody has sent."""
    text = page(hostile(), said=EVIL)
    read = Reader(text)
    assert read.names.count("script") == 1 and "img" not in read.names
    assert not [name for name, _value in read.attributes if name.startswith("on")]
    assert "&lt;script&gt;alert(1)" in text
    # What stands for a part of the page in the file does so in no text.
    assert "{{content}}" in text


def test_the_script_gets_texts_as_texts() -> None:
    """It makes elements of lists only, and the lists are the page's own."""
    view = content(hostile(), "/dbpool", may_command=True)

    def names(node: Any) -> set[str]:
        if isinstance(node, str):
            return set()
        return {node[0]}.union(*(names(child) for child in node[2:]))

    assert set().union(*map(names, view)).isdisjoint({"script", "img", "style", "iframe"})
    json.dumps(numbers(hostile()))


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("may_command", [True, False])
def test_every_scene_is_a_whole_document(name: str, may_command: bool) -> None:
    """With one main heading, and none of them skipped; each table has a caption."""
    read = Reader(text := page(Overview(SCENES[name](20)), may_command=may_command))
    assert read.open == []
    headings = [tag for tag in read.names if re.fullmatch(r"h\d", tag)]
    assert headings[0] == "h1" and headings.count("h1") == 1
    assert read.names.count("table") == read.names.count("caption")
    assert ("form" in read.names) == may_command
    assert "style" not in dict(read.attributes) and not re.search(r"\{\{\w", text)


@pytest.mark.parametrize(
    ("taken", "said"),
    [(["keep (views.py:9)"], "keep (views.py:9)"), ([], "dbpool.trace_checkouts = true")],
)
def test_one_who_has_ended_is_shown_where_it_took_its_connection(
    taken: list[str], said: str
) -> None:
    """And that it has not given it back."""
    left = holder("GET route 'keep' (ended)", 4.0, [], over=True, taken=taken)
    view = content(Overview([report(1, [pool(holders=[left])])]), "/", may_command=False)
    (found,) = [each for each in view if each[1].get("id") == "holders"]
    text = re.sub("<[^>]*>", " ", html(found))
    assert "not given back" in text and "has ended without giving" in text and said in text


def test_a_group_says_how_many_do_the_same() -> None:
    """Who holds a connection at the same place is one row, whoever is longest at its top."""
    same = [holder("GET /slow", seconds) for seconds in (1.0, 4.0, 2.0)]
    other = holder("GET /slow", 3.0, ["elsewhere (views.py:9)"])
    view = content(Overview([report(1, [pool(holders=[*same, other])])]), "/", may_command=False)
    (found,) = [each for each in view if each[1].get("id") == "holders"]
    words = re.findall(r"<summary>(.*?)</summary>", html(found))
    assert [re.sub("<[^>]*>", " ", each).split()[:5] for each in words] == [
        ["4.0", "s", "GET", "/slow", "\N{MULTIPLICATION SIGN}"],
        ["3.0", "s", "GET", "/slow", "elsewhere"],
    ]


def test_a_process_whose_pool_is_full_is_counted() -> None:
    """The sum would seem to leave room."""
    full = pool(capacity=1, holders=[holder()])
    two = content(Overview([report(1, [full]), report(2)]), "/", may_command=False)
    assert "; full in 1 of 2 processes" in " ".join(map(html, two))
    one = content(Overview([report(1, [full])]), "/", may_command=False)
    assert "full in" not in " ".join(map(html, one))


def test_long_lists_are_cut() -> None:
    """A line of a thousand would make the page slow when it has to be fast."""
    waiters = [waiter(f"GET /{n}", n / 100) for n in range(300)]
    text = page(Overview([report(1, [pool(waiters=waiters)])]))
    assert "and 250 more" in text and "Who waits for one (300)" in text
    same = [waiter(seconds=1.0)] * 300
    text = page(Overview([report(1, [pool(waiters=same)])]))
    assert "and 250 more" in text


def test_the_page_reloads_by_itself_where_there_is_no_script() -> None:
    """Unless somebody reads."""
    calm = Overview([report()])
    moving, still = page(calm), page(calm, still=True)
    refresh = '<noscript><meta http-equiv="refresh" content="5"></noscript>'
    assert refresh in moving and 'href="/dbpool?still"' in moving
    assert refresh not in still and 'href="/dbpool">reload by itself' in still


def test_the_policy_allows_the_page_itself_and_nothing_else() -> None:
    """No word in it is unsafe, and no host is named."""
    assert POLICY.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in POLICY and "http" not in POLICY
    for each in ("frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"):
        assert each in POLICY


def test_the_page_is_small() -> None:
    """Less than 30 kB with all that it needs, before anything is in it."""
    assert len(page(Overview([])).encode()) < 30_000


def test_an_event_of_another_day_says_which() -> None:
    """An app runs for months."""
    events = [event(1, at=NOW - 86_400 * 3), event(2, at=NOW)]
    view = content(Overview([report(events=events)]), "/", may_command=False)
    times = re.findall(r"<time[^>]*>([^<]*)", html(view[-1]))
    assert re.fullmatch(r"\d\d:\d\d:\d\d", times[0])
    assert re.fullmatch(r"\d\d\d\d-\d\d-\d\d \d\d:\d\d", times[1])


def test_what_processes_say_alike_is_one_row() -> None:
    """An outage is met by all of them; the same again a minute later is another one."""
    three = [event(1, "outage", "gone", at=NOW - each) for each in (0, 3, 60)]
    reports = [report(pid, events=[one]) for pid, one in enumerate(three, 1)]
    reports.append(report(9, events=[event(1, "back", "gone")]))
    found = content(Overview(reports), "/", may_command=False)[-1]
    assert re.findall(r">([^<]*process[^<]*)<", html(found)) == [
        "2 processes",
        "process 9",
        "process 3",
    ]


def test_an_element_leaves_out_what_is_not_there() -> None:
    """A page is put together of what there is."""
    made = el("p", {"a": None, "b": False, "c": 0}, None, False, "", 0, "x")
    assert html(made) == '<p c="0">0x</p>'
