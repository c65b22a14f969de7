"""The value of one setting: read, held against its declaration, or refused with what is allowed.

A value is an ini file's string, or the object that code has set. Each kind has a reader: it takes
the setting and the value, and raises ValueError or TypeError with the reason.
"""

import importlib
import inspect
import json
import math
import os
import pkgutil
import re
from collections.abc import Callable, Mapping
from keyword import iskeyword
from types import ModuleType
from typing import Any, NamedTuple

from sqlalchemy.dialects import plugins
from sqlalchemy.exc import NoSuchModuleError
from sqlalchemy.pool import AsyncAdaptedQueuePool
from sqlalchemy.util import asbool

from ..errors import SettingsError
from ..secrets import mask_text, shown
from .declaration import YEAR, Setting
from .mistakes import nearest

__all__ = ["TRUE_WORDS", "allowed", "coerce", "infer", "parse_duration"]

_OFF = frozenset({"", "off", "none"})
TRUE_WORDS = frozenset({"true", "yes", "on", "y", "t", "1"})
_FALSE = frozenset({"false", "no", "off", "n", "f", "0"})
_DURATION = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*(ms|s|m|h)?", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SCALARS: dict[str, Callable[[Any], Any]] = {"bool": asbool, "int": int, "float": float}
_SCALAR_WORDS = {"asbool": "true or false", "int": "an integer", "asint": "an integer"}


def coerce(setting: Setting, value: Any, key: str) -> Any:
    """Return the value of `setting` that `value` means, in its own type.

    `key` is the full ini key, for the message of the SettingsError that a value
    out of bounds or of another type raises.
    """
    if setting.off is not ... and _is_off(setting, value):
        return setting.off
    try:
        return _bounded(setting, _KINDS[setting.kind].read(setting, value))
    except (ValueError, TypeError) as error:
        reason = f" ({error})" if str(error) else ""
        # JSON is not cited: in what cannot be parsed, no secret can be found and hidden.
        cited = f"the value of {key}" if setting.kind == "json" else f"{key} = {shown(value)}"
        raise SettingsError(f"{cited} is not allowed{reason}: give {allowed(setting)}.") from None


def allowed(setting: Setting) -> str:
    """Say in words which values a setting takes."""
    words = _KINDS[setting.kind].words
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


def parse_duration(value: Any) -> float:
    """Return the seconds that a duration means: a number, or one with ms, s, m or h.

    :raises ValueError: the value is no duration; says why.

    >>> parse_duration("500ms"), parse_duration("3m"), parse_duration(2.5)
    (0.5, 180.0, 2.5)
    """
    if isinstance(value, bool):
        raise ValueError("it is a boolean")
    if isinstance(value, int | float):
        seconds = float(value)
    else:
        match = _DURATION.fullmatch(str(value).strip()) if isinstance(value, str) else None
        if match is None:
            raise ValueError("it is not a duration")
        seconds = float(match[1]) * _SECONDS[match[2] or "s"]
    if not math.isfinite(seconds):
        raise ValueError("it is not finite")
    return seconds


def _duration(setting: Setting, value: Any) -> float | int:
    seconds = parse_duration(value)
    if not setting.whole:
        return seconds
    if seconds != int(seconds):
        raise ValueError("it is not a whole number of seconds")
    return int(seconds)


def _integer(setting: Setting, value: Any) -> int:
    if isinstance(value, bool):
        raise ValueError("it is a boolean")
    if isinstance(value, int):
        return value
    if not isinstance(value, str) or not re.fullmatch(r"[+-]?\d{1,18}", value.strip(), re.ASCII):
        raise ValueError("it is not an integer")
    return int(value)


