"""`pdbpool`: look at the pools of an app, and at what its ini file says of them.

exit codes:
  0  all is well
  1  something is wrong: a database cannot be reached, a process does not answer
  2  the configuration, or the command line, is wrong
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from ..errors import SettingsError
from .checking import check
from .commands import command
from .configuration import list_settings, show
from .errors import FAILED, MISCONFIGURED, OK, Failed, Misconfigured, complain
from .live import events, stacks
from .overview import SORTS
from .top import top

__all__ = ["main"]

if TYPE_CHECKING:
    _Commands = argparse._SubParsersAction[argparse.ArgumentParser]

# Between two looks: more often costs the processes something, and nobody reads so fast.
LEAST_SECONDS, MOST_SECONDS = 0.2, 86400.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run `pdbpool` and return its exit code.

    0: all is well; 1: something is wrong, such as a database that cannot be reached, or a process
    that does not answer; 2: the configuration, or the command line, is wrong.
    """
    args = _parsed(argv)
    if sys.stdout is None:
        # Closed, as by `>&-`: the exit code is all that is wanted.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A cron job's is often ASCII; what that has no letter for is written out.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        run: Callable[[argparse.Namespace], int] = args.run
        code = run(args)
        sys.stdout.flush()
    except (Misconfigured, SettingsError) as error:
        for line in str(error).splitlines():
            complain(line)
        return MISCONFIGURED
    except Failed as error:
        for line in str(error).splitlines():
            complain(line)
        return FAILED
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
    _add_configuration(commands)
    _add_live(commands)
    _add_commands(commands)
    return parser


def _add_parser(commands: _Commands, name: str, does: str) -> argparse.ArgumentParser:
    """Make the parser of a command, whose own help says what it does, too."""
    return commands.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}.")


def _add_configuration(commands: _Commands) -> None:
    listing = _add_parser(commands, "settings", "list every setting")
    listing.set_defaults(run=list_settings)
    _add_format(listing, "rst")
    showing = _add_parser(
        commands, "show", "show the settings that hold for each pool, and where each comes from"
    )
    showing.set_defaults(run=show)
    _add_file(showing)
    _add_format(showing)
    checking = _add_parser(
        commands,
        "check",
        "check the settings of an ini file, connect once to each database, and compare what"
        " its server allows with what can be opened",
    )
    checking.set_defaults(run=check)
    _add_file(checking)
    checking.add_argument(
        "--no-connect", dest="connect", action="store_false", help="check the settings only"
    )
    _add_format(checking)


def _add_live(commands: _Commands) -> None:
    watching = _add_parser(
        commands, "top", "watch all pools of all processes of this host; ? shows the keys"
    )
    watching.set_defaults(run=top)
    _add_processes(watching)
    watching.add_argument(
        "--seconds", type=_seconds, metavar="N", help="from one look to the next; 1 if not given"
    )
    watching.add_argument(
        "--count", type=_number, metavar="N", help="print so many frames, one after the other"
    )
    watching.add_argument("--once", action="store_true", help="print one frame")
    watching.add_argument(
        "--sort", choices=[*SORTS], default="w", help="waiting, used, hold or pid first"
    )
    _add_format(watching)
    stacking = _add_parser(
        commands, "stacks", "show who holds and who waits for a connection, and where in the code"
    )
    stacking.set_defaults(run=stacks)
    _add_processes(stacking)
    _add_choice(stacking)
    _add_format(stacking)
    telling = _add_parser(commands, "events", "list what happened to the pools")
    telling.set_defaults(run=events)
    _add_processes(telling)
    _add_choice(telling)
    telling.add_argument("--follow", "-f", action="store_true", help="and what will happen")
    _add_format(telling)


def _add_commands(commands: _Commands) -> None:
    for name, text in (
        ("refresh", "replace every connection as it comes back, idle ones now"),
        ("resize", "let pools have more or fewer connections, until the processes start anew"),
        ("pause", "hand out no connection; callers wait, as long as they are patient"),
        ("resume", "hand out connections again"),
    ):
        telling = _add_parser(commands, name, text)
        telling.set_defaults(run=command, name=name)
        _add_processes(telling)
        _add_choice(telling)
        if name == "resize":
            telling.add_argument("--size", type=int, metavar="N", help="as sqlalchemy.pool_size")
            telling.add_argument(
                "--max-overflow", type=int, metavar="N", help="as sqlalchemy.max_overflow"
            )
        _add_format(telling)


def _add_processes(parser: argparse.ArgumentParser) -> None:
    _add_file(parser, needed=False)
    parser.add_argument(
        "--run-dir", metavar="DIR", help="where the processes answer, in place of the file's"
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        metavar="N",
        help="how many seconds they may take to answer; 0.5 if not given, more for a busy host",
    )


def _add_choice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pool", metavar="NAME", help="this pool only")
    parser.add_argument(
        "--pid",
        type=_pids,
        action="extend",
        metavar="PID",
        help="this process only; more than one as 12,13 or --pid 12 --pid 13",
    )


def _pids(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


_pids.__name__ = "process id"


def _seconds(text: str) -> float:
    seconds = float(text)
    if not LEAST_SECONDS <= seconds <= MOST_SECONDS:
        raise ValueError
    return seconds


_seconds.__name__ = f"number of seconds, at least {LEAST_SECONDS}"


def _number(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


_number.__name__ = "number"


def _add_file(parser: argparse.ArgumentParser, *, needed: bool = True) -> None:
    parser.add_argument(
        "config_uri",
        metavar="CONFIG_URI",
        nargs=None if needed else "?",
        help="the ini file, or file.ini#name",
    )
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
