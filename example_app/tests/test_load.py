"""Many sockets on one streamer with a pool of two."""

import selectors
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from time import monotonic, sleep
from typing import Any
from uuid import UUID, uuid4

import pytest
from listener import Listener
from processes import StartProgram, wait_until
from sqlalchemy import text

from example_app.broker import connect, publish
from example_app.models import Note
from pyramid_dbpool import get_engine, unit_of_work

SOCKETS = 200
SECONDS = 20
RATE = 50  # notes a second

pytestmark = pytest.mark.usefixtures("both_environments")


@pytest.fixture
def environment() -> str:
    """Run gevent and RabbitMQ, with production's files."""
    return "production"


@pytest.fixture
def settings(settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Give the settings of a streamer whose connections can be told from the test's."""
    plain = settings["sqlalchemy.url"]
    settings["sqlalchemy.url"] = f"{plain}?application_name=streamer"
    yield settings
    settings["sqlalchemy.url"] = plain


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_socket_gets_every_note(
    settings: dict[str, Any], start_streamer: StartProgram
) -> None:
    """200 sockets, 50 notes a second; the streamer opens two connections at most, keeps none."""
    start_streamer()
    settings = {**settings, "sqlalchemy.url": settings["sqlalchemy.url"].partition("?")[0]}
    notes = [uuid4() for _ in range(SECONDS * RATE)]
    states: list[list[str]] = []
    with ExitStack() as stack:
        listeners = [Listener.connect(settings) for _ in range(SOCKETS)]
        for listener in listeners:
            stack.callback(listener.sock.close)
            listener.read()
        writer = threading.Thread(target=write, args=(settings, notes, states))
        writer.start()
        read_all(listeners, len(notes))
        writer.join()
    for listener in listeners:
        assert [note["id"] for note in listener.notes] == [str(note) for note in notes]
    assert max(len(each) for each in states) <= 2
    # The last note was sent before its transaction's end.
    wait_until(lambda: set(states_now(settings)) <= {"idle"})


def write(settings: dict[str, Any], notes: list[UUID], states: list[list[str]]) -> None:
    """Store and publish the notes at their rate; look at the streamer's connections meanwhile."""
    start = monotonic()
    with connect(settings) as broker:
        for number, note in enumerate(notes):
            with unit_of_work(settings) as session:
                session.add(Note(id=note, text="Hello"))
            publish(broker, {"id": str(note)})
            if number % RATE == 0:
                states.append(states_now(settings))
            sleep(max(0, start + number / RATE - monotonic()))


def read_all(listeners: list[Listener], count: int) -> None:
    """Read until every socket has got so many notes."""
    with selectors.DefaultSelector() as selector:
        for listener in listeners:
            selector.register(listener, selectors.EVENT_READ, listener)
        while selector.get_map():
            for key, _ in selector.select(60):
                assert key.data.read()
                if len(key.data.notes) >= count:
                    selector.unregister(key.data)


def states_now(settings: dict[str, Any]) -> list[str]:
    """Tell what each of the streamer's connections is doing."""
    query = text(
        "SELECT state FROM pg_stat_activity"
        " WHERE application_name = 'streamer' AND datname = current_database()"
    )
    with get_engine(settings).connect() as connection:
        return list(connection.scalars(query))
