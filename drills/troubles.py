"""What goes wrong in an app when somebody asks for it; none of it is to be copied.

An app has it with `pyramid.includes = drills.troubles`.
"""

import threading
import time
from typing import Any

from pyramid.config import Configurator
from pyramid.request import Request
from sqlalchemy import text

from pyramid_dbpool import dispose_engine, get_engine

ASK = text("SELECT 1")
# How many engines too many there are.
ENGINES = 10


def includeme(config: Configurator) -> None:
    """Add a page for each of them; each lasts for so many seconds."""
    for view in (hold, keep, engines):
        config.add_route(view.__name__, f"/trouble/{view.__name__}/{{seconds}}")
        config.add_view(view, route_name=view.__name__, renderer="json")


def seconds_of(request: Request) -> float:
    """Say for how long it is to last."""
    return float(request.matchdict["seconds"])


def hold(request: Request) -> str:
    """Hold the request's connection while something else is done."""
    request.db.execute(ASK)
    time.sleep(seconds_of(request))
    return "ok"


def keep(request: Request) -> str:
    """Leave a connection to a thread that does nothing with it."""
    later(keep_one, request.registry.settings, seconds_of(request))
    return "ok"


def keep_one(settings: dict[str, Any], seconds: float) -> None:
    with get_engine(settings).connect() as connection:
        connection.execute(ASK)
        time.sleep(seconds)


def engines(request: Request) -> str:
    """Make one engine after another, as for each request."""
    later(make_engines, request.registry.settings, seconds_of(request))
    return "ok"


def make_engines(settings: dict[str, Any], seconds: float) -> None:
    made = [settings | {"sqlalchemy.pool_recycle": 1000 + number} for number in range(ENGINES)]
    for each in made:
        get_engine(each)
    time.sleep(seconds)
    for each in made:
        dispose_engine(each)


def later(*words: Any) -> None:
    """Do it while the client has its answer."""
    function, *arguments = words
    threading.Thread(target=function, args=arguments, daemon=True).start()
