"""The JSON API and the page."""

import threading
from typing import Any
from uuid import uuid4

import pytest
from processes import wait_until
from pyramid.request import Request
from pyramid_retry import RetryableException
from sqlalchemy import text
from webtest import TestApp, TestResponse

from example_app import main, views
from example_app.models import Note, write_note
from example_app.views import MAX_BODY, MAX_TEXT
from pyramid_dbpool import ManagedPool, get_engine, unit_of_work

NOTE = "/api/notes/11111111-1111-4111-8111-111111111111"


def put(app: TestApp, path: str, words: str, status: int | None = None) -> TestResponse:
    """Write a note."""
    return app.put_json(path, {"text": words}, status=status)


def test_first_put_creates(app: TestApp) -> None:
    """The first PUT of an id answers 201 with the note, which GET then shows."""
    created = put(app, NOTE, "Hello", 201).json
    assert created["text"] == "Hello"
    assert created["id"] == NOTE.rpartition("/")[2]
    assert app.get(NOTE).json == created


def test_second_put_replaces(app: TestApp) -> None:
    """A second PUT answers 200, with the new text and the old date of creation."""
    first = put(app, NOTE, "Hello").json
    second = put(app, NOTE, "Good bye", 200).json
    assert second["text"] == "Good bye"
    assert second["created"] == first["created"] < second["updated"]
    assert len(app.get("/api/notes").json["notes"]) == 1


def test_same_put_again_changes_no_text(app: TestApp) -> None:
    """A PUT that a client repeats, because it saw no answer, does no harm."""
    put(app, NOTE, "Hello")
    assert put(app, NOTE, "Hello", 200).json["text"] == "Hello"


def test_two_first_puts_at_once_both_succeed(app: TestApp, settings: dict[str, Any]) -> None:
    """A first PUT that has to wait for another one of the same id then replaces it."""
    answers: list[TestResponse] = []
    late = threading.Thread(target=lambda: answers.append(put(app, NOTE, "late")))
    with unit_of_work(settings) as early:
        early.add(Note(id=NOTE.rpartition("/")[2], text="early"))
        early.flush()
        late.start()
        wait_until(lambda: waiting_for_locks(settings) == 1)
    late.join()
    assert answers[0].status_int == 200
    assert app.get(NOTE).json["text"] == "late"


def waiting_for_locks(settings: dict[str, Any]) -> int:
    """Count the statements that wait for another transaction."""
    query = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    with get_engine(settings).connect() as connection:
        return int(connection.scalar(query) or 0)


def test_note_that_is_not_there(app: TestApp) -> None:
    """An unknown id is a 404 in JSON."""
    assert "there is no note 1111" in app.get(NOTE, status=404).json["error"]


def test_list_shows_the_newest_first(app: TestApp) -> None:
    """The list has the newest notes, as many as were asked for."""
    for word in ("one", "two", "three"):
        put(app, f"/api/notes/{uuid4()}", word)
    notes = app.get("/api/notes?limit=2").json["notes"]
    assert [note["text"] for note in notes] == ["three", "two"]


def since(app: TestApp, mark: str, limit: int = 20) -> tuple[list[str], str]:
    """Give the texts of the notes written since a mark, and the next mark."""
    answer = app.get(f"/api/notes?since={mark}&limit={limit}").json
    return [note["text"] for note in answer["notes"]], answer["next"]


def test_since_shows_what_was_written_after_it(app: TestApp) -> None:
    """New notes and notes that were replaced, in the order in which they were written."""
    put(app, NOTE, "old")
    put(app, f"/api/notes/{uuid4()}", "untouched")
    mark = app.get("/api/notes").json["next"]
    assert since(app, mark) == ([], mark)
    put(app, f"/api/notes/{uuid4()}", "new")
    put(app, NOTE, "replaced")
    assert since(app, mark)[0] == ["new", "replaced"]


