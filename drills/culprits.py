"""An app whose views do what brings pools down, and its worker; none of it is to be copied.

`python -m drills.culprits` is the worker.
"""

import json
import os
import threading
from typing import Any

from kombu import Message
from pyramid.config import Configurator
from pyramid.paster import get_appsettings, setup_logging
from pyramid.request import Request
from pyramid.router import Router
from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from example_app import broker
from pyramid_dbpool import consume, get_engine

ASK = text("SELECT 1")
WRITE = text("INSERT INTO visits DEFAULT VALUES")

# What the leaking views keep, as a cache at a module's level would.
_kept: list[Connection] = []
# Nobody sets it: who waits for it waits for as long as he says.
_never = threading.Event()


def main(global_config: dict[str, str], **settings: Any) -> Router:
    """Make the app."""
    with Configurator(settings=settings) as config:
        config.include("pyramid_retry")
        config.include("pyramid_tm")
        config.include("pyramid_dbpool")
        config.include("pyramid_dbpool.prometheus")
        config.include("pyramid_dbpool.status")
        for view in (quick, write, slow, keep, export, drop, order, invoice):
            config.add_route(view.__name__, f"/{view.__name__}")
            config.add_view(view, route_name=view.__name__, renderer="json")
    return config.make_wsgi_app()


def quick(request: Request) -> str:
    """Do what every other page does: ask for a moment."""
    request.db.execute(ASK)
    return "ok"


def write(request: Request) -> str:
    """Store something."""
    request.db.execute(WRITE)
    return "ok"


def slow(request: Request) -> str:
    """Hold the connection while another service takes its time."""
    request.db.execute(ASK)
    ask_the_bank()
    return "ok"


def ask_the_bank() -> None:
    """Wait for an answer as long as a payment's service may take."""
    _never.wait(8)


def keep(request: Request) -> str:
    """Take a connection and never give it back."""
    connection = get_engine(request.registry.settings).connect()
    connection.execute(ASK)
    _kept.append(connection)
    return "ok"


def export(request: Request) -> str:
    """Have a thread take a connection and never give it back."""
    arguments = (request.registry.settings,)
    threading.Thread(target=run_export, args=arguments, name="exporter", daemon=True).start()
    return "ok"


def run_export(settings: dict[str, Any]) -> None:
    """Hold a connection beside all requests."""
    with get_engine(settings).connect() as connection:
        connection.execute(ASK)
        wait_for_the_disk()


def wait_for_the_disk() -> None:
    """Never come back."""
    _never.wait()


def drop(request: Request) -> str:
    """Take a connection and forget it, in a cycle that only the collector ends."""
    connection = get_engine(request.registry.settings).connect()
    connection.execute(ASK)
    Forgotten(connection)
    return "ok"


class Forgotten:
    """Refers to itself, as a form and its fields do."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.itself = self


def order(request: Request) -> str:
    """Write with one connection, and number what is written with another one."""
    request.db.execute(ASK)
    return str(next_number(request))


def invoice(request: Request) -> str:
    """Do as an order does."""
    request.db.execute(ASK)
    return str(next_number(request))


def next_number(request: Request) -> int:
    """Take a number in a transaction of its own, so that it stays taken."""
    # By now the other request has its first connection too.
    _never.wait(0.5)
    with get_engine(request.registry.settings).connect() as connection:
        number: int = connection.scalar(text("SELECT nextval('numbers')"))
        return number


TABLES = (
    "CREATE TABLE visits (number serial PRIMARY KEY)",
    "CREATE SEQUENCE numbers",
)


def work() -> None:
    """Handle the messages, until this process is told to end."""
    uri, variables = os.environ["DRILL_INI"], json.loads(os.environ["DRILL_VARIABLES"])
    setup_logging(uri, variables)
    settings = get_appsettings(uri, options=variables)
    with broker.Inbox(settings) as inbox:
        inbox.listen()
        consume(
            inbox,
            handle,
            settings,
            ack=broker.ack,
            identify=lambda message: message.payload["id"],
            stop_on_sigterm=True,
        )


def handle(message: Message, session: Session) -> None:
    """Hold the connection while pictures are made smaller."""
    session.execute(ASK)
    shrink_pictures()


def shrink_pictures() -> None:
    """Be at work for long."""
    _never.wait(20)


if __name__ == "__main__":
    work()
