"""`pdbpool`: look at the pools of an app, and at what its ini file says of them.

exit codes:
  0  all is well
  1  something is wrong: a database cannot be reached, a process does not answer
  2  the configuration, or the command line, is wrong
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version

from ..errors import SettingsError
from .checking import check
from .configuration import list_settings, show
from .errors import MISCONFIGURED, OK, Misconfigured, complain

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `pdbpool` and return its exit code.

    0: all is well; 1: something is wrong, such as a database that cannot be reached, or a process
    that does not answer; 2: the configuration, or the command line, is wrong.
    """
    args = _parsed(argv)
    try:
        command: Callable[[argparse.Namespace], int] = args.command
        code = command(args)
        sys.stdout.flush()
    except (Misconfigured, SettingsError) as error:
        for line in str(error).splitlines():
            complain(line)
        return MISCONFIGURED
    except BrokenPipeError:
        # The reader (head, less) has seen enough; Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        return 130
    return code


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    # argparse takes no variable behind an option that stands behind the file.
    strays = [each for each in rest if "=" in each and not each.startswith("-")]
    if rest != strays or (rest and not hasattr(args, "config_vars")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if strays:
        args.config_vars = [*args.config_vars, *strays]
    return args


def _parser() -> argparse.ArgumentParser:
    summary, _, codes = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="pdbpool",
        description=summary.removeprefix("`pdbpool`: ").capitalize(),
        epilog=codes,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("settings", help="list every setting")
    listing.set_defaults(command=list_settings)
    _add_format(listing, "rst")
    showing = commands.add_parser(
        "show", help="show the settings that hold for each pool, and where each comes from"
    )
    showing.set_defaults(command=show)
    _add_file(showing)
    _add_format(showing)
    checking = commands.add_parser(
        "check", help="check the settings of an ini file and connect once to each database"
    )
    checking.set_defaults(command=check)
    _add_file(checking)
    checking.add_argument(
        "--no-connect", dest="connect", action="store_false", help="check the settings only"
    )
    _add_format(checking)
    return parser


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config_uri", metavar="CONFIG_URI", help="the ini file, or file.ini#name")
    parser.add_argument(
        "config_vars",
        metavar="a=b",
        nargs="*",
        default=[],
        help="variables for the ini file; sqlalchemy.* and dbpool.* are settings, as an app may"
        " make them in its code",
    )


def _add_format(parser: argparse.ArgumentParser, *more: str) -> None:
    parser.add_argument("--format", choices=("plain", "json", *more), default="plain")


def _version() -> str:
    try:
        return version("pyramid_dbpool")
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
