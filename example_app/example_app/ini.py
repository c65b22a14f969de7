"""What the app's scripts have in common: their arguments are an ini file and `a=b` for it."""

import argparse
import configparser
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from plaster.exceptions import PlasterError
from pyramid.exceptions import ConfigurationError
from pyramid.paster import get_appsettings, setup_logging
from pyramid.scripts.common import parse_vars
from sqlalchemy.exc import SQLAlchemyError

from pyramid_dbpool import PoolError


class IniError(ValueError):
    """The ini file cannot be used; says why in one line."""


def read_command_line(prog: str, doc: str | None, argv: Sequence[str] | None) -> dict[str, Any]:
    """Set the logging up and return the app's settings; a bad file ends the script."""
    parser = argparse.ArgumentParser(prog=prog, description=doc)
    parser.add_argument("config_uri", help="the ini file")
    parser.add_argument("config_vars", nargs="*", metavar="a=b", help="a value for its [DEFAULT]")
    args = parser.parse_args(argv)
    try:
        return read(args.config_uri, parse_vars(args.config_vars))
    except ValueError as error:
        parser.exit(1, f"{prog}: {error}\n")


@contextmanager
def one_line_errors(prog: str) -> Iterator[None]:
    """End the program with one line on stderr if the settings, the database or the broker fail."""
    try:
        yield
    except (ConfigurationError, IniError, SQLAlchemyError, PoolError) as error:
        print(f"{prog}: {reason(error)}", file=sys.stderr)
        sys.exit(1)


def reason(error: Exception) -> str:
    """Say in one line why the database or the broker cannot be used."""
    if isinstance(error, SQLAlchemyError) and not isinstance(error, PoolError):
        # SQLAlchemy adds the statement, its parameters and a link.
        error = getattr(error, "orig", None) or error
    text = str(error.args[0]) if error.args else str(error)
    return " ".join(text.split()) or type(error).__name__


def read(config_uri: str, variables: dict[str, str]) -> dict[str, Any]:
    """Set the logging up and return the app's settings.

    Raises IniError, with one line that says what is wrong.
    """
    path = config_uri.partition("#")[0]
    try:
        with Path(path).open():  # says better than the parser why a file cannot be read
            setup_logging(config_uri, variables)
        settings: dict[str, Any] = get_appsettings(config_uri, options=variables)
    except OSError as error:
        raise IniError(f"{path}: {error.strerror or error}.") from error
    except (configparser.Error, ImportError, LookupError, PlasterError) as error:
        raise IniError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    return settings
