"""Connections that could not be opened because of the app's own code, not of the database."""

import sys
import traceback
from types import CodeType

__all__ = ["DRIVERS", "named_place", "place_in_app"]

# The packages of the drivers.
DRIVERS = frozenset({"MySQLdb", "mysql", "psycopg", "psycopg2", "pymysql"})
_NOT_THE_APPS = frozenset({"pyramid_dbpool", "sqlalchemy", *sys.stdlib_module_names})
# From here SQLAlchemy calls the driver, whichever that is; listeners and a creator it does not.
_CALLS_DRIVER = "sqlalchemy.engine.default"


def place_in_app(error: BaseException) -> str | None:
    """Say which function of the app has failed to open a connection; None: it was the driver.

    A listener for `do_connect` or a `creator` may ask somebody else first, for a token for
    example. What comes of that is no error of the driver's, but OSError is what a driver may
    raise too: so the traceback tells.
    """
    if not isinstance(error, OSError):
        return None
    found, caller = None, ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__", ""))
        package = module.partition(".")[0]
        if package in DRIVERS or (caller == _CALLS_DRIVER and package != "sqlalchemy"):
            return None
        if found is None and package not in _NOT_THE_APPS:
            found = named_place(frame.f_code, line)
        caller = module
    return found


def named_place(code: CodeType, line: int) -> str:
    """Name a function and a line of it, for errors and for the log."""
    return f"{code.co_qualname} ({code.co_filename}:{line})"
