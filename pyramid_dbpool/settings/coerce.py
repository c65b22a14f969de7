"""Read a setting's value, hold it against its declaration, and say what is allowed."""

import inspect
import re
from collections.abc import Callable
from typing import Any

from sqlalchemy.util import asbool

from ..errors import SettingsError
from ..secrets import shown
from .readers import READERS
from .setting import YEAR, Setting

__all__ = ["allowed", "coerce", "infer"]

_OFF = frozenset({"", "off", "none"})
_SCALARS: dict[str, Callable[[Any], Any]] = {"bool": asbool, "int": int, "float": float}
_SCALAR_WORDS = {"asbool": "true or false", "int": "an integer", "asint": "an integer"}
_WORDS = {
    "callable": "a callable, or the dotted name of one",
    "choice": "a name",
    "class": "a class, or the dotted name of one",
    "debug": "true, false or debug",
    "duration": "a duration such as 2.5, 500ms, 5s, 3m or 1h",
    "flag": "true or false",
    "identifier": "a Python identifier that does not start with _",
    "integer": "an integer",
    "json": "a JSON object",
    "key": "the name of a setting",
    "module": "the dotted name of a module",
    "path": "a path such as /ready",
    "plugins": "names of engine plugins, separated by commas or spaces",
    "reset": "a name",
    "text": "text",
    "url": "a URL such as postgresql+psycopg://user:password@host/database",
}


def coerce(setting: Setting, value: Any, key: str) -> Any:
    """Return the value of `setting` that `value` means, in its own type.

    `key` is the full ini key, for the message of the SettingsError that a value
    out of bounds or of another type raises.
    """
    if setting.off is not ... and _is_off(setting, value):
        return setting.off
    try:
        return _bounded(setting, READERS[setting.kind](setting, value))
    except (ValueError, TypeError) as error:
        reason = f" ({error})" if str(error) else ""
        # JSON is not cited: in what cannot be parsed, no secret can be found and hidden.
        cited = f"the value of {key}" if setting.kind == "json" else f"{key} = {shown(value)}"
        raise SettingsError(f"{cited} is not allowed{reason}: give {allowed(setting)}.") from None


def allowed(setting: Setting) -> str:
    """Say in words which values a setting takes."""
    words = _WORDS[setting.kind]
    if setting.whole:
        words = "a duration in whole seconds, such as 5, 3m or 1h"
    if setting.kind == "class" and setting.base:
        bare = f"a name in {setting.within} or " if setting.within else ""
        words = f"{bare}the dotted name of a {setting.base.__name__} class"
    if setting.choices:
        words = "one of " + ", ".join(setting.choices) if setting.choices[1:] else "only true"
    unit = " s" if setting.unit else ""
    if setting.low is not None:
        words += f", at least {setting.low:g}{unit}"
    if setting.high is not None and setting.high != YEAR:
        words += f", at most {setting.high:.10g}{unit}"
    if setting.off is not ...:
        words += ", or off"
    return words + (f" ({setting.note})" if setting.note else "")


def infer(keyword: str, value: Any, takers: tuple[type, ...], key: str) -> Any:
    """Return the value of a keyword that we do not declare, as its taker's signature has it.

    `takers` are the classes one of which takes the keyword: the dialect first, with
    its `engine_config_types`, then whatever else.

    :raises SettingsError: the value is not what the signature has.
    """
    if not isinstance(value, str):
        return value
    configured = getattr(takers[0], "engine_config_types", {}).get(keyword)
    read = configured or _reader_of(keyword, takers)
    try:
        return read(value) if read else value
    except (ValueError, TypeError):
        wanted = _SCALAR_WORDS.get(getattr(read, "__name__", ""), "a number")
        raise SettingsError(f"{key} = {shown(value)} is not allowed: give {wanted}.") from None


def _reader_of(keyword: str, takers: tuple[type, ...]) -> Callable[[Any], Any] | None:
    for cls in (base for taker in takers for base in taker.__mro__):
        found = inspect.signature(cls.__init__).parameters.get(keyword)  # type: ignore[misc]
        if found is not None:
            wanted = f"{found.annotation} {type(found.default).__name__}"
            names = re.findall(r"\b(?:bool|int|float)\b", wanted)
            return _SCALARS[names[0]] if names else None
    return None


def _is_off(setting: Setting, value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return value is None
    word = str(value).strip().lower()
    return word in _OFF or word == str(setting.off)


def _bounded(setting: Setting, value: Any) -> Any:
    if setting.low is not None and value < setting.low:
        raise ValueError("it is too small")
    if setting.high is not None and value > setting.high:
        raise ValueError(
            "it is too large" + (", more than a year" if setting.high == YEAR else "")
        )
    return value
