"""A WSGI app whose processes answer in a folder: RUN_DIR. Its database is a file."""

import json
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

from pyramid_dbpool import get_engine

settings = {
    "sqlalchemy.url": f"sqlite:///{os.environ['RUN_DIR']}.db",
    "dbpool.run_dir": os.environ["RUN_DIR"],
}
engine = get_engine(settings)


def application(environ: dict[str, Any], start: Callable[..., object]) -> Iterable[bytes]:
    """Use a connection, and say which process this is; `/slow` holds it for long."""
    with engine.connect():
        if environ["PATH_INFO"] == "/slow":
            hold()
        body = json.dumps({"pid": os.getpid()}).encode()
    start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def hold() -> None:
    """Be slow."""
    time.sleep(60)
