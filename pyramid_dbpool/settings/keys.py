"""Which settings belong to which pool, and what to say about those that belong to none."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

from ..errors import SettingsError
from ..secrets import is_secret, shown
from .declare import BY_KEY, KEYWORDS, SETTINGS
from .mistakes import Mistakes

__all__ = ["Given", "Keys", "copied", "missing_pool", "missing_url", "sort_keys", "unknown_key"]

_PREFIXES = ("sqlalchemy.", "dbpool.")
# What may be taken for ours, because the package is called so.
_PACKAGE = "pyramid_dbpool"
# A prefix that is so much like one of ours is a misspelling of it: one letter of dbpool.
_SLIP = 0.83
# Below this likeness (difflib's own measure for a close match) a guess misleads.
_CLOSE = 0.6
# A key that is so much like the URL's is a misspelling of it.
_MISSPELT = 0.8
_NAME = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
_DATABASE = re.compile(r"(postgres(ql)?|mysql|mariadb|sqlite|oracle|mssql)(\+\w+)?://", re.ASCII)
_HARMLESS = re.compile(
    r"-?\d{1,7}(\.\d+)?(ms|s|m|h)?|true|false|on|off|yes|no|none", re.IGNORECASE
)


@dataclass(frozen=True)
class Given:
    """A value and the full ini key under which it was found."""

    key: str
    value: Any = field(repr=False)


@dataclass
class Keys:
    """The settings of every pool: `given[pool][key as for the default pool]`."""

    url_keys: dict[str, str] = field(default_factory=dict)
    given: dict[str, dict[str, Given]] = field(default_factory=dict)


def sort_keys(settings: Mapping[str, Any], mistakes: Mistakes) -> Keys:
    """Give each `sqlalchemy.*` and `dbpool.*` key to its pool.

    :param mistakes: gets the keys that belong to no pool.
    :raises SettingsError: a name that no pool can have.
    """
    _refuse_other_prefixes(settings, mistakes)
    ours = sorted(k for k in settings if isinstance(k, str) and k.startswith(_PREFIXES))
    keys = Keys({"default": "sqlalchemy.url"})
    for key in ours:
        name = _named_by(key)
        if name is not None:
            keys.url_keys.setdefault(name, f"sqlalchemy.{name}.url")
    for name in keys.url_keys:
        key = BY_KEY["dbpool.url_setting"].key_for(name)
        if isinstance(settings.get(key), str):
            keys.url_keys[name] = settings[key].strip()
    elsewhere = set(keys.url_keys.values()) - {f"sqlalchemy.{n}.url" for n in keys.url_keys}
    for key in ours:
        if key not in elsewhere or key == "sqlalchemy.url":
            with mistakes.noted():
                name, plain = _split(key, keys)
                keys.given.setdefault(name, {})[plain] = Given(key, settings[key])
    return keys


def _refuse_other_prefixes(settings: Mapping[str, Any], mistakes: Mistakes) -> None:
    # Else it is not looked at, and whoever wrote it believes that it holds.
    for key in settings:
        head, _, rest = key.partition(".") if isinstance(key, str) else ("", "", "")
        prefix = _meant_by(head, rest)
        if prefix is not None:
            wanted = prefix + rest
            # A named pool's key is as good as it stands.
            near = None if "." in rest else nearest(wanted, [s.key for s in SETTINGS])
            mistakes.note(SettingsError(f"{key} is not a setting: write {near or wanted}."))


def _meant_by(head: str, rest: str) -> str | None:
    """Return the prefix that was meant by `head`; None if that is somebody else's."""
    if head == _PACKAGE:
        return "dbpool."
    for prefix in _PREFIXES:
        ours, key = prefix.removesuffix("."), prefix + rest.rpartition(".")[2]
        # sqlalchemy2.echo is for an engine of the app's own, and a URL is looked for elsewhere.
        slip = not head.startswith(ours) and _likeness(head, ours) >= _SLIP
        if slip and key in BY_KEY and key != "sqlalchemy.url":
            return prefix
    return None


def _named_by(key: str) -> str | None:
    """Return the pool that a key brings into being; refuse a name that it cannot have."""
    prefix, _, rest = key.partition(".")
    name, _, last = rest.rpartition(".")
    if not name or (prefix, last) not in {("sqlalchemy", "url"), ("dbpool", "url_setting")}:
        return None
    if name == "default":
        raise SettingsError(
            f"{key} names a pool default, which needs no name: write {prefix}.{last}."
        )
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"{key} names a pool {name!r}: a name is made of a-z, 0-9 and _, and starts with a "
            "letter."
        )
    if name in KEYWORDS:
        raise SettingsError(f"{key} names a pool {name!r}, which is a setting: take another name.")
    return name


