"""The streamer, as a process of its own."""

import signal
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from kombu import Message
from processes import StartStreamer, wait_until, write
from sqlalchemy import text
from sqlalchemy.orm import Session
from webtest import TestApp

from example_app import ini, streamer
from example_app.broker import EXCHANGE, Inbox, connect
from pyramid_dbpool import unit_of_work


@pytest.fixture(params=["filesystem", "rabbitmq"])
def settings(request: pytest.FixtureRequest, settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Give the app's settings, once for each broker."""
    settings["broker.queue"] = "streamer"
    if request.param == "filesystem":
        yield settings
        return
    settings["broker.url"] = request.getfixturevalue("rabbitmq").url()
    yield settings
    with connect(settings) as broker:
        broker.channel().queue_delete("streamer")


def publish_raw(settings: dict[str, Any], body: bytes, content_type: str) -> None:
    """Publish what need not be an event."""
    with connect(settings) as broker, broker.Producer() as producer:
        producer.publish(
            body,
            content_type=content_type,
            content_encoding="utf-8",
            exchange=EXCHANGE,
            declare=[EXCHANGE],
        )


def test_shows_each_note(app: TestApp, start_streamer: StartStreamer) -> None:
    """A note that is written comes out of the streamer, on one line."""
    streamer = start_streamer()
    first, second = write(app, "Hello"), write(app, "two\nlines\x1b[31m")
    assert streamer.wait_for(first).endswith(f"note {first}: 'Hello'")
    assert streamer.wait_for(second).endswith(r"'two\nlines\x1b[31m'")


def test_sigterm_ends_it_at_once(app: TestApp, start_streamer: StartStreamer) -> None:
    """SIGTERM ends a streamer that waits for a message, with exit code 0 and in silence."""
    streamer = start_streamer()
    assert streamer.end(signal.SIGTERM, seconds=5) == 0
    assert "Traceback" not in streamer.output


def test_ctrl_c_ends_it_in_silence(app: TestApp, start_streamer: StartStreamer) -> None:
    """Ctrl-C is no error."""
    streamer = start_streamer()
    assert streamer.end(signal.SIGINT, seconds=5) == 0
    assert "Traceback" not in streamer.output


def test_shows_what_was_written_while_it_was_away(
    app: TestApp, start_streamer: StartStreamer
) -> None:
    """The queue keeps the events for the next streamer."""
    start_streamer().end(signal.SIGTERM)
    note = write(app, "Anybody there?")
    start_streamer().wait_for(note)


NO_EVENTS = [
    (b"{not json", "application/json"),
    (b"[]", "application/json"),
    (b'{"id": 7}', "application/json"),
    (b'{"id": "7"}', "application/json"),
    (b"cos\nsystem\n.", "application/x-python-serialize"),
    (b"\xff", "text/nonsense"),
]


def test_message_that_is_no_event(
    app: TestApp, settings: dict[str, Any], start_streamer: StartStreamer
) -> None:
    """What cannot be read is logged and dropped for good; the next note is shown."""
    streamer = start_streamer()
    for body, content_type in NO_EVENTS:
        publish_raw(settings, body, content_type)
        streamer.wait_for("could not be handled")
    streamer.wait_for(write(app, "Hello"))
    streamer.end(signal.SIGTERM)
    again = start_streamer()
    again.wait_for(write(app, "Hello again"))
    assert "could not be handled" not in again.output


def test_note_that_has_gone(
    settings: dict[str, Any], app: TestApp, start_streamer: StartStreamer
) -> None:
    """An event about a note that is not there any more is no error."""
    streamer = start_streamer()
    publish_raw(settings, b'{"id": "%s"}' % str(uuid4()).encode(), "application/json")
    streamer.wait_for(write(app, "Hello"))
    assert "Traceback" not in streamer.output


def test_is_in_no_transaction_between_two_notes(
    app: TestApp, settings: dict[str, Any], start_streamer: StartStreamer
) -> None:
    """The streamer has given its connection back before it waits for a note."""
    streamer = start_streamer()
    streamer.wait_for(write(app, "Hello"))
    wait_until(lambda: transactions_open(settings) == 0)


def test_its_transactions_are_serializable_read_only_and_deferrable(
    app: TestApp, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL itself says so, of the transaction in which a note is shown."""
    seen = []

    def show(message: Message, session: Session) -> None:
        for mode in ("isolation", "read_only", "deferrable"):
            seen.append(session.scalar(text(f"SHOW transaction_{mode}")))
        raise KeyboardInterrupt

    with Inbox(settings) as inbox:
        inbox.listen()  # makes the queue, which keeps the note for the streamer
    write(app, "Hello")
    monkeypatch.setattr(ini, "read_command_line", lambda doc, argv: settings)
    monkeypatch.setattr(streamer, "show", show)
    assert streamer.main([]) == 0
    assert seen == ["serializable", "on", "on"]


def transactions_open(settings: dict[str, Any]) -> int:
    """Count the transactions that others have open."""
    query = text(
        "SELECT count(*) FROM pg_stat_activity WHERE xact_start IS NOT NULL"
        " AND datname = current_database() AND pid != pg_backend_pid()"
    )
    with unit_of_work(settings) as session:
        return session.scalar(query) or 0
