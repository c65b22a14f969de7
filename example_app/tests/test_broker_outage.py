"""What the app and the streamer do when the broker goes away and comes back."""

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from processes import Program, write
from webtest import TestApp

from example_app.broker import Inbox, ack, connect, publish
from pyramid_dbpool.embedded import free_port
from tests.servers.rabbitmq import OfferedRabbitMQ, RabbitMQ


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
    streamer.wait_for("The broker is away")
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
        message = inbox.get(timeout=5)
        inbox.broker.release()
        ack(message)
    assert "could be answered" in caplog.text
    with Inbox(settings) as inbox:
        inbox.listen()
        again = inbox.get(timeout=5)
        assert again.payload == {"id": "7"}
        ack(again)
    with connect(settings) as broker:
        broker.channel().queue_delete(settings["broker.queue"])


def test_stop_while_the_broker_is_away(
    settings: dict[str, Any], serve: Callable[[str, str], Program]
) -> None:
    """A streamer without a broker ends at SIGTERM as usual."""
    settings["broker.url"] = f"amqp://127.0.0.1:{free_port()}//"
    streamer = serve("-streamer", "The broker is away")
    assert streamer.end(signal.SIGTERM, seconds=15) == 0
    assert "Traceback" not in streamer.output
