"""Answers in the API's own words where the database could not be asked, or did not answer.

The log is pyramid_dbpool's, whoever answers.
"""

from pyramid.config import Configurator
from pyramid.request import Request

from pyramid_dbpool import CommitUnknown, DatabaseUnavailable, PoolTimeout


def includeme(config: Configurator) -> None:
    """Say which view answers which error."""
    for error in (PoolTimeout, DatabaseUnavailable):
        config.add_exception_view(busy, context=error, renderer="json")
    config.add_exception_view(unknown, context=CommitUnknown, renderer="json")


def busy(error: PoolTimeout | DatabaseUnavailable, request: Request) -> dict[str, str]:
    """Tell the client when to come again."""
    request.response.status = 503
    request.response.retry_after = error.retry_after
    return {"error": "the database is busy or away; try again in a moment"}


def unknown(error: CommitUnknown, request: Request) -> dict[str, str]:
    """Tell the client that nobody knows: the connection was lost under the COMMIT, thrice."""
    request.response.status = 500
    # A PUT of the same id replaces, and so does no harm.
    return {"error": "it may or may not be stored; sending it again does no harm"}
