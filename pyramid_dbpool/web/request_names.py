"""What logs and errors call a request."""

from __future__ import annotations

import weakref
from typing import Any

from ..pool.labels import Label

__all__ = ["request_label", "request_name"]


def request_label(request: Any) -> Label:
    """Return a label that names a request for as long as it lives."""
    weakly = weakref.ref(request)
    return Label(lambda: "" if (alive := weakly()) is None else request_name(alive))


def request_name(request: Any) -> str:
    """Name a request for logs and errors: its method, and its route or path."""
    route = getattr(request, "matched_route", None)
    # Not request.path, which raises where the path is not UTF-8.
    path = request.environ.get("PATH_INFO", "")
    where = f"route {route.name!r}" if route is not None else repr(path)
    return f"{request.method} {where}"
