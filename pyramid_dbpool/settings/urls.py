"""Reads a database URL, and says what is wrong with one that cannot be read."""

import re
from typing import Any

from sqlalchemy import exc as sa_exc
from sqlalchemy.engine import URL, make_url

from ..errors import SettingsError
from ..secrets import mask_url, shown

__all__ = ["parse_url"]

_SHAPE = "dialect+driver://user:password@host/database"
_ENCODE = (
    "write @ : / ? in a user name or password as %40 %3A %2F %3F (in an ini file with %% for %)"
)
_USERINFO = re.compile(r"[\w+]+://(?:[^:/]*(?::[^@]*)?@)?(.*)", re.DOTALL)


def parse_url(value: Any, key: str) -> URL:
    """Return the URL that a setting holds; raise SettingsError, never showing a password."""
    if isinstance(value, URL):
        return value
    if not isinstance(value, str):
        raise SettingsError(f"{key} is {shown(value)}, not a database URL: give {_SHAPE}.")
    raw = value.strip()
    if not raw:
        raise SettingsError(f"{key} is empty: give a database URL, {_SHAPE}.")
    if "\n" in raw or "\r" in raw:
        raise SettingsError(f"{key} = {mask_url(raw)} goes over two lines: write it on one line.")
    if raw[0] == raw[-1] and raw[0] in "'\"":
        raise SettingsError(f"{key} is in quotes: write it without them, {_SHAPE}.")
    try:
        url = make_url(raw)
    except sa_exc.ArgumentError:
        placeholder = re.fullmatch(r"\$\{\w+\}|%\(\w+\)s", raw)
        cited = f"{raw} was not replaced and" if placeholder else mask_url(raw)
        raise SettingsError(f"{key} = {cited} is not a database URL: give {_SHAPE}.") from None
    except ValueError:
        raise SettingsError(
            f"{key} = {mask_url(raw)} has no number for a port: a port is a number; {_ENCODE}."
        ) from None
    if _ambiguous(raw, url):
        raise SettingsError(f"{key} = {mask_url(raw)} has more than one @: {_ENCODE}.")
    if url.port is not None and not 0 < url.port < 65536:
        raise SettingsError(f"{key} = {mask_url(raw)}: the port must be from 1 to 65535.")
    return url


def _ambiguous(raw: str, url: URL) -> bool:
    """Tell whether a bare @ in the password has cut the URL at the wrong place."""
    if url.get_backend_name() == "sqlite" and url.password is None:
        return False
    match = _USERINFO.match(raw)
    path, _, query = (match[1] if match else raw).partition("?")
    return "@" in path or any("@" in item.partition("=")[0] for item in query.split("&"))