def test_since_misses_no_note_that_is_committed_late(
    app: TestApp, settings: dict[str, Any]
) -> None:
    """A note that was begun before the mark, and committed after it, is not overtaken."""
    with unit_of_work(settings) as slow:
        write_note(slow, uuid4(), "begun first, committed last")
        put(app, NOTE, "overtakes it")
        answer = app.get("/api/notes").json
        assert [note["text"] for note in answer["notes"]] == ["overtakes it"]
        assert since(app, answer["next"])[1] == answer["next"]
    assert "begun first, committed last" in since(app, answer["next"])[0]


def test_since_does_not_go_on_past_what_is_open(app: TestApp, settings: dict[str, Any]) -> None:
    """A full answer's mark, too, leaves nothing behind that is committed later."""
    mark = app.get("/api/notes").json["next"]
    with unit_of_work(settings) as slow:
        write_note(slow, uuid4(), "committed last")
        for words in ("one", "two", "three"):
            put(app, f"/api/notes/{uuid4()}", words)
        notes, mark = since(app, mark, limit=2)
        assert notes == ["one", "two"]
    assert "committed last" in since(app, mark)[0]


def test_since_goes_on_where_an_answer_was_full(app: TestApp) -> None:
    """An answer with as many notes as were asked for has the next ones' mark."""
    mark = app.get("/api/notes").json["next"]
    written = [f"note {number}" for number in range(5)]
    for words in written:
        put(app, f"/api/notes/{uuid4()}", words)
    seen: list[str] = []
    full = True
    while full:
        notes, mark = since(app, mark, limit=3)
        full = len(notes) == 3
        seen += [words for words in notes if words not in seen]
    assert seen == written


def test_since_gets_past_a_transaction_of_many_notes(
    app: TestApp, settings: dict[str, Any]
) -> None:
    """They come all at once, as they were written."""
    mark = app.get("/api/notes").json["next"]
    with unit_of_work(settings) as session:
        for number in range(5):
            write_note(session, uuid4(), f"note {number}")
    notes, mark = since(app, mark, limit=2)
    assert len(notes) == 5
    assert since(app, mark, limit=2) == ([], mark)


@pytest.mark.parametrize("since", ["-1", "many", "", "1.5", str(2**63)])
def test_bad_since(app: TestApp, since: str) -> None:
    """A mark that no answer had is refused with the reason."""
    answer = app.get(f"/api/notes?since={since}", status=400)
    assert answer.json["error"].startswith("since must be a whole number from 0 to ")


def test_list_comes_from_the_replica(app: TestApp, settings: dict[str, Any]) -> None:
    """The list takes no connection of the primary's, and catching up none of the replica's."""

    def checkouts(name: str) -> int:
        pool = get_engine(settings, name).pool
        assert isinstance(pool, ManagedPool)
        return pool.snapshot().checkouts

    primary, replica = checkouts("default"), checkouts("replica")
    mark = app.get("/api/notes").json["next"]
    assert (checkouts("default"), checkouts("replica")) == (primary, replica + 1)
    since(app, mark)
    assert (checkouts("default"), checkouts("replica")) == (primary + 1, replica + 1)


@pytest.mark.parametrize("limit", ["0", "101", "-1", "many", "", "%ff", "1.5"])
def test_bad_limit(app: TestApp, limit: str) -> None:
    """A limit that is no number from 1 to 100 is refused with the reason."""
    answer = app.get(f"/api/notes?limit={limit}", status=400)
    assert answer.json["error"] == "limit must be a whole number from 1 to 100"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "must be JSON"),
        (b"{text", "must be JSON"),
        (b"\xff\xfe\xfa", "must be JSON"),
        (b"[" * 100_000, "must be JSON"),
        (b"[]", "object"),
        (b"{}", "object"),
        (b'{"text": 7}', "object"),
        (b'{"text": ""}', "must not be empty"),
        (b'{"text": " \\n"}', "must not be empty"),
        (b'{"text": "%s"}' % (b"x" * (MAX_TEXT + 1)), "10000 are allowed"),
        (b'{"text": "%s"}' % (b"x" * MAX_BODY), "has more than 131072 bytes"),
        (b'{"text": "a\\u0000b"}', "NUL"),
        (b'{"text": "a\\ud800b"}', "surrogates"),
    ],
)
def test_bad_body(app: TestApp, body: bytes, why: str) -> None:
    """A body that is no note is refused with the reason, and nothing is stored."""
    answer = app.put(NOTE, body, status=400)
    assert why in answer.json["error"]
    app.get(NOTE, status=404)


