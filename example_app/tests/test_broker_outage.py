"""What the app and the streamer do when the broker goes away and comes back."""

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Empty
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import pytest
from kombu import pools
from processes import PATIENCE, Program, connect_socket, wait_until, write
from simple_websocket import ConnectionClosed
from webtest import TestApp

from example_app.broker import Inbox, ack, connect, publish
from tests.support.servers.fixtures import NewProxy
from tests.support.servers.rabbitmq import OfferedRabbitMQ, RabbitMQ


@pytest.fixture
def broker(rabbitmq: RabbitMQ | OfferedRabbitMQ) -> Iterator[RabbitMQ]:
    """Give a RabbitMQ that may be stopped."""
    if isinstance(rabbitmq, OfferedRabbitMQ):
        pytest.skip("the RabbitMQ that the environment offers is not ours to stop")
    yield rabbitmq
    rabbitmq.start()


@pytest.mark.slow
def test_broker_that_was_restarted(
    broker: RabbitMQ,
    settings: dict[str, Any],
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Notes are stored while the broker is away; afterwards events flow again by themselves."""
    settings.update({"broker.url": broker.url(), "broker.queue": "streamer"})
    app: TestApp = request.getfixturevalue("app")
    streamer = request.getfixturevalue("start_streamer")()
    streamer.wait_for(write(app, "before"))
    broker.stop()
    streamer.wait_for("The broker cannot be used")
    unpublished = write(app, "meanwhile")
    assert unpublished in caplog.text
    broker.start()
    streamer.wait_for("Listening to the queue")
    streamer.wait_for(write(app, "after"))


def test_connection_lost_before_the_acknowledgement(
    rabbitmq: RabbitMQ | OfferedRabbitMQ,
    settings: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A message that can no longer be acknowledged is no error: it comes again."""
    settings["broker.url"] = rabbitmq.url()
    with Inbox(settings) as inbox, connect(settings) as broker:
        inbox.listen()
        publish(broker, {"id": "7"})
        message = inbox.get(timeout=PATIENCE)
        inbox.broker.release()
        ack(message)
    assert "could be answered" in caplog.text
    with Inbox(settings) as inbox:
        inbox.listen()
        again = inbox.get(timeout=PATIENCE)
        assert again.payload == {"id": "7"}
        ack(again)
    with connect(settings) as broker:
        broker.channel().queue_delete(settings["broker.queue"])


def test_broker_that_refuses_the_login(
    rabbitmq: RabbitMQ | OfferedRabbitMQ,
    settings: dict[str, Any],
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The note is stored, and the streamer goes on asking; both say why, in a line."""
    settings["broker.url"] = with_password(rabbitmq.url(), "wrong-secret")
    write(request.getfixturevalue("app"), "Hello")
    with Inbox(settings) as inbox, pytest.raises(Empty):
        inbox.get(timeout=PATIENCE)
    assert "is not published: " in caplog.text
    assert "The broker cannot be used; trying again in 1 s: " in caplog.text
    assert caplog.text.count("ACCESS_REFUSED") == 2
    assert "Traceback" not in caplog.text
    assert "wrong-secret" not in caplog.text


def with_password(url: str, password: str) -> str:
    """Change the password in a broker's URL."""
    start, _, host = url.rpartition("@")
    return f"{start.rpartition(':')[0]}:{password}@{host}"


@pytest.mark.slow
def test_broker_that_says_nothing(
    rabbitmq: RabbitMQ | OfferedRabbitMQ,
    settings: dict[str, Any],
    new_proxy: NewProxy,
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One whose disk is full confirms nothing: the writer is answered all the same."""
    proxy = new_proxy(rabbitmq.url())
    settings["broker.url"] = proxy.url(rabbitmq.url())
    app: TestApp = request.getfixturevalue("app")
    # kombu opens all connections of its pool before it uses one again.
    for _ in range(pools.get_limit() + 1):
        write(app, "before")
    assert caplog.text == ""
    proxy.faults.latency = 600
    began = monotonic()
    note = write(app, "Anybody there?")
    assert monotonic() - began < 10
    assert f"The event {{'id': '{note}'}} is not published: " in caplog.text
    assert "Traceback" not in caplog.text


def test_stop_while_the_broker_is_away(
    settings: dict[str, Any], nobodys_port: int, serve: Callable[[str, str], Program]
) -> None:
    """A streamer without a broker ends at SIGTERM as usual."""
    settings["broker.url"] = f"amqp://127.0.0.1:{nobodys_port}//"
    streamer = serve("-streamer", "The broker cannot be used")
    assert streamer.end(signal.SIGTERM) == 0
    assert "Traceback" not in streamer.output


def test_stop_while_the_broker_does_not_answer(
    settings: dict[str, Any], serve: Callable[[str, str], Program]
) -> None:
    """The browsers are told at once, though the streamer still waits for the broker."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings["broker.url"] = f"amqp://127.0.0.1:{silent.getsockname()[1]}//"
        streamer = serve("-streamer", "Booting worker")
        wait_until(lambda: listens(settings["streamer.address"]))
        client = connect_socket(settings)
        with silent.accept()[0]:
            assert streamer.end(signal.SIGTERM) == 0
    with pytest.raises(ConnectionClosed) as closed:
        client.receive(PATIENCE)
    assert closed.value.reason == 1001
    assert "Traceback" not in streamer.output


def listens(address: str) -> bool:
    """Tell whether somebody takes connections there."""
    place = urlsplit(address)
    with suppress(OSError), socket.create_connection((place.hostname, place.port)):
        return True
    return False
