"""What a driver's error carries: a SQLSTATE or a number, and its words."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..secrets import mask_text
from .app_errors import place_in_app

__all__ = [
    "driver_error",
    "driver_text",
    "error_chain",
    "error_number",
    "one_line",
    "said_by",
    "sqlite_code",
    "sqlstate",
]

# How psycopg begins what it says of one address; libpq names the address itself.
_ADDRESS = re.compile(
    r"^- host: .*, hostaddr: (?:None|'[^']*'): connection failed: (?=connection to server)"
)


def driver_error(error: BaseException) -> BaseException:
    """Return the driver's own error, if SQLAlchemy's is around it."""
    orig = getattr(error, "orig", None)
    if isinstance(orig, BaseException) and orig is not error:
        return driver_error(orig)
    return error


def error_chain(
    error: BaseException, handled: BaseException | None = None
) -> Iterator[BaseException]:
    """Yield an error and those that led to it, the last one first.

    :param handled: what was being handled when the work that has failed began. Python names it
        as the context of each error of that work, which it has not led to.
    """
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        yield each
        seen.add(id(each))
        each = each.__context__ if each.__cause__ is None else each.__cause__
        if each is handled:
            return


def sqlstate(error: BaseException) -> str | None:
    """Return the SQLSTATE that a driver's error carries."""
    for name in ("sqlstate", "pgcode"):
        if isinstance(value := getattr(error, name, None), str):
            return value
    # pg8000 hands on the fields of the server's message.
    fields = error.args[0] if error.args else None
    return fields.get("C") if isinstance(fields, dict) else None


def error_number(error: BaseException) -> int | None:
    """Return the server's number that a driver's error begins with, as MariaDB's do."""
    number = error.args[0] if error.args else None
    return number if isinstance(number, int) else None


def sqlite_code(error: BaseException) -> int | None:
    """Return SQLite's primary code that a driver's error carries."""
    code = getattr(error, "sqlite_errorcode", None)
    # The low byte is the primary code, the rest refines it.
    return code & 0xFF if isinstance(code, int) else None


def driver_text(error: BaseException) -> str:
    """Return a driver's error on one line, without its secrets."""
    return mask_text(one_line(said_by(error)))


def said_by(error: BaseException) -> str:
    """Return the words of a driver's error, of SQLAlchemy's around it too: with its secrets.

    What the app's own code raised in the driver's place begins with where that is.
    """
    # SQLAlchemy's own text would add the statement and a link.
    said = driver_error(error)
    text = str(said)
    if isinstance(said, UnicodeDecodeError):
        # Its own text says at which byte psycopg2 stumbled over what the server said.
        text = said.object.decode(errors="replace")
    text, place = text.strip(), place_in_app(said)
    if place is not None:
        return f"{place}: {type(said).__name__}: {text}".removesuffix(": ")
    return text or type(said).__name__


def one_line(said: str) -> str:
    """Put what a driver said on one line, without the question that libpq adds.

    And once: libpq tries with TLS and without it, and is refused in the same words; psycopg lists
    the addresses of several in the end, the last one anew.
    """
    lines = [_ADDRESS.sub("", " ".join(line.split())) for line in said.strip().splitlines()]
    lines = [line for line in lines if not line.startswith("Multiple connection attempts failed.")]
    text = ""
    for line in lines[:1] + [line for line in lines[1:] if line and not line.endswith("?")]:
        if line not in text:
            text += ("" if not text else " " if text[-1] in ":;," else "; ") + line
    return text
