"""The apps that stand the drills; gunicorn calls `serve` in each of its workers."""

import json
import os
from typing import Any

from pyramid.config import Configurator
from pyramid.paster import get_app, setup_logging
from pyramid.request import Request
from pyramid.router import Router
from sqlalchemy import text

import example_app


def serve() -> Router:
    """Make the app of the ini file that the environment names."""
    uri, variables = os.environ["DRILL_INI"], json.loads(os.environ["DRILL_VARIABLES"])
    setup_logging(uri, variables)
    return get_app(uri, options=variables)


def notes(global_config: dict[str, str], **settings: Any) -> Router:
    """Make the example app."""
    return example_app.main(global_config, **settings)


def slow(global_config: dict[str, str], **settings: Any) -> Router:
    """Make an app whose requests hold their connection for as long as they say."""
    with Configurator(settings=settings) as config:
        config.include("pyramid_retry")
        config.include("pyramid_tm")
        config.include("pyramid_dbpool")
        config.add_route("sleep", "/sleep/{seconds}")
        config.add_view(sleep, route_name="sleep", renderer="json")
    return config.make_wsgi_app()


def sleep(request: Request) -> float:
    """Keep a connection busy."""
    seconds = float(request.matchdict["seconds"])
    request.db.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})
    return seconds
