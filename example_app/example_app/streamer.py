"""Push every note to the browsers as it is stored: `pserve development-streamer.ini`.

gunicorn serves the websockets, each in a thread or greenlet of its own. Beside
them, in each of its workers, one more takes the events from the broker.
"""

import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from time import sleep
from typing import Any
from uuid import UUID

from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from gunicorn.workers.base import Worker
from kombu import Message
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.httpexceptions import HTTPBadRequest, HTTPForbidden
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response
from pyramid.router import Router
from pyramid.settings import aslist
from simple_websocket import ConnectionError as NoHandshake
from sqlalchemy.orm import Session
from wsproto.utilities import RemoteProtocolError

from example_app import broker
from example_app.models import Note
from example_app.sockets import Hub, Socket
from pyramid_dbpool import DatabaseUnavailable, consume, get_engine

log = logging.getLogger(__name__)

# gunicorn's master ends with a worker that ends with this; any other it starts again, at once
# and without end.
GIVE_UP = 3
LAST_MOMENT = 0.5  # seconds; a broker that does not answer must not hold up the end


def main(global_config: dict[str, str], **settings: Any) -> Router:
    """Make the streamer; `[app:main]` of its ini file gives the settings."""
    # Wrong settings are an error of the start; nothing is connected to.
    get_engine(settings)
    broker.Inbox(settings)
    broker.needed(settings, "streamer.origins")
    with Configurator(settings=settings) as config:
        config.registry["hub"] = Hub()
        config.add_route("live", "/live")
        config.add_view(live, route_name="live", request_method="GET")
    return config.make_wsgi_app()


def live(request: Request) -> Response:
    """Be a socket until either side closes it. It has no database connection."""
    # A page of somebody else's may open a websocket to here: browsers do not ask for that.
    if request.headers.get("Origin") not in aslist(request.registry.settings["streamer.origins"]):
        return HTTPForbidden("streamer.origins does not have the page that asks.")
    hub: Hub = request.registry["hub"]
    try:
        # It is in the hub before its browser knows that it is open, and catches up: no note comes
        # between the two.
        hub.serve(Socket(request.environ))
    except (NoHandshake, RemoteProtocolError) as error:
        return HTTPBadRequest(f"This is for websockets: {error}")
    return Over()


class Over(Response):  # type: ignore[misc]  # Pyramid says no types
    """What there is to answer when the socket is closed: nothing."""

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        """Tell gunicorn to write nothing."""
        raise StopIteration


def post_worker_init(worker: Worker) -> None:
    """Start to take events; gunicorn calls this in its worker (`config` in the ini file)."""
    if worker.cfg.workers > 1:
        # They would share the queue, and each socket see a part of the notes.
        raise ConfigurationError("workers: a streamer has one, see production-streamer.ini")
    registry = worker.wsgi.registry
    taking = threading.Thread(target=stream, args=(registry, worker), daemon=True)
    registry["end"] = threading.Thread(target=end, args=(registry, worker, taking), daemon=True)
    taking.start()
    registry["end"].start()


def worker_exit(server: Arbiter, worker: Worker) -> None:
    """Let the stream end first; gunicorn calls this where its worker ends before we end it."""
    app = getattr(worker, "wsgi", None)
    if app is not None and "end" in app.registry:
        worker.alive = False
        # An interpreter that ends under the stream shows a traceback now and then.
        app.registry["end"].join()


def on_exit(server: Arbiter) -> None:
    """End with gunicorn's own exit code; its master calls this as its last act."""
    error = sys.exc_info()[1]
    leave(error.exit_status if isinstance(error, HaltServer) else 0)


def leave(code: int) -> None:
    """End this process at once.

    pserve would make an exit code of 0 of a SystemExit, and an interpreter that clears up takes
    half a second.
    """
    logging.shutdown()
    os._exit(code)


def stream(registry: Registry, worker: Worker) -> None:
    """Push the note of every event, until the worker ends."""
    hub: Hub = registry["hub"]
    try:
        with broker.Inbox(registry.settings) as inbox:
            consume(
                inbox,
                lambda message, session: push(message, session, hub),
                registry.settings,
                ack=broker.ack,
                on_error=drop,
                stop=Ending(worker),
                # Waits for a snapshot that no other transaction can spoil.
                isolation_level="SERIALIZABLE",
                read_only=True,
                deferrable=True,
            )
    except DatabaseUnavailable:
        # A person has to look; `consume` has logged what it is.
        registry["refused"] = True
    except Exception:
        log.exception("The streamer cannot go on; gunicorn will start it again")
    finally:
        worker.alive = False


def end(registry: Registry, worker: Worker, taking: threading.Thread) -> None:
    """Close the sockets when the worker is to end, then end it: gunicorn looks once a second."""
    ending = Ending(worker)
    while not ending.is_set():
        ending.wait(0.1)
    # Before the stream ends, for it may still wait for a broker that does not answer.
    registry["hub"].close()
    taking.join(LAST_MOMENT)
    # The broker files have to get back what a stream that is stuck has in hand.
    if not taking.is_alive():
        leave(GIVE_UP if registry.get("refused") else 0)


def push(message: Message, session: Session, hub: Hub) -> None:
    """Push the note that a message is about."""
    note = session.get(Note, UUID(message.payload["id"]))
    if note is not None:
        count = hub.push(json.dumps(note.shown()))
        log.info("note %s to %d %s", note.id, count, "socket" if count == 1 else "sockets")


def drop(message: Message, error: Exception) -> None:
    """Drop a message that cannot be handled; `consume` has logged the error."""
    broker.reject(message)


class Ending:
    """The end of a gunicorn worker, as an event for `consume`."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def is_set(self) -> bool:
        """Tell whether gunicorn wants the worker to end."""
        return not self._worker.alive

    def wait(self, timeout: float | None = None) -> None:
        """Wait; `consume` asks again after a short time."""
        sleep(timeout or 0)
