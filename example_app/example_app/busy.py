"""503 in the API's own words, for a request that gets no database connection."""

from pyramid.config import Configurator
from pyramid.events import NewResponse

from pyramid_dbpool import DatabaseUnavailable, PoolTimeout


def includeme(config: Configurator) -> None:
    """Let the plugin answer, with its Retry-After; only the words are ours."""
    config.add_subscriber(in_json, NewResponse)


def in_json(event: NewResponse) -> None:
    """Put the plugin's answer into JSON."""
    if isinstance(event.request.exception, PoolTimeout | DatabaseUnavailable):
        words = {"error": "the database is busy or away; try again in a moment"}
        event.response.content_type = "application/json"
        event.response.json_body = words
