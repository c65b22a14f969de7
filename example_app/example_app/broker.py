"""The broker: an event for each stored note, and the streamer's queue of them.

`broker.url` says which: `amqp://user:password@host//` is RabbitMQ, `filesystem://`
keeps the messages in `broker.folder`. `broker.queue` names the streamer's queue;
it keeps what is published while the streamer is away. `broker.prefetch` is how many
messages the streamer takes before it acknowledges the first.

A process that dies between the commit and the event leaves a note without one, and
so does a broker that is away. Browsers see such a note when they next catch up, with
`GET /api/notes?since=`: when their socket opens, and every ten seconds.
"""

import logging
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty
from time import monotonic, sleep
from typing import Any

from kombu import Connection, Consumer, Exchange, Message, Queue
from kombu.exceptions import OperationalError
from kombu.pools import producers
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.request import Request

from example_app import files

log = logging.getLogger(__name__)

EXCHANGE = Exchange("notes", type="fanout")
LONGEST_PAUSE = 5.0  # seconds between two attempts to reach the broker
UNUSED = 3600  # seconds after which RabbitMQ drops the queue of a streamer that has gone


def includeme(config: Configurator) -> None:
    """Put the broker into the registry; it is connected to by the first event."""
    config.registry["broker"] = connect(config.registry.settings)


def connect(settings: Mapping[str, Any]) -> Connection:
    """Describe the broker of the settings; the network is touched at first use."""
    url = needed(settings, "broker.url")
    if url.startswith("filesystem:"):
        options = file_options(Path(needed(settings, "broker.folder")))
        return Connection(transport=files.Transport, transport_options=options)
    # Without confirms an event that RabbitMQ never got would count as published.
    options = {"confirm_publish": True}
    try:
        return Connection(url, transport_options=options, connect_timeout=2)
    except (ImportError, KeyError, ValueError) as error:
        # The URL itself can hold a password.
        raise ConfigurationError(f"broker.url: {error.args[0]}") from None


def file_options(folder: Path) -> dict[str, Any]:
    """Describe a broker that keeps its messages in a folder."""
    messages, control = folder / "messages", folder / "control"
    for part in (messages, control):
        part.mkdir(parents=True, exist_ok=True)
    return {
        "data_folder_in": str(messages),
        "data_folder_out": str(messages),
        "control_folder": str(control),
        "polling_interval": 0.05,
    }


def needed(settings: Mapping[str, Any], key: str) -> str:
    """Read a setting that must be there."""
    value: str = settings.get(key, "").strip()
    if not value:
        raise ConfigurationError(f"{key} is missing in the ini file, see development.ini")
    return value


def publish_after_commit(request: Request, event: dict[str, str]) -> None:
    """Publish an event when the request's transaction is committed, and only then."""
    broker = request.registry["broker"]
    request.tm.get().addAfterCommitHook(publish_if_stored, args=(broker, event))


def publish_if_stored(stored: bool, broker: Connection, event: dict[str, str]) -> None:
    """Publish an event, unless the commit failed."""
    if not stored:
        return
    try:
        publish(broker, event)
    except (OperationalError, *failures(broker)) as error:
        # The note is stored: a broker that is away must not make a 500 of that.
        log.warning("The event %r is not published: %s", event, error)
    except Exception:
        log.exception("The event %r is not published", event)


def publish(broker: Connection, event: dict[str, str]) -> None:
    """Publish an event to whoever listens."""
    with producers[broker].acquire(block=True, timeout=2) as producer:
        producer.publish(
            event,
            exchange=EXCHANGE,
            declare=[EXCHANGE],
            # RabbitMQ confirms nothing while its disk or memory is full.
            timeout=2,
            # The connection may have died since its last use: one more try.
            retry=True,
            retry_policy={"max_retries": 1, "interval_start": 0},
        )


def failures(broker: Connection) -> tuple[type[Exception], ...]:
    """List what goes wrong with a broker: it is away, or refuses what is asked of it."""
    return (
        OSError,  # kombu does not count the folder of `filesystem://` that is full or gone
        *broker.connection_errors,
        *broker.channel_errors,
        *broker.recoverable_connection_errors,
    )


class Inbox:
    """The streamer's queue, as `consume` takes it; reconnects when the broker goes away."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self.broker = connect(settings)
        self._queue = Queue(needed(settings, "broker.queue"), EXCHANGE, expires=UNUSED)
        self._prefetch = int(settings.get("broker.prefetch", 10))
        self._received: deque[Message] = deque()
        self._consumer: Consumer | None = None
        self._pause = 1.0
        self._next_attempt = 0.0

    def __enter__(self) -> "Inbox":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.broker.release()

    def get(self, *, timeout: float) -> Message:
        """Return the next message; raise `queue.Empty` when there is none for so many seconds."""
        try:
            self._receive(timeout)
        except failures(self.broker) as error:
            self._lost(error)
        if not self._received:
            raise Empty
        return self._received.popleft()

    def listen(self) -> None:
        """Make the queue, so that it gets what is published from now on."""
        # By itself kombu would sleep for seconds here, deaf to a stop.
        self.broker.ensure_connection(
            max_retries=1, interval_start=0, reraise_as_library_errors=False
        )
        consumer = Consumer(
            self.broker.channel(),
            [self._queue],
            on_message=self._received.append,
            accept=["json"],
            prefetch_count=self._prefetch,
        )
        consumer.consume()
        self._consumer = consumer
        self._pause = 1.0
        log.info("Listening to the queue %s", self._queue.name)

    def _receive(self, timeout: float) -> None:
        if self._received:
            return
        if self._consumer is None:
            wait = self._next_attempt - monotonic()
            if wait > 0:
                sleep(min(wait, timeout))
                return
            self.listen()
        with suppress(TimeoutError):
            self.broker.drain_events(timeout=timeout)

    def _lost(self, error: Exception) -> None:
        log.warning(
            "The broker cannot be used; trying again in %d s: %s (broker.url)", self._pause, error
        )
        self._next_attempt = monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        # The broker will send again what was received and not acknowledged.
        self._received.clear()
        self._consumer = None
        self.broker.release()
        self.broker = connect(self._settings)


def ack(message: Message) -> None:
    """Tell the broker that a message is done with."""
    with nobody_to_tell():
        message.ack()


def reject(message: Message) -> None:
    """Tell the broker to drop a message, or to put it aside if it has a place for that."""
    with nobody_to_tell():
        message.reject()


@contextmanager
def nobody_to_tell() -> Iterator[None]:
    """Let a lost connection pass: the broker will send the message again."""
    try:
        yield
    except Exception as error:
        log.warning("The broker went away before it could be answered: %r", error)