def _flag(setting: Setting, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    word = value.strip().lower() if isinstance(value, str) else None
    if word in TRUE_WORDS:
        return True
    if word in _FALSE:
        return False
    raise ValueError


def _debug(setting: Setting, value: Any) -> bool | str:
    if isinstance(value, str) and value.strip().lower() == "debug":
        return "debug"
    return _flag(setting, value)


def _text(setting: Setting, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("it is empty" if isinstance(value, str) else "it is not text")
    return value.strip()


def _choice(setting: Setting, value: Any) -> str:
    word = str(value).strip().lower() if isinstance(value, str | bool) else ""
    if word not in setting.choices:
        near = nearest(word, setting.choices)
        raise ValueError(f"did you mean {near}?" if near else "")
    return word


def _reset(setting: Setting, value: Any) -> str | None:
    # SQLAlchemy takes booleans and None here as well as names.
    if value is None or isinstance(value, bool):
        return "rollback" if value else None
    word = _choice(setting, value)
    return None if word == "none" else word


def _json(setting: Setting, value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    if not isinstance(value, str):
        raise ValueError("it is neither text nor a dict")
    try:
        parsed = json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"not valid JSON at line {error.lineno}, column {error.colno}; names and text "
            "stand in double quotes"
        ) from None
    if not isinstance(parsed, dict):
        raise ValueError("it is JSON, but not an object")
    return parsed


def _identifier(setting: Setting, value: Any) -> str:
    word = _text(setting, value)
    if not word.isidentifier() or iskeyword(word) or word.startswith("_"):
        raise ValueError
    return word


def _key(setting: Setting, value: Any) -> str:
    word = _text(setting, value)
    if "://" in word:
        raise ValueError("this is the name of a setting, the URL itself goes into that setting")
    return word


def _path(setting: Setting, value: Any) -> str:
    word = _text(setting, value)
    if not re.fullmatch(r"/[\w.~/-]+", word, re.ASCII):
        raise ValueError("it is not a plain path that begins with /")
    return word


def _folder(setting: Setting, value: Any) -> str:
    word = _text(setting, os.fspath(value))
    if not os.path.isabs(word):
        # Each process would look where it happens to stand.
        raise ValueError("it is not absolute")
    if "\0" in word:
        raise ValueError
    return word.rstrip("/") or "/"


def _plugins(setting: Setting, value: Any) -> list[str]:
    items = re.split(r"[\s,]+", value.strip()) if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not all(isinstance(i, str) and i for i in items):
        raise ValueError
    for item in items:
        try:
            plugins.load(item)
        except NoSuchModuleError:
            raise ValueError(f"no package that is installed has a plugin {item!r}") from None
    return list(items)


def _import(dotted: str) -> Any:
    try:
        return pkgutil.resolve_name(dotted)
    except Exception as error:
        # An import may fail in any way: a typo, a syntax error, a missing dependency.
        what = (
            str(error) if isinstance(error, ImportError | AttributeError) else type(error).__name__
        )
        raise ValueError(f"cannot import it: {mask_text(what)}") from None


def _callable(setting: Setting, value: Any) -> Callable[..., Any]:
    found = _import(_text(setting, value)) if isinstance(value, str) else value
    if not callable(found):
        raise ValueError("it is not callable")
    return found  # type: ignore[no-any-return]


def _class(setting: Setting, value: Any) -> type:
    found = _named_class(setting, value.strip()) if isinstance(value, str) else value
    base = setting.base or object
    if not isinstance(found, type) or not issubclass(found, base):
        raise ValueError(f"it is not a class derived from {base.__name__}")
    if issubclass(found, AsyncAdaptedQueuePool):
        raise ValueError("it is for asyncio engines")
    return found


def _named_class(setting: Setting, name: str) -> Any:
    if setting.within and name.isidentifier():
        package = importlib.import_module(setting.within)
        if hasattr(package, name):
            return getattr(package, name)
        near = nearest(name, dir(package))
        raise ValueError(f"did you mean {near}?" if near else f"not in {setting.within}")
    return _import(_text(setting, name))


def _module(setting: Setting, value: Any) -> Any:
    if not isinstance(value, str):
        if not isinstance(value, ModuleType) and not hasattr(value, "connect"):
            raise ValueError("it is not a module")
        return value
    try:
        return importlib.import_module(_text(setting, value))
    except ImportError as error:
        raise ValueError(f"cannot import it: {mask_text(str(error))}") from None


class _Kind(NamedTuple):
    """How values of one kind are read, and which there are."""

    read: Callable[[Setting, Any], Any]
    words: str


_KINDS = {
    "callable": _Kind(_callable, "a callable, or the dotted name of one"),
    "choice": _Kind(_choice, "a name"),
    "class": _Kind(_class, "a class, or the dotted name of one"),
    "debug": _Kind(_debug, "true, false or debug"),
    "duration": _Kind(_duration, "a duration such as 2.5, 500ms, 5s, 3m or 1h"),
    "flag": _Kind(_flag, "true or false"),
    "folder": _Kind(_folder, "an absolute path such as /run/notes"),
    "identifier": _Kind(_identifier, "a Python identifier that does not start with _"),
    "integer": _Kind(_integer, "an integer"),
    "json": _Kind(_json, "a JSON object"),
    "key": _Kind(_key, "the name of a setting"),
    "module": _Kind(_module, "the dotted name of a module"),
    "path": _Kind(_path, "a path such as /ready"),
    "plugins": _Kind(_plugins, "names of engine plugins, separated by commas or spaces"),
    "reset": _Kind(_reset, "a name"),
    "text": _Kind(_text, "text"),
    # `backend.parse_url` reads it, and says more about what is wrong.
    "url": _Kind(_text, "a URL such as postgresql+psycopg://user:password@host/database"),
}
