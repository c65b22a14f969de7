"""Events: after a commit, and only then."""

import logging
import re
import threading
import time
from pathlib import Path
from queue import Empty
from shutil import rmtree
from typing import Any

import pytest
import transaction
from kombu import Connection
from processes import PATIENCE, wait_until
from pyramid.exceptions import ConfigurationError
from pyramid.testing import DummyRequest
from webtest import TestApp

from example_app import main
from example_app.broker import (
    Inbox,
    connect,
    publish,
    publish_after_commit,
    publish_if_stored,
)

NOTE_ID = "11111111-1111-4111-8111-111111111111"
EVENT = {"id": NOTE_ID}


class Refusal:
    """A resource that makes every commit fail."""

    def sortKey(self) -> str:
        """Come last."""
        return "~"

    def tpc_vote(self, transaction: Any) -> None:
        """Refuse."""
        raise RuntimeError("refused")

    def nothing(self, transaction: Any) -> None:
        """Have nothing to do."""

    abort = tpc_begin = commit = tpc_abort = tpc_finish = nothing


@pytest.fixture
def request_with_tm(settings: dict[str, Any]) -> DummyRequest:
    """Give a request in a transaction."""
    request = DummyRequest(tm=transaction.TransactionManager(explicit=True))
    request.registry = {"broker": connect(settings)}
    request.tm.begin()
    return request


def received(inbox: Inbox, seconds: float = 0.1) -> Any:
    """Give the next event, or None; what is there already comes however few the seconds."""
    try:
        message = inbox.get(timeout=seconds)
    except Empty:
        return None
    message.ack()
    return message.payload


def test_put_publishes_its_note(app: TestApp, inbox: Inbox) -> None:
    """A stored note is an event with its id."""
    app.put_json(f"/api/notes/{NOTE_ID}", {"text": "Hello"})
    assert received(inbox) == EVENT


def test_refused_put_publishes_nothing(app: TestApp, inbox: Inbox) -> None:
    """A note that was not stored is no event."""
    app.put_json(f"/api/notes/{NOTE_ID}", {"text": ""}, status=400)
    assert received(inbox) is None


def test_event_comes_after_commit(request_with_tm: DummyRequest, inbox: Inbox) -> None:
    """Nothing is published before the commit."""
    publish_after_commit(request_with_tm, EVENT)
    assert received(inbox) is None
    request_with_tm.tm.commit()
    assert received(inbox) == EVENT


def test_abort_publishes_nothing(request_with_tm: DummyRequest, inbox: Inbox) -> None:
    """A transaction that was given up has no event."""
    publish_after_commit(request_with_tm, EVENT)
    request_with_tm.tm.abort()
    assert received(inbox) is None


def test_failed_commit_publishes_nothing(request_with_tm: DummyRequest, inbox: Inbox) -> None:
    """A transaction whose commit failed has no event."""
    publish_after_commit(request_with_tm, EVENT)
    request_with_tm.tm.get().join(Refusal())
    with pytest.raises(RuntimeError, match="refused"):
        request_with_tm.tm.commit()
    assert received(inbox) is None


@pytest.mark.slow
def test_stored_note_is_answered_without_broker(
    settings: dict[str, Any], nobodys_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A broker that is away makes no 500 of a stored note; the log says what was not published."""
    settings["broker.url"] = f"amqp://guest:secret@127.0.0.1:{nobodys_port}//"
    app = TestApp(main({}, **settings))
    start = time.monotonic()
    app.put_json(f"/api/notes/{NOTE_ID}", {"text": "Hello"}, status=201)
    assert time.monotonic() - start < 5
    assert app.get(f"/api/notes/{NOTE_ID}").json["text"] == "Hello"
    assert f"The event {EVENT} is not published: " in caplog.text
    assert "Traceback" not in caplog.text
    assert "secret" not in caplog.text


def test_inbox_waits_for_the_broker_without_noise(
    settings: dict[str, Any],
    nobodys_port: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the broker is away the inbox is empty, and tries again at growing intervals."""
    slept: list[float] = []
    monkeypatch.setattr("example_app.broker.sleep", slept.append)
    monkeypatch.setattr("example_app.broker.monotonic", lambda: sum(slept))
    settings["broker.url"] = f"amqp://guest:secret@127.0.0.1:{nobodys_port}//"
    caplog.set_level(logging.WARNING)
    with Inbox(settings) as inbox:
        while sum(slept) < 14:
            assert received(inbox) is None
    assert "secret" not in caplog.text
    told = re.findall(r"The broker cannot be used; trying again in (\d+) s", caplog.text)
    assert told == ["1", "2", "4", "5", "5"]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"broker.url": ""}, "broker.url is missing"),
        ({"broker.url": "ampq://guest:secret@127.0.0.1//"}, "broker.url: No such transport"),
        ({"broker.url": "amqp://guest:secret@127.0.0.1:port//"}, "broker.url: "),
        ({"broker.folder": ""}, "broker.folder is missing"),
    ],
)
def test_bad_settings_stop_the_start(
    settings: dict[str, Any], wrong: dict[str, str], why: str
) -> None:
    """A broker that cannot be is an error of the start, without the password."""
    with pytest.raises(ConfigurationError, match=why) as caught:
        main({}, **{**settings, **wrong})
    assert "secret" not in str(caught.value)


def publish_many(broker: Connection, count: int) -> None:
    """Publish so many events."""
    for _ in range(count):
        publish(broker, EVENT)


def test_files_are_read_whole(settings: dict[str, Any], inbox: Inbox) -> None:
    """A reader that never rests loses no message while they are written."""
    count = 300
    with connect(settings) as broker:
        writer = threading.Thread(target=publish_many, args=(broker, count))
        writer.start()
        inbox.broker.transport.polling_interval = 0.0001
        read = [received(inbox, PATIENCE) for _ in range(count)]
        writer.join()
    assert read == [EVENT] * count


@pytest.mark.parametrize(
    "data",
    [b"", b"{not json", b"\xff", b"[]", b"7", b'{"body": "x"}', b'{"properties": {}}'],
)
def test_a_file_that_is_no_message_is_put_aside(
    data: bytes, settings: dict[str, Any], inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that was full leaves one: it is logged and kept, and the next message comes."""
    folder = Path(settings["broker.folder"], "messages")
    wrong = folder / f"0_wrong.{settings['broker.queue']}.msg"
    wrong.write_bytes(data)
    with connect(settings) as broker:
        publish(broker, EVENT)
    assert received(inbox) == EVENT
    assert received(inbox) is None
    (aside,) = folder.iterdir()
    assert aside.read_bytes() == data
    assert f"put aside as {aside}" in caplog.text


def test_a_folder_that_is_no_message_is_put_aside(
    settings: dict[str, Any], inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be read at all keeps no message from coming."""
    folder = Path(settings["broker.folder"], "messages")
    (folder / f"0_wrong.{settings['broker.queue']}.msg").mkdir()
    with connect(settings) as broker:
        publish(broker, EVENT)
    assert received(inbox) == EVENT
    assert "put aside as" in caplog.text


def test_files_that_cannot_be_used(
    settings: dict[str, Any], inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    """A line in the log on either side, as for any broker that is away; then it goes on."""
    inbox._pause = 0
    with connect(settings) as broker:
        publish(broker, EVENT)
        rmtree(settings["broker.folder"] + "/messages")
        publish_if_stored(True, broker, EVENT)
        assert received(inbox) is None
        assert "is not published: " in caplog.text
        assert "The broker cannot be used" in caplog.text
        assert "Traceback" not in caplog.text
        publish(broker, EVENT)
    wait_until(lambda: received(inbox) == EVENT)
