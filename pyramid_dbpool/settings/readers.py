"""Read one kind of value each: from an ini string, or as the object that code has set.

A reader takes a setting and a value, and raises ValueError with the reason.
"""

import importlib
import json
import math
import pkgutil
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from keyword import iskeyword
from types import ModuleType
from typing import Any

from sqlalchemy.dialects import plugins
from sqlalchemy.exc import NoSuchModuleError
from sqlalchemy.pool import AsyncAdaptedQueuePool

from ..secrets import mask_text
from .setting import Setting

__all__ = ["READERS", "parse_duration"]

_DURATION = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*(ms|s|m|h)?", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_TRUE = frozenset({"true", "yes", "on", "y", "t", "1"})
_FALSE = frozenset({"false", "no", "off", "n", "f", "0"})


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
    if word in _TRUE:
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
        near = get_close_matches(word, setting.choices, 1)
        raise ValueError(f"did you mean {near[0]}?" if near else "")
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
        near = get_close_matches(name, dir(package), 1)
        raise ValueError(f"did you mean {near[0]}?" if near else f"not in {setting.within}")
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


READERS: dict[str, Callable[[Setting, Any], Any]] = {
    "callable": _callable,
    "choice": _choice,
    "class": _class,
    "debug": _debug,
    "duration": _duration,
    "flag": _flag,
    "identifier": _identifier,
    "integer": _integer,
    "json": _json,
    "key": _key,
    "module": _module,
    "path": _path,
    "plugins": _plugins,
    "reset": _reset,
    "text": _text,
}
