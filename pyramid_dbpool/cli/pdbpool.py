"""`pdbpool`: list the settings, and check an ini file against them and its databases."""

import argparse
import configparser
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from plaster.exceptions import PlasterError
from pyramid.paster import get_appsettings
from pyramid.scripts.common import parse_vars

from ..engines.probes import connect_once, reason
from ..errors import SettingsError
from ..secrets import mask_text
from ..settings import SETTINGS, AppSettings, PoolSettings, load_app, reference
from ..settings.reference import HEADINGS, rows
from ..web.include import refuse_taken_names

__all__ = ["main"]

OK, FAILED, MISCONFIGURED = 0, 1, 2


class Misconfigured(Exception):
    """The configuration cannot be used; one line says why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `pdbpool` and return its exit code.

    0: all is well; 1: a database cannot be reached; 2: the configuration, or the
    command line, is wrong.
    """
    args = _parser().parse_args(argv)
    try:
        command: Callable[[argparse.Namespace], int] = args.command
        code = command(args)
        sys.stdout.flush()
    except (Misconfigured, SettingsError) as error:
        for line in str(error).splitlines():
            _complain(line)
        return MISCONFIGURED
    except BrokenPipeError:
        # The reader (head, less) has seen enough; Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pdbpool", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("settings", help="list every setting")
    listing.set_defaults(command=_settings)
    check = commands.add_parser(
        "check", help="check the settings of an ini file and connect once to each database"
    )
    check.set_defaults(command=_check)
    check.add_argument("config_uri", metavar="CONFIG_URI", help="the ini file, or file.ini#name")
    check.add_argument(
        "config_vars",
        metavar="a=b",
        nargs="*",
        default=[],
        help="variables for the ini file; sqlalchemy.* and dbpool.* are settings, as an app may"
        " make them in its code",
    )
    check.add_argument(
        "--no-connect", dest="connect", action="store_false", help="check the settings only"
    )
    listing.add_argument("--format", choices=("plain", "json", "rst"), default="plain")
    check.add_argument("--format", choices=("plain", "json"), default="plain")
    return parser


def _settings(args: argparse.Namespace) -> int:
    if args.format == "json":
        names = [heading.lower() for heading in HEADINGS]
        listed = [dict(zip(names, row, strict=True)) for row in rows()]
        for row, setting in zip(listed, SETTINGS, strict=True):
            row["unit"] = setting.unit
        print(json.dumps(listed, indent=2))
    elif args.format == "rst":
        print(reference(), end="")
    elif sys.stdout.isatty():
        _print_wrapped(shutil.get_terminal_size().columns)
    else:
        _print_table([HEADINGS, *rows()])
    return OK


def _print_wrapped(width: int) -> None:
    """List the settings for people: a table would be several times as wide as a screen."""
    for key, value, default, meaning in rows():
        print(f"{key} = {default}".rstrip())
        for text in (meaning, f"Allowed: {value}."):
            print(textwrap.fill(text, width, initial_indent="    ", subsequent_indent="    "))


def _check(args: argparse.Namespace) -> int:
    app = _load(args.config_uri, args.config_vars)
    refuse_taken_names(app)
    errors = {pool.name: _try(pool) if args.connect else None for pool in app.pools.values()}
    state = "ok" if args.connect else "not tried"
    found = [
        {
            "pool": pool.name,
            "url": pool.masked_url,
            "capacity": pool.capacity,
            "state": "failed" if errors[pool.name] else state,
            "error": errors[pool.name],
        }
        for pool in app.pools.values()
    ]
    if args.format == "json":
        print(json.dumps(found, indent=2))
    else:
        columns = ("pool", "url", "capacity", "state")
        cells = [[_plain(row[column]) for column in columns] for row in found]
        _print_table([[column.capitalize() for column in columns], *cells])
    _complain_of(app, errors)
    return FAILED if any(errors.values()) else OK


def _plain(value: object) -> str:
    return "no limit" if value is None else str(value)


def _complain_of(app: AppSettings, errors: dict[str, str | None]) -> None:
    sys.stdout.flush()
    for pool in app.pools.values():
        if errors[pool.name]:
            _complain(
                f"the pool {pool.name!r} cannot connect with {pool.source('url')} = "
                f"{pool.masked_url}: {errors[pool.name]}"
            )


