"""Hide every secret in what people and logs get to see."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy.engine import URL, make_url

__all__ = ["HIDDEN", "is_secret", "mask_text", "mask_url", "mask_value", "scrub", "shown"]

HIDDEN = "***"
_LONGEST = 80
_SECRET_NAME = re.compile(
    r"pass|pwd|(?:^|_)pw$|secret|token|credential|private|(?:api|access)_?key|dsn|conninfo"
    r"|odbc_connect",
    re.IGNORECASE,
)
_SECRET_ITEM = re.compile(
    # It starts at the word, not at the name's first letter: looking for that one takes seconds in
    # a text of some thousand letters.
    r"""((?:pass|pwd|secret|token|credential)[\w-]*["']?\s*[=:]\s*)"""
    # MySQL says "using password: YES".
    r"(?!(?:YES|NO)\b)"
    r"""("(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?|[^\s&,;}]+)""",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"([A-Za-z][\w+.-]{0,40})://")


def is_secret(name: str) -> bool:
    """Tell whether values under this name are kept out of every output.

    >>> is_secret("sslpassword"), is_secret("sslmode")
    (True, False)
    """
    return _SECRET_NAME.search(name) is not None


def mask_url(url: str | URL) -> str:
    """Render a database URL without its secrets.

    A URL that cannot be parsed, or that could be taken apart in two ways, keeps
    only its scheme: nobody can tell which piece of it belongs to the password.

    >>> mask_url("postgresql://web:s3cret@db/h?sslpassword=x")
    'postgresql://web:***@db/h?sslpassword=***'
    """
    if isinstance(url, str):
        scheme = _SCHEME.match(url.strip())
        nothing = f"{scheme[1]}://{HIDDEN}" if scheme else HIDDEN
        try:
            parsed = make_url(url.strip())
        except Exception:
            return nothing
        if url.count("@") > (parsed.username is not None) and not _is_file(parsed):
            return nothing
        url = parsed
    if not _is_file(url) and any("@" in part for part in _open_parts(url)):
        return f"{url.drivername}://{HIDDEN}"
    query = {name: HIDDEN if is_secret(name) else value for name, value in url.query.items()}
    rendered = url.set(query=query).render_as_string(hide_password=True)
    return rendered.replace("%2A%2A%2A", HIDDEN)


def _is_file(url: URL) -> bool:
    return url.get_backend_name() == "sqlite" and url.password is None


def _open_parts(url: URL) -> Iterator[str]:
    yield url.host or ""
    yield url.database or ""
    for value in url.query.values():
        yield from [value] if isinstance(value, str) else value


def mask_text(text: str) -> str:
    """Hide the user part of every URL and the value of every `password=` in a text."""
    scheme = _SCHEME.search(text)
    if scheme:
        before, rest = text[: scheme.end()], text[scheme.end() :]
        _, at, after = rest.rpartition("@")
        text = f"{before}{HIDDEN}@{after}" if at else text
    return _SECRET_ITEM.sub(rf"\1{HIDDEN}", text)


def mask_value(value: Any) -> Any:
    """Return a copy of a value, at any depth of JSON, that is fit to be shown."""
    if isinstance(value, Mapping):
        return {k: HIDDEN if is_secret(str(k)) else mask_value(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [mask_value(item) for item in value]
    if isinstance(value, URL):
        return mask_url(value)
    if isinstance(value, str):
        return mask_text(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    return _name_of(value)


def _name_of(value: Any) -> str:
    # The repr of an object (functools.partial, an SSL context) may show a password.
    named = getattr(value, "__qualname__", None) and getattr(value, "__module__", None)
    return f"<{value.__module__}.{value.__qualname__}>" if named else f"<{type(value).__name__}>"


def shown(value: Any) -> str:
    """Return a setting's value as an error message may cite it."""
    if isinstance(value, str):
        text = mask_text(value)
        return repr(text if len(text) <= _LONGEST else text[:_LONGEST] + "...")
    return (
        repr(value)
        if value is None or isinstance(value, bool | int | float)
        else str(mask_value(value))
    )


def scrub(text: str, url: URL) -> str:
    """Hide a URL's own secrets in a text that somebody else wrote, such as a driver's error."""
    visible = {url.username, url.host, url.database}
    secrets = {url.password} | {v for k, v in url.query.items() if is_secret(k)}
    for secret in secrets:
        if isinstance(secret, str) and secret and secret not in visible:
            edge = r"\b" if len(secret) < 4 else ""
            text = re.sub(f"{edge}{re.escape(secret)}{edge}", HIDDEN, text)
    return mask_text(text)
