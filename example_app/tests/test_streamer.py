"""The streamer, as gunicorn runs it."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from http.client import HTTPConnection
from time import monotonic
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from kombu import Message
from processes import BOTH, PATIENCE, StartProgram, connect_socket, wait_until, write
from pyramid.exceptions import ConfigurationError
from simple_websocket import Client, ConnectionClosed
from sqlalchemy import text
from sqlalchemy.orm import Session
from webtest import TestApp
from wsproto.utilities import LocalProtocolError

from example_app import streamer
from example_app.broker import EXCHANGE, Inbox, connect
from example_app.sockets import Hub
from pyramid_dbpool import unit_of_work

pytestmark = pytest.mark.usefixtures("both_environments")

OpenSocket = Callable[[], Client]


@pytest.fixture
def open_socket(settings: dict[str, Any]) -> Iterator[OpenSocket]:
    """Open sockets, as the page does."""
    opened = []

    def connect() -> Client:
        opened.append(connect_socket(settings))
        return opened[-1]

    yield connect
    for client in opened:
        # The streamer may just be about to close it, or have gone.
        with suppress(ConnectionClosed, LocalProtocolError, OSError):
            client.close()
        client.thread.join()


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


@BOTH
def test_pushes_each_note_to_each_socket(
    app: TestApp, start_streamer: StartProgram, open_socket: OpenSocket
) -> None:
    """A note that is written comes out of every socket, as the API shows it."""
    start_streamer()
    sockets = [open_socket() for _ in range(3)]
    for words in ("Hello", "two\nlines"):
        note = write(app, words)
        shown = app.get(f"/api/notes/{note}").text
        assert [socket.receive(PATIENCE) for socket in sockets] == [f"[{shown}]"] * 3


@BOTH
def test_sigterm_closes_the_sockets_and_ends_it(
    app: TestApp, start_streamer: StartProgram, open_socket: OpenSocket
) -> None:
    """Browsers are told that the streamer goes away; it ends at once, in silence."""
    program, sockets = start_streamer(), [open_socket() for _ in range(3)]
    assert program.end(signal.SIGTERM) == 0
    for socket in sockets:
        with pytest.raises(ConnectionClosed) as closed:
            socket.receive(PATIENCE)
        assert closed.value.reason == 1001
    # pserve would tell of one, though there was no error.
    assert "traceback" not in program.output.lower()


@BOTH
@pytest.mark.slow
def test_sigterm_ends_it_in_less_than_a_second(
    start_streamer: StartProgram, open_socket: OpenSocket
) -> None:
    """Which of gunicorn's seconds it is has nothing to do with it."""

    def seconds() -> float:
        program = start_streamer()
        open_socket()
        began = monotonic()
        program.end(signal.SIGTERM)
        return monotonic() - began

    # One of some: others may be at work on this machine.
    assert any(seconds() < 1 for _ in range(5))


def test_ctrl_c_ends_it_in_silence(start_streamer: StartProgram, open_socket: OpenSocket) -> None:
    """Ctrl-C is no error."""
    program = start_streamer()
    open_socket()
    assert program.end(signal.SIGINT) == 0
    assert "Traceback" not in program.output


@BOTH
def test_takes_what_was_published_while_it_was_away(
    app: TestApp, start_streamer: StartProgram
) -> None:
    """The queue keeps the events for the next streamer."""
    start_streamer().end(signal.SIGTERM)
    note = write(app, "Anybody there?")
    start_streamer().wait_for(f"note {note} to 0 sockets")


NO_EVENTS = [
    (b"{not json", "application/json"),
    (b"[]", "application/json"),
    (b'{"id": 7}', "application/json"),
    (b'{"id": "7"}', "application/json"),
    (b"cos\nsystem\n.", "application/x-python-serialize"),
    (b"\xff", "text/nonsense"),
]


@BOTH
def test_message_that_is_no_event(
    app: TestApp, settings: dict[str, Any], start_streamer: StartProgram
) -> None:
    """What cannot be read is logged and dropped for good; the next note is pushed."""
    program = start_streamer()
    for body, content_type in NO_EVENTS:
        publish_raw(settings, body, content_type)
        program.wait_for("could not be handled")
    program.wait_for(write(app, "Hello"))
    program.end(signal.SIGTERM)
    again = start_streamer()
    again.wait_for(write(app, "Hello again"))
    assert "could not be handled" not in again.output


def test_note_that_has_gone(
    settings: dict[str, Any], app: TestApp, start_streamer: StartProgram
) -> None:
    """An event about a note that is not there any more is no error."""
    program = start_streamer()
    publish_raw(settings, b'{"id": "%s"}' % str(uuid4()).encode(), "application/json")
    program.wait_for(write(app, "Hello"))
    assert "Traceback" not in program.output


