"""503 in the API's own words, for a request that gets no database connection."""

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response

from pyramid_dbpool import DatabaseUnavailable, PoolTimeout
from pyramid_dbpool.engines import process_engine
from pyramid_dbpool.overload import OverloadView

POOLS = ("default", "replica")


def includeme(config: Configurator) -> None:
    """Answer what a pool refuses in the place of the plugin."""
    settings = config.registry.settings
    # The plugin's own view: it estimates Retry-After, and logs who holds the connections.
    overload = OverloadView({name: process_engine(settings, name) for name in POOLS})

    def busy(error: Exception, request: Request) -> Response:
        answer = overload(error, request)
        answer.content_type = "application/json"
        answer.json_body = {"error": "the database is busy or away; try again in a moment"}
        return answer

    for error_class in (PoolTimeout, DatabaseUnavailable):
        config.add_exception_view(busy, context=error_class)
