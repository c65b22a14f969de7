"""A Pyramid app that has used its pool before its server forks, and holds a session as well.

`application` is for gunicorn --preload and uWSGI; URL comes from FORK_APP_URL.
"""

import os
import threading
from typing import Any

from pyramid.config import Configurator
from pyramid.request import Request
from sqlalchemy import text

from pyramid_dbpool import ForkedConnectionError, session_factory

MASTER = os.getpid()
# Two sessions at a time are meant here.
settings = {
    "sqlalchemy.url": os.environ["FORK_APP_URL"],
    "dbpool.hold_warning": "off",
    # In the master something is always due, also when a worker is replaced.
    "dbpool.keepalive": "100ms",
}
held = session_factory(settings)
idle = session_factory(settings)
BACKENDS = [s.scalar(text("SELECT pg_backend_pid()")) for s in (held, idle)]
idle.close()
THREADS = [thread.name for thread in threading.enumerate()]


def backend(request: Request) -> dict[str, Any]:
    """Tell who serves, and with which backend."""
    return {
        "forked": os.getpid() != MASTER,
        "pid": os.getpid(),
        "backend": request.db.scalar(text("SELECT pg_backend_pid()")),
        "masters": BACKENDS,
        "masters_threads": THREADS,
    }


def use_held(request: Request) -> dict[str, str]:
    """Use what the master had checked out."""
    try:
        held.execute(text("SELECT 1"))
    except ForkedConnectionError as error:
        return {"error": str(error)}
    return {"error": ""}


def make() -> Any:
    """Build the app."""
    with Configurator(settings=settings) as config:
        config.include("pyramid_dbpool")
        for view in (backend, use_held):
            config.add_route(view.__name__, f"/{view.__name__}")
            config.add_view(view, route_name=view.__name__, renderer="json")
    return config.make_wsgi_app()


application = make()