def _load(config_uri: str, config_vars: Sequence[str]) -> AppSettings:
    """Check the settings of an app in an ini file, with those that its code would add."""
    try:
        given = parse_vars(config_vars)
    except ValueError:
        raise Misconfigured("a variable must be written a=b.") from None
    # A % stands for itself in these: they are not read as a part of the file.
    made = {key: given.pop(key) for key in [*given] if key.startswith(("sqlalchemy.", "dbpool."))}
    # With a misspelt prefix it would pass for a variable that the file does not use.
    misspelt = {key: value for key, value in given.items() if "." in key}
    settings = {**_read(config_uri, given), **misspelt, **made}
    try:
        return load_app(settings)
    except SettingsError as error:
        url_key = settings.get("dbpool.url_setting", "sqlalchemy.url")
        if settings.get(url_key) is not None:
            raise
        elsewhere = "" if url_key == "sqlalchemy.url" else "dbpool.url_setting=sqlalchemy.url "
        raise Misconfigured(
            f"{error}\nAn app that sets {url_key} in its code needs none in the file. To check it"
            f" with the rest: pdbpool check {config_uri} {elsewhere}sqlalchemy.url=URL"
        ) from None


def _read(config_uri: str, variables: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings of an app in an ini file; say in one line why there are none."""
    path = config_uri.partition("#")[0]
    try:
        settings: dict[str, Any] = get_appsettings(config_uri, options=variables)
    except configparser.InterpolationMissingOptionError as error:
        raise Misconfigured(f"{path}: [{error.section}] {_missing_name(error)}") from None
    except configparser.InterpolationError as error:
        # Its own message quotes the value, in which a password may stand.
        typed = error.section == "DEFAULT" and error.option in variables
        where = "after the file: " if typed else f"[{error.section}] "
        raise Misconfigured(
            f"{path}: {where}{error.option}: a % that is not part of %(name)s must be written %%."
        ) from None
    except configparser.MissingSectionHeaderError as error:
        raise Misconfigured(f"{path}: line {error.lineno} stands before any [section].") from None
    except configparser.ParsingError as error:
        lines = ", ".join(str(number) for number, _ in error.errors)
        raise Misconfigured(f"{path}: line {lines} is not of the form name = value.") from None
    except UnicodeDecodeError:
        raise Misconfigured(f"{path}: this is not a text file in UTF-8.") from None
    except LookupError as error:
        raise Misconfigured(f"{path}: {_missing_section(config_uri, error)}") from None
    except PlasterError:
        raise Misconfigured(f"{path}: this is not an ini file.") from None
    except ImportError as error:
        raise Misconfigured(
            f"{path}: {_one_line(str(error))}: install the app, or set PYTHONPATH to where it is."
        ) from None
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror or 'there is no such file'}.") from None
    except Exception as error:
        raise Misconfigured(f"{path}: {_one_line(str(error) or type(error).__name__)}") from None
    return settings


def _missing_name(error: configparser.InterpolationMissingOptionError) -> str:
    """Say what is to be done for a %(name)s in a value; a %% would put an end to it."""
    _, _, raw, name = error.args
    if raw.strip() == f"%({name})s":
        return (
            f"{error.option} = %({name})s, and nothing says what {name} is; the environment is"
            f" not asked. Write {name}=VALUE right after the file, for pserve too, or"
            f" {name} = VALUE in [DEFAULT], with %% for each % of the value."
        )
    # The name is not cited: it may be a piece of a password with a bare %.
    return (
        f"{error.option}: the name in a %(name)s is not given. Write name=value right after the"
        " file, for pserve too, or name = value in [DEFAULT], with %% for each % of the value. If"
        " no name is meant, write %% for that % itself."
    )


def _missing_section(config_uri: str, error: LookupError) -> str:
    wanted = config_uri.partition("#")[2] or "main"
    if str(error).startswith("No section"):
        return f"there is no section [app:{wanted}]; name another one as file.ini#name."
    if str(error).startswith("No loader"):
        return f"[app:{wanted}] does not say which app it configures: add use = egg:NAME."
    return _one_line(str(error))


def _try(pool: PoolSettings) -> str | None:
    """Connect once, without the pool; return what went wrong, in one line."""
    file = _unmade_file(pool)
    if file is not None:
        return _why_unmakeable(file)
    hook = pool.options.engine_hook
    error = connect_once(pool, [] if hook is None else [hook])
    return None if error is None else _one_line(reason(pool, error))


def _unmade_file(pool: PoolSettings) -> str | None:
    """Return a SQLite file that is still to be made: connecting would leave an empty one."""
    file = pool.url.database
    if pool.url.get_backend_name() != "sqlite" or not file or file.startswith("file:"):
        return None
    return None if os.path.exists(file) else file


def _why_unmakeable(file: str) -> str | None:
    folder = os.path.dirname(os.path.abspath(file))
    if not os.path.isdir(folder):
        return f"there is no folder {folder}."
    return None if os.access(folder, os.W_OK) else f"the folder {folder} cannot be written to."


def _print_table(table: Sequence[Sequence[str]]) -> None:
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _one_line(text: str) -> str:
    line = " ".join(mask_text(text).split())
    return line if len(line) <= 400 else line[:400] + "..."


def _complain(text: str) -> None:
    print(f"pdbpool: {' '.join(text.split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
