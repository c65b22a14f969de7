"""What goes wrong at the command line: in one line each, and in the exit code."""

import sys

from ..secrets import mask_text
from .wording import printable

__all__ = ["FAILED", "MISCONFIGURED", "OK", "Failed", "Misconfigured", "complain", "one_line"]

# All is well; something is wrong out there; the configuration or the command line is wrong.
OK, FAILED, MISCONFIGURED = 0, 1, 2
# Characters, of what somebody else has written.
LONGEST = 400


class Misconfigured(Exception):
    """The configuration, or the command line, cannot be used; a line for each reason."""


class Failed(Exception):
    """Something is wrong out there; a line for each thing."""


def one_line(text: str) -> str:
    """Return somebody else's text on one line, without secrets and not too long."""
    line = " ".join(mask_text(text).split())
    return line if len(line) <= LONGEST else line[:LONGEST] + "..."


def complain(text: str) -> None:
    """Say in one line, beside the output, what is wrong."""
    sys.stdout.flush()
    print(f"pdbpool: {printable(' '.join(text.split()))}", file=sys.stderr)
