"""What the server's list of sessions calls this process: app, role and process id."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["app_name", "application_name", "name_app", "program", "role", "take_role"]

# NAMEDATALEN of PostgreSQL, less one: it cuts what is longer.
LONGEST = 63

# Programs whose role is known before anything has been served.
_ROLES = dict.fromkeys(("gunicorn", "pserve", "pyuwsgi", "uwsgi", "waitress-serve"), "web") | {
    "celery": "worker"
}


class _Process:
    """The app that was made and the role that was taken, each the first in this process."""

    app: str | None = None
    role: str | None = None


_process = _Process()


def name_app(package: str) -> None:
    """Note the package of the app that this process has made."""
    if _process.app is None and package != "__main__":
        _process.app = package


def take_role(role: str) -> None:
    """Note that this process serves requests ("web") or messages ("worker")."""
    if _process.role is None:
        _process.role = role


def application_name(given: str | None = None) -> str:
    """Return app, role and process id, such as `notes web 4711`.

    Asked anew for each connection: a child has another id than its parent.

    :param given: the app's name, if the settings say it.
    """
    tail = f" {role()} {os.getpid()}"
    name = given or app_name()
    plain = " ".join(name.encode("ascii", "replace").decode().split())
    return plain[: LONGEST - len(tail)] + tail


def app_name() -> str:
    """Return the package of the app, or the program where none was made."""
    return _process.app or program()


def role() -> str:
    """Return what this process is for: "web", "worker" or "script"."""
    return _process.role or _ROLES.get(program(), "script")


def program() -> str:
    """Return the name of the program, such as `gunicorn`."""
    path = Path(sys.argv[0] if sys.argv else "")
    # python -m package
    name = path.parent.name if path.name == "__main__.py" else path.name.removesuffix(".py")
    return "python" if name in ("", "-c", "-") else name
