"""A small app on the installed wheel and SQLite; `tools/wheel` runs it."""

import importlib.resources
import tempfile
from pathlib import Path

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED
from sqlalchemy import text

from pyramid_dbpool import dispose_engine, session_factory, unit_of_work
from pyramid_dbpool.drivers.connect_failures import TRANSLATED_MESSAGES


def count(request: Request) -> Response:
    """Count the notes."""
    return Response(str(request.db.scalar(text("SELECT count(*) FROM note"))))


def main() -> None:
    """Write a note as a worker does, read it as a request, and look at the live page."""
    package = importlib.resources.files("pyramid_dbpool")
    for name in ("py.typed", "debugtoolbar/templates/panel.dbtmako"):
        assert package.joinpath(name).is_file(), name
    assert all(TRANSLATED_MESSAGES.values())
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "sqlalchemy.url": f"sqlite:///{Path(folder, 'notes.db')}",
            "dbpool.status_permission": NO_PERMISSION_REQUIRED,
        }
        with unit_of_work(session_factory(settings)) as session:
            session.execute(text("CREATE TABLE note (body TEXT)"))
            session.execute(text("INSERT INTO note VALUES ('hello')"))
        with Configurator(settings=settings) as config:
            config.include("pyramid_dbpool")
            config.include("pyramid_dbpool.status")
            config.add_route("count", "/count")
            config.add_view(count, route_name="count")
        app = config.make_wsgi_app()
        response = Request.blank("/count").get_response(app)
        assert response.text == "1", response
        page = Request.blank("/dbpool").get_response(app)
        assert "All is well" in page.text, page
        dispose_engine(settings)


main()
