"""What engines are told apart by: hashable stand-ins for values that give no secret away."""

import hashlib
import os
from collections.abc import Hashable, Mapping
from typing import Any

from sqlalchemy.engine import URL

from ..secrets import is_secret, mask_url
from .declaration import SETTINGS

__all__ = ["fingerprints"]

# Per process: a digest that gets into a dump is worth nothing outside of it.
_SALT = os.urandom(16)


def fingerprints(url: URL, values: Mapping[str, Any]) -> dict[str, Hashable]:
    """Return stand-ins for a URL and for every value that is not the default, by keyword.

    Values of one meaning have one, callables are told apart by identity, and of a password
    there is a digest.
    """
    defaults = {s.keyword: s.default for s in SETTINGS}
    parts = {keyword: _freeze(value, keyword) for keyword, value in values.items()}
    told = {
        keyword: part
        for keyword, part in parts.items()
        if keyword not in defaults or part != _freeze(defaults[keyword], keyword)
    }
    return {"url": _freeze(url), **told}


class _Same:
    """Equal only to itself; keeps the object alive, so that its id is not given out again."""

    __slots__ = ("it",)

    def __init__(self, it: object) -> None:
        self.it = it

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.it is other.it

    def __hash__(self) -> int:
        return id(self.it)

    def __repr__(self) -> str:
        return f"<{type(self.it).__name__} at {id(self.it):#x}>"


def _freeze(value: Any, name: str = "") -> Hashable:
    """Return a hashable stand-in for a setting's value; secrets become a digest."""
    if name and is_secret(name) and isinstance(value, str | bytes | int | float):
        return ("sha256", _digest(value))
    if isinstance(value, URL):
        return _freeze_url(value)
    if isinstance(value, Mapping):
        frozen = ((str(k), _freeze(v, str(k))) for k, v in value.items())
        return tuple(sorted(frozen, key=lambda item: item[0]))
    if isinstance(value, list | tuple):
        return tuple(_freeze(item, name) for item in value)
    if value is None or isinstance(value, str | bytes | bool | int | float):
        # 1, 1.0 and True are equal, and yet are three different driver arguments.
        return (type(value).__name__, value)
    return _Same(value)


def _freeze_url(url: URL) -> Hashable:
    # A password that was not encoded may have ended up in any part of the URL.
    parts = (url.username, str(url.password), url.host, url.port, url.database)
    return (mask_url(url), _digest((url.drivername, *parts, sorted(url.query.items()))))


def _digest(value: object) -> str:
    return hashlib.sha256(_SALT + repr(value).encode("utf-8", "surrogatepass")).hexdigest()
