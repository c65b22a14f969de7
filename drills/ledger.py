"""An app and its worker that write on PostgreSQL and MariaDB alike, and count what they wrote.

Each POST and each message is a row of its own: what is lost is missing, and what was done twice is
there twice. `python -m drills.ledger` is the worker.
"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kombu import Message
from pyramid.config import Configurator
from pyramid.paster import get_appsettings, setup_logging
from pyramid.request import Request
from pyramid.response import Response
from pyramid.router import Router
from sqlalchemy import String, create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool

from drills.load import IN_DOUBT
from example_app import broker
from pyramid_dbpool import CommitUnknown, consume

log = logging.getLogger(__name__)


class Base(DeclarativeBase):
    """The root of the models."""


class Entry(Base):
    """What a client has posted."""

    __tablename__ = "entries"

    number: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(36))


class Handled(Base):
    """What the worker has made of the message about an entry."""

    __tablename__ = "handled"

    number: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(36))


def main(global_config: dict[str, str], **settings: Any) -> Router:
    """Make the app."""
    with Configurator(settings=settings) as config:
        config.include("pyramid_retry")
        config.include("pyramid_tm")
        config.include("pyramid_dbpool")
        config.include("example_app.broker")
        config.add_route("entries", "/entries")
        config.add_route("entry", "/entries/{name}")
        config.add_view(count, route_name="entries", request_method="GET", renderer="json")
        config.add_exception_view(in_doubt, context=CommitUnknown)
        config.add_view(post, route_name="entry", request_method="POST", renderer="json")
    return config.make_wsgi_app()


def count(request: Request) -> int:
    """Say how many entries there are."""
    db: Session = request.db
    return db.scalars(select(func.count()).select_from(Entry)).one()


def post(request: Request) -> str:
    """Store an entry."""
    name: str = request.matchdict["name"]
    request.db.add(Entry(name=name))
    broker.publish_after_commit(request, {"id": name})
    return name


def in_doubt(error: CommitUnknown, request: Request) -> Response:
    """Answer a POST whose COMMIT was under way when the connection was lost."""
    return Response(status=500, headers={IN_DOUBT: "yes"})


def work() -> None:
    """Handle the message of each entry, until this process is told to end."""
    uri, variables = os.environ["DRILL_INI"], json.loads(os.environ["DRILL_VARIABLES"])
    setup_logging(uri, variables)
    settings = get_appsettings(uri, options=variables)
    with broker.Inbox(settings) as inbox:
        inbox.listen()
        consume(inbox, handle, settings, ack=broker.ack, on_error=give_up, stop_on_sigterm=True)


def handle(message: Message, session: Session) -> None:
    """Store that a message has come."""
    session.add(Handled(name=message.payload["id"]))


def give_up(message: Message, error: Exception) -> None:
    """Drop a message; the drill looks for these lines."""
    what = "in doubt" if isinstance(error, CommitUnknown) else "given up"
    log.warning("%s: %s", what, message.payload["id"])
    broker.reject(message)


@contextmanager
def reading(url: str) -> Iterator[Session]:
    """Give a session of one's own on a database, without a pool."""
    engine = create_engine(url, poolclass=NullPool)
    with Session(engine) as session:
        yield session


def make_tables(url: str) -> None:
    """Make the tables."""
    with reading(url) as session:
        Base.metadata.create_all(session.get_bind())


def stored(url: str, kind: type[Entry] | type[Handled]) -> list[str]:
    """List what is stored, in no order; what is there twice is listed twice."""
    with reading(url) as session:
        return list(session.scalars(select(kind.name)))


if __name__ == "__main__":
    work()
