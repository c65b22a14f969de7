"""A Pyramid app with the live page, for servers: `application`; what it needs is in STATUS_APP."""

import json
import os
from typing import Any

from pyramid.config import Configurator
from pyramid.request import Request
from sqlalchemy import text
from sqlalchemy.pool import PoolProxiedConnection

from pyramid_dbpool import ManagedPool, get_engine
from tests.support.status_app import UserHeader

settings: dict[str, str] = json.loads(os.environ["STATUS_APP"])
kept: list[PoolProxiedConnection] = []


def keep(_request: Request) -> str:
    """Take a connection and keep it, if there is one."""
    engine = get_engine(settings)
    assert isinstance(engine.pool, ManagedPool)
    snapshot = engine.pool.snapshot()
    if snapshot.leased < (snapshot.capacity or 0):
        kept.append(engine.raw_connection())
    return "kept"


def drop(_request: Request) -> str:
    """Give all of them back."""
    while kept:
        kept.pop().close()
    return "dropped"


def use(request: Request) -> str:
    """Ask the database."""
    return str(request.db.scalar(text("SELECT 1")))


def make() -> Any:
    """Build the app."""
    with Configurator(settings=settings) as config:
        config.include("pyramid_retry")
        config.include("pyramid_tm")
        config.include("pyramid_dbpool")
        config.include("pyramid_dbpool.status")
        config.set_security_policy(UserHeader())
        for view in (keep, drop, use):
            config.add_route(view.__name__, f"/{view.__name__}")
            config.add_view(view, route_name=view.__name__, renderer="string")
    return config.make_wsgi_app()


application = make()
