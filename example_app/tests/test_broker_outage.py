"""What the app and the streamer do when the broker goes away and comes back."""

from collections.abc import Iterator
from typing import Any

import pytest
from processes import write
from webtest import TestApp

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
