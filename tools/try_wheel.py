"""A small app on the installed wheel and SQLite; `tools/wheel` runs it."""

import importlib.resources
import tempfile
from pathlib import Path

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy import text

from pyramid_dbpool import dispose_engine, session_factory, unit_of_work
from pyramid_dbpool.drivers.connect_failures import TRANSLATED_MESSAGES


def count(request: Request) -> Response:
    """Count the notes."""
    return Response(str(request.db.scalar(text("SELECT count(*) FROM note"))))


def main() -> None:
    """Write a note as a worker does, read it as a request."""
    assert importlib.resources.files("pyramid_dbpool").joinpath("py.typed").is_file()
    assert all(TRANSLATED_MESSAGES.values())
    with tempfile.TemporaryDirectory() as folder:
        settings = {"sqlalchemy.url": f"sqlite:///{Path(folder, 'notes.db')}"}
        with unit_of_work(session_factory(settings)) as session:
            session.execute(text("CREATE TABLE note (body TEXT)"))
            session.execute(text("INSERT INTO note VALUES ('hello')"))
        with Configurator(settings=settings) as config:
            config.include("pyramid_dbpool")
            config.add_route("count", "/count")
            config.add_view(count, route_name="count")
        response = Request.blank("/count").get_response(config.make_wsgi_app())
        assert response.text == "1", response
        dispose_engine(settings)


main()
