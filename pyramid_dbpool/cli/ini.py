"""Read an app's settings from its ini file, without the app; say what is wrong with the file."""

import configparser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from plaster.exceptions import PlasterError
from pyramid.paster import get_appsettings, setup_logging
from pyramid.scripts.common import parse_vars

from ..errors import SettingsError
from ..settings import AppSettings, load_app
from .errors import Misconfigured, complain, one_line

__all__ = ["Configuration", "load", "log_as_configured", "read"]


@dataclass(frozen=True)
class Configuration:
    """What is configured: the settings as they were found, and as an app would read them.

    `typed` are the keys of those that were given on the command line.
    """

    config_uri: str
    settings: Mapping[str, Any] = field(repr=False)
    typed: frozenset[str]
    app: AppSettings


def load(config_uri: str, config_vars: Sequence[str]) -> Configuration:
    """Check the settings of an app in an ini file, with those that its code would add."""
    settings, typed = read(config_uri, config_vars)
    try:
        return Configuration(config_uri, settings, typed, load_app(settings))
    except SettingsError as error:
        url_key = settings.get("dbpool.url_setting", "sqlalchemy.url")
        if settings.get(url_key) is not None:
            raise
        elsewhere = "" if url_key == "sqlalchemy.url" else "dbpool.url_setting=sqlalchemy.url "
        raise Misconfigured(
            f"{error}\nAn app that sets {url_key} in its code needs none in the file. To check it"
            f" with the rest: pdbpool check {config_uri} {elsewhere}sqlalchemy.url=URL"
        ) from None


def read(config_uri: str, config_vars: Sequence[str]) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the settings as they are found, and the keys of those on the command line."""
    try:
        given = parse_vars(config_vars)
    except ValueError:
        raise Misconfigured("a variable must be written a=b.") from None
    # A % stands for itself in these: they are not read as a part of the file.
    made = {key: given.pop(key) for key in [*given] if key.startswith(("sqlalchemy.", "dbpool."))}
    # With a misspelt prefix it would pass for a variable that the file does not use.
    misspelt = {key: value for key, value in given.items() if "." in key}
    return {**_read(config_uri, given), **misspelt, **made}, frozenset(made)


def log_as_configured(config_uri: str, config_vars: Sequence[str]) -> None:
    """Let the app's own code, such as an engine's hook, log as it does in the app.

    A log that this user may not write to is said, and stops nothing.
    """
    try:
        setup_logging(config_uri, parse_vars(config_vars))
    except Exception as error:
        why = one_line(str(error) or type(error).__name__)
        complain(f"warning: the logging of {config_uri} cannot be set up here: {why}")


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
            f"{path}: {one_line(str(error))}: install the app, or set PYTHONPATH to where it is."
        ) from None
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror or 'there is no such file'}.") from None
    except Exception as error:
        raise Misconfigured(f"{path}: {one_line(str(error) or type(error).__name__)}") from None
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
    return one_line(str(error))