def test_is_in_no_transaction_between_two_notes(
    app: TestApp, settings: dict[str, Any], start_streamer: StartProgram
) -> None:
    """The streamer has given its connection back before it waits for a note."""
    start_streamer().wait_for(write(app, "Hello"))
    wait_until(lambda: transactions_open(settings) == 0)


def test_its_transactions_are_serializable_read_only_and_deferrable(
    app: TestApp, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL itself says so, of the transaction in which a note is pushed."""
    seen = []
    worker = SimpleNamespace(alive=True)

    def push(message: Message, session: Session, hub: Hub) -> None:
        for mode in ("isolation", "read_only", "deferrable"):
            seen.append(session.scalar(text(f"SHOW transaction_{mode}")))
        worker.alive = False

    with Inbox(settings) as inbox:
        inbox.listen()  # makes the queue, which keeps the note for the streamer
    write(app, "Hello")
    monkeypatch.setattr(streamer, "push", push)
    streamer.stream(streamer.main({}, **settings).registry, worker)
    assert seen == ["serializable", "on", "on"]


def transactions_open(settings: dict[str, Any]) -> int:
    """Count the transactions that others have open."""
    query = text(
        "SELECT count(*) FROM pg_stat_activity WHERE xact_start IS NOT NULL"
        " AND datname = current_database() AND pid != pg_backend_pid()"
    )
    with unit_of_work(settings) as session:
        return session.scalar(query) or 0


UPGRADE = {"Upgrade": "websocket", "Connection": "Upgrade"}


def test_who_is_refused(settings: dict[str, Any], start_streamer: StartProgram) -> None:
    """Other people's pages, and what is no websocket."""
    program = start_streamer()
    ours = settings["streamer.origins"]
    assert status(settings, {}) == 403
    assert status(settings, {"Origin": "https://elsewhere.example.org", **UPGRADE}) == 403
    assert status(settings, {"Origin": ours}) == 400
    assert status(settings, {"Origin": ours, **UPGRADE}) == 400
    program.end(signal.SIGTERM)
    assert "Traceback" not in program.output


def status(settings: dict[str, Any], headers: dict[str, str]) -> int:
    """Ask the streamer for a socket, and give the answer's status."""
    host, path = settings["streamer.address"].removeprefix("ws://").split("/")
    with closing(HTTPConnection(host, timeout=PATIENCE)) as connection:
        connection.request("GET", f"/{path}", headers=headers)
        with connection.getresponse() as response:
            return response.status


def test_two_workers_are_refused() -> None:
    """They would share the queue's events."""
    worker = SimpleNamespace(cfg=SimpleNamespace(workers=2))
    with pytest.raises(ConfigurationError, match="a streamer has one"):
        streamer.post_worker_init(worker)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Give a gunicorn worker whose stream lasts until `stopped` is set; `said` is what happens."""
    registry, said = dict[str, Any](hub=Hub()), list[object]()
    made = SimpleNamespace(
        cfg=SimpleNamespace(workers=1),
        wsgi=SimpleNamespace(registry=registry),
        alive=True,
        stopped=threading.Event(),
        said=said,
    )

    def stream(registry: dict[str, Any], worker: SimpleNamespace) -> None:
        made.stopped.wait()
        said.append("stream ended")

    monkeypatch.setattr(streamer, "stream", stream)
    monkeypatch.setattr(streamer, "leave", said.append)
    monkeypatch.setattr(streamer, "LAST_MOMENT", PATIENCE)
    yield made
    made.alive = False
    made.stopped.set()
    # Before `leave` is the real one again, which would end the tests.
    registry["end"].join()


@pytest.mark.parametrize(("refused", "code"), [(False, 0), (True, streamer.GIVE_UP)])
def test_worker_is_ended_as_soon_as_its_stream(
    worker: SimpleNamespace, refused: bool, code: int
) -> None:
    """Though gunicorn has not noticed yet that it is to end."""
    streamer.post_worker_init(worker)
    worker.wsgi.registry["refused"] = refused
    worker.alive = False
    worker.stopped.set()
    worker.wsgi.registry["end"].join()
    assert worker.said == ["stream ended", code]


def test_process_does_not_end_under_the_stream(worker: SimpleNamespace) -> None:
    """The interpreter would take away what it uses, with a traceback for whoever reads the log."""
    streamer.post_worker_init(worker)
    threading.Timer(0.1, worker.stopped.set).start()
    streamer.worker_exit(None, worker)
    assert worker.said == ["stream ended", 0]


def test_stream_that_is_stuck_is_left_to_gunicorn(
    worker: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only an interpreter that ends in order gives the broker's files back what is in hand."""
    monkeypatch.setattr(streamer, "LAST_MOMENT", 0.1)
    streamer.post_worker_init(worker)
    streamer.worker_exit(None, worker)
    assert worker.said == []
