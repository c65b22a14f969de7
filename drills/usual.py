"""The usual pattern: a stock pool with pre-ping, pyramid_tm, pyramid_retry, zope.sqlalchemy.

What Pyramid's cookiecutter makes for the web app, and h's loop for its streamer: the example
app in it is what the drills compare with.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from queue import Empty
from typing import Any

import zope.sqlalchemy
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.router import Router
from sqlalchemy import Engine, engine_from_config, text
from sqlalchemy.orm import Session, sessionmaker

log = logging.getLogger(__name__)

SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE"


def main(global_config: dict[str, str], **settings: Any) -> Router:
    """Make the example app without the plugin."""
    with Configurator(settings=settings) as config:
        config.include("pyramid_retry")
        config.include("pyramid_tm")
        config.include(include_models)
        config.include("example_app.broker")
        config.include("example_app.views")
    return config.make_wsgi_app()


def include_models(config: Configurator) -> None:
    """Give each request a session, as the cookiecutter's `models/__init__.py` does."""
    factory = sessionmaker(engine(config.get_settings()))
    replica = sessionmaker(engine(config.get_settings()))

    def session(request: Request, factory: "sessionmaker[Session]" = factory) -> Session:
        made = factory(info={"request": request})
        zope.sqlalchemy.register(made, transaction_manager=request.tm)
        return made

    config.add_request_method(session, "db", reify=True)
    config.add_request_method(lambda request: session(request, replica), "db_replica", reify=True)


def engine(settings: Mapping[str, Any]) -> Engine:
    """Make the engine; of ini files, only the URL is SQLAlchemy's here."""
    keys = ("url", "pool_size", "max_overflow", "pool_pre_ping", "hide_parameters")
    chosen = {f"sqlalchemy.{key}": settings.get(f"sqlalchemy.{key}") for key in keys}
    return engine_from_config({key: value for key, value in chosen.items() if value is not None})


def consume(
    messages: Any,
    handle: Callable[[Any, Session], object],
    settings: Mapping[str, Any],
    *,
    ack: Callable[[Any], object],
    stop: Any,
    **options: Any,
) -> None:
    """Stand in for `pyramid_dbpool.consume`: log what fails, and go on with the next message."""
    session = Session(engine(settings))
    for message in received(messages, stop):
        try:
            session.execute(text(SNAPSHOT))
            handle(message, session)
        except (KeyboardInterrupt, SystemExit):
            session.rollback()
            raise
        except Exception:
            log.exception("A message could not be handled")
            session.rollback()
        else:
            session.commit()
        finally:
            session.close()
        ack(message)


def received(messages: Any, stop: Any) -> Iterator[Any]:
    """Yield what the broker delivers."""
    while not stop.is_set():
        with suppress(Empty):
            yield messages.get(timeout=0.5)
