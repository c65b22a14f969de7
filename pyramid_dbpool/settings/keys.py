"""Which settings belong to which pool, and what to say about those that belong to none."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import SettingsError
from ..secrets import is_secret, shown
from .declaration import BY_KEY, KEYWORDS, SETTINGS, ini_key
from .mistakes import Mistakes, nearest

__all__ = ["Given", "Keys", "missing_pool", "missing_url", "sort_keys", "unknown_key"]

_PREFIXES = ("sqlalchemy.", "dbpool.")
# What may be taken for ours, because the package is called so.
_PACKAGE = "pyramid_dbpool"
# A prefix less like one of ours is somebody else's: pool. is, dppool. is not.
_SLIP = 0.83
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
    # Whoever wrote such a key believes that it holds, and nobody looks at it.
    for key in settings:
        head, _, rest = key.partition(".") if isinstance(key, str) else ("", "", "")
        prefix = _meant_by(head, rest)
        if prefix is None:
            continue
        wanted = prefix + rest
        # A URL that is missing is looked for elsewhere, and more is said of that.
        if wanted != "sqlalchemy.url" or wanted in settings:
            # A named pool's key is as good as it stands.
            near = None if "." in rest else _nearest_key(wanted, "default")
            mistakes.note(f"{key} is not a setting: write {near or wanted}.")


def _meant_by(head: str, rest: str) -> str | None:
    """Return the prefix that was meant by `head`; None if that is somebody else's."""
    if head == _PACKAGE:
        return "dbpool."
    ours = nearest(head.lower(), ("dbpool", "sqlalchemy"), _SLIP)
    # sqlalchemy2.echo is for an engine of the app's own.
    if ours is None or head.startswith(ours):
        return None
    key = f"{ours}.{rest.rpartition('.')[2]}"
    return f"{ours}." if key in BY_KEY else None


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
    if name in KEYWORDS:
        near = _nearest_key(f"{prefix}.{name}", "default")
    else:
        near = _nearest_key(key, nearest(name, keys.url_keys) or "default")
    remedy = f"write {near}" if near else "remove it"
    if _NAME.fullmatch(name) and name not in KEYWORDS and name != "default":
        remedy = f"either add sqlalchemy.{name}.url, or {remedy}"
    raise SettingsError(f"{key} belongs to no pool, there is no pool {name!r}: {remedy}.")


def _nearest_key(key: str, pool: str, taken: Iterable[str] = ()) -> str | None:
    """Return the known key of a pool whose keyword is most like this key's; None if none is.

    :param taken: what can be given to this pool beyond what we declare.
    """
    prefix, word = key.partition(".")[0], key.rpartition(".")[2].lower()
    known = {keyword: ini_key(pool, keyword) for keyword in taken}
    known |= {setting.keyword: setting.key_for(pool) for setting in SETTINGS}
    if word in known:
        return known[word]
    begun = [each for each in known if each.startswith(word) and known[each].startswith(prefix)]
    found = nearest(word, begun, cutoff=0) or nearest(word, known)
    return None if found is None else known[found]


def unknown_key(given: Given, pool: str, taken: Iterable[str], why: str = "") -> SettingsError:
    """Return the error for a key of a pool that nothing takes."""
    near = _nearest_key(given.key, pool, taken)
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
    by_lower = {key.lower(): key for key in sorted(likely)}
    near, hint = nearest(url_key, by_lower), ""
    if near is not None:
        hint = f" There is {by_lower[near]}; did you mean {url_key}?"
    elif likely:
        found = min(likely)
        hint = f" There is {found}; if that is the URL, set {setting} = {found}."
    missing = f"{url_key} is missing"
    if url_key != BY_KEY["sqlalchemy.url"].key_for(name):
        missing = f"{setting} says {url_key}, and there is no {url_key}"
    return SettingsError(
        f"{missing}: set it to the database URL of the pool {name!r}, such as "
        f"postgresql+psycopg://user:password@host/database.{hint}"
    )