def test_longest_text(app: TestApp) -> None:
    """A text may have 10,000 characters, whatever they are."""
    words = "\N{GRINNING FACE}" * MAX_TEXT
    assert put(app, NOTE, words, 201).json["text"] == words


def test_charset_that_nobody_knows(app: TestApp) -> None:
    """JSON is UTF-8, whatever the header says."""
    headers = {"Content-Type": "application/json; charset=bogus"}
    assert app.put(NOTE, b'{"text": "Hello"}', headers=headers, status=201)


def test_put_that_is_tried_again(app: TestApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second attempt reads the body from its start."""
    failures = [RetryableException()]

    def fail_once(request: Request, event: dict[str, str]) -> None:
        if failures:
            raise failures.pop()

    monkeypatch.setattr(views, "publish_after_commit", fail_once)
    assert put(app, NOTE, "Hello", 201).json["text"] == "Hello"
    assert not failures


@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.parametrize("bad", ["7", "1111-x", "11111111-1111-4111-8111-11111111111g"])
def test_bad_id(app: TestApp, method: str, bad: str) -> None:
    """An id that is no UUID is refused with the reason."""
    answer = app.request(f"/api/notes/{bad}", method=method, body=b'{"text": "x"}', status=400)
    assert "must be a UUID" in answer.json["error"]


def test_path_that_is_not_utf8(app: TestApp) -> None:
    """A path of wrong bytes is refused in JSON."""
    assert app.get("/api/notes/%ff", status=400).json["error"] == "the path must be UTF-8"


def test_nothing_there(app: TestApp) -> None:
    """An unknown address, or method, is a 404 in JSON."""
    assert app.get("/nowhere", status=404).json["error"] == "there is no GET /nowhere"
    assert app.delete(NOTE, status=404).json["error"] == f"there is no DELETE {NOTE}"


@pytest.mark.parametrize(
    ("path", "status"), [("/", 200), ("/api/notes", 200), ("/nowhere", 404), ("/api/notes/x", 400)]
)
def test_headers_for_browsers(app: TestApp, path: str, status: int) -> None:
    """Nobody shows it in a frame, guesses its type, or learns where a visitor came from."""
    headers = app.get(path, status=status).headers
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("/live", "connect-src 'self';"),
        ("ws://127.0.0.1:6544/live", "connect-src 'self' ws://127.0.0.1:6544;"),
        ("wss://live.example.org/", "connect-src 'self' wss://live.example.org;"),
    ],
)
def test_page_may_open_a_socket_to_its_streamer(
    settings: dict[str, Any], address: str, allowed: str
) -> None:
    """And to nobody else; only its own script and style run."""
    app = TestApp(main({}, **settings | {"streamer.address": address}))
    policy = app.get("/").headers["Content-Security-Policy"]
    assert allowed in policy
    assert policy.count("'sha256-") == 2 and "unsafe" not in policy


def test_page(app: TestApp) -> None:
    """The page is HTML with a form."""
    page = app.get("/")
    assert page.content_type == "text/html"
    assert page.charset == "UTF-8"
    assert "textarea" in page.forms[0].text
    assert "dbpool" not in page.text
    app.get("/dbpool", status=404)


def test_page_links_to_the_pools_where_they_are_shown(settings: dict[str, Any]) -> None:
    """As development.ini has it; with a policy of its own for browsers."""
    everybody = "__no_permission_required__"
    shown = {"pyramid.includes": "pyramid_dbpool.status", "dbpool.status_permission": everybody}
    web = TestApp(main({}, **settings, **shown))
    pools = web.get("/").click("Database pools")
    assert "Who holds a connection" in pools.text
    assert "script-src 'sha256-" in pools.headers["Content-Security-Policy"]
