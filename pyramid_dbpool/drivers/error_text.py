"""The words of a driver's error, on one line and without its secrets."""

from __future__ import annotations

from ..secrets import mask_text

__all__ = ["driver_text", "one_line", "said_by"]


def driver_text(error: BaseException) -> str:
    """Return a driver's error on one line, without its secrets."""
    return mask_text(one_line(said_by(error)))


def said_by(error: BaseException) -> str:
    """Return the words of a driver's error, of SQLAlchemy's around it too: with its secrets."""
    # SQLAlchemy's own text would add the statement and a link.
    said = getattr(error, "orig", None) or error
    text = str(said)
    if isinstance(said, UnicodeDecodeError):
        # Else one reads at which byte psycopg2 stumbled over what the server said.
        text = said.object.decode(errors="replace")
    return text.strip() or type(said).__name__


def one_line(said: str) -> str:
    """Put what a driver said on one line, without the question that libpq adds."""
    lines = [" ".join(line.split()) for line in said.strip().splitlines()]
    text = ""
    for line in lines[:1] + [line for line in lines[1:] if line and not line.endswith("?")]:
        text += ("" if not text else " " if text[-1] in ":;," else "; ") + line
    return text
