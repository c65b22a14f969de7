"""What the app's scripts have in common: their arguments are an ini file and `a=b` for it."""

import argparse
import configparser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plaster.exceptions import PlasterError
from pyramid.paster import get_appsettings, setup_logging
from pyramid.scripts.common import parse_vars


def read_command_line(doc: str | None, argv: Sequence[str] | None) -> dict[str, Any]:
    """Set the logging up and return the app's settings; a bad file ends the script."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("config_uri", help="the ini file")
    parser.add_argument("config_vars", nargs="*", metavar="a=b", help="a value for its [DEFAULT]")
    args = parser.parse_args(argv)
    try:
        return read(args.config_uri, parse_vars(args.config_vars))
    except (OSError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


def read(config_uri: str, variables: dict[str, str]) -> dict[str, Any]:
    """Set the logging up and return the app's settings.

    Raises ValueError or OSError, with one line that says what is wrong.
    """
    path = config_uri.partition("#")[0]
    try:
        with Path(path).open():  # says better than the parser why a file cannot be read
            setup_logging(config_uri, variables)
        settings: dict[str, Any] = get_appsettings(config_uri, options=variables)
    except (configparser.Error, LookupError, PlasterError) as error:
        raise ValueError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    return settings