def _split(key: str, keys: Keys) -> tuple[str, str]:
    """Return the pool of a key, and the key as it would be for the default pool."""
    prefix, _, rest = key.partition(".")
    name, dot, keyword = rest.partition(".")
    if not dot:
        return "default", key
    if name in keys.url_keys and name != "default":
        return name, f"{prefix}.{keyword}"
    candidates = {s.key_for(n) for s in SETTINGS for n in keys.url_keys if s.scope == "pool"}
    near = nearest(key, candidates | {s.key for s in SETTINGS})
    remedy = f"write {near}" if near else "remove it"
    if _NAME.fullmatch(name) and name not in KEYWORDS and name != "default":
        remedy = f"either add sqlalchemy.{name}.url, or {remedy}"
    raise SettingsError(f"{key} belongs to no pool, there is no pool {name!r}: {remedy}.")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known key that is most like `word`; None if none is much like it."""
    last = word.rpartition(".")[2]
    return max(
        (each for each in sorted(known) if _is_like(word, each)),
        default=None,
        key=lambda each: (
            # The same keyword under another prefix comes before a similar one.
            each.rpartition(".")[2] == last,
            _likeness(word, each) + each.startswith(word) / 5,
        ),
    )


def _is_like(word: str, each: str) -> bool:
    if word.startswith(each + ".") or each.startswith(word):
        return True
    # Without what stands before: a prefix in common makes all of them alike.
    mine, other = (key.rpartition(".")[2].lower() for key in (word, each))
    return _likeness(mine, other) >= _CLOSE


def _likeness(word: str, each: str) -> float:
    return SequenceMatcher(None, word.lower(), each).ratio()


def unknown_key(given: Given, name: str, taken: Iterable[str], why: str = "") -> SettingsError:
    """Return the error for a key of a pool that nothing takes."""
    known = {s.key_for(name) for s in SETTINGS if s.scope == "pool" or name == "default"}
    middle = "" if name == "default" else f"{name}."
    known |= {f"sqlalchemy.{middle}{keyword}" for keyword in taken}
    near = nearest(given.key, known - {given.key})
    hint = f": the nearest known key is {near}" if near else "; `pdbpool settings` lists them"
    return SettingsError(f"{given.key}{_cited(given)} is not a setting{why}{hint}.")


def _cited(given: Given) -> str:
    # Nobody knows what stands under an unknown key: it may well be a password.
    text = str(given.value).strip()
    harmless = _HARMLESS.fullmatch(text) and not is_secret(given.key)
    return f" = {shown(given.value)}" if harmless else ""


def missing_pool(name: str, keys: Keys) -> SettingsError:
    """Return the error for a pool that the settings do not have."""
    known = sorted(keys.url_keys, key=lambda n: (n != "default", n))
    others = f"one of {', '.join(known)}" if known[1:] else known[0]
    return SettingsError(
        f"There is no pool {name!r}: set sqlalchemy.{name}.url, or take {others}."
    )


def missing_url(settings: Mapping[str, Any], name: str, url_key: str) -> SettingsError:
    """Return the error for a pool without a URL, with the setting that may have been meant."""
    likely = [
        key
        for key, value in settings.items()
        if isinstance(key, str) and isinstance(value, str) and _DATABASE.match(value.strip())
        if key != url_key and _named_by(key) is None
    ]
    setting = BY_KEY["dbpool.url_setting"].key_for(name)
    hint = ""
    if likely:
        found = max(sorted(likely), key=lambda key: _likeness(key, url_key))
        hint = f" There is {found}; if that is the URL, set {setting} = {found}."
        if _likeness(found, url_key) >= _MISSPELT:
            hint = f" There is {found}; did you mean {url_key}?"
    missing = f"{url_key} is missing"
    if url_key != BY_KEY["sqlalchemy.url"].key_for(name):
        missing = f"{setting} says {url_key}, and there is no {url_key}"
    return SettingsError(
        f"{missing}: set it to the database URL of the pool {name!r}, such as "
        f"postgresql+psycopg://user:password@host/database.{hint}"
    )


def copied(settings: object) -> dict[str, Any]:
    """Return a copy of an app's settings.

    :raises TypeError: they are none.
    """
    if not isinstance(settings, Mapping):
        raise TypeError(
            f"settings is {type(settings).__name__}; it has to be the app's dict, such as"
            " pyramid.paster.get_appsettings(ini_file) returns."
        )
    return dict(settings)
