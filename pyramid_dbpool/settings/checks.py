"""Refuse settings that are each right, and that do not go together."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import __version__ as sqlalchemy_version

from ..errors import SettingsError
from ..secrets import shown
from .backend import CONNECT_TIMEOUTS, Backend, isolation_level
from .declare import BY_KEY
from .keys import Given
from .mistakes import Mistakes
from .setting import Setting

__all__ = ["Draft", "check_modes", "check_taken"]


@dataclass
class Draft:
    """A pool's settings in the making.

    - `given`: what was found, by the key as for the default pool.
    - `engine`: the coerced arguments for `create_engine`.
    - `own`: the coerced values of our own settings.
    - `mistakes`: those found so far.
    """

    name: str
    given: Mapping[str, Given]
    engine: dict[str, Any] = field(default_factory=dict)
    own: dict[str, Any] = field(default_factory=dict)
    mistakes: Mistakes = field(default_factory=Mistakes)

    @property
    def chose_class(self) -> bool:
        """Whether the user has said which pool class to use."""
        return "sqlalchemy.poolclass" in self.given


def check_taken(draft: Draft, takes: frozenset[str], backend: Backend) -> None:
    """Refuse a declared key that this dialect or this pool class has no use for."""
    for keyword in draft.engine:
        setting = BY_KEY.get("sqlalchemy." + keyword)
        queue_only = setting is not None and setting.queue_only
        # SingletonThreadPool does take pool_size: for how many threads it keeps one.
        unpooled = queue_only and backend.in_memory and not draft.chose_class
        if keyword in takes and not unpooled:
            continue
        item = draft.given["sqlalchemy." + keyword]
        if queue_only:
            raise _queue_only(item, draft, backend)
        raise SettingsError(
            f"{item.key} is not taken by the dialect {backend.dialect.dialect_description} of "
            f"SQLAlchemy {sqlalchemy_version} with {backend.pool_class.__name__}: remove it."
        )


def _queue_only(item: Given, draft: Draft, backend: Backend) -> SettingsError:
    poolclass = BY_KEY["sqlalchemy.poolclass"].key_for(draft.name)
    used = backend.pool_class.__name__
    if draft.chose_class:
        why = f"{poolclass} is {used}, where no caller waits in line"
        remedy = f"remove it or {poolclass}"
    elif backend.in_memory:
        why = "a SQLite database in memory belongs to one connection, there is nothing to pool"
        remedy = "remove it, or use a file"
    else:
        why = f"the dialect uses {used}, where no caller waits in line"
        remedy = f"remove it, or set {poolclass} = QueuePool"
    return SettingsError(f"{item.key} = {shown(item.value)} has no effect: {why}; {remedy}.")


def _managed_only(item: Given, draft: Draft, backend: Backend) -> SettingsError:
    if not backend.queues:
        return _queue_only(item, draft, backend)
    poolclass = BY_KEY["sqlalchemy.poolclass"].key_for(draft.name)
    used = backend.pool_class.__name__
    return SettingsError(
        f"{item.key} = {shown(item.value)} has no effect: {poolclass} is {used}, and only a "
        f"ManagedPool knows it; remove it or {poolclass}."
    )


def _check_min_idle(draft: Draft) -> None:
    size = draft.engine.get("pool_size", BY_KEY["sqlalchemy.pool_size"].default)
    if 0 < size < draft.own.get("min_idle", 0):
        item = draft.given["dbpool.min_idle"]
        raise SettingsError(
            f"{item.key} = {shown(item.value)} is more than "
            f"{BY_KEY['sqlalchemy.pool_size'].key_for(draft.name)} = {size}: lower the one or "
            "raise the other."
        )


def check_modes(draft: Draft, backend: Backend) -> None:
    """Refuse values that this pool, dialect or driver cannot keep to."""
    for keyword in draft.own:
        setting: Setting = BY_KEY["dbpool." + keyword]
        if setting.queue_only and not backend.queues:
            raise _queue_only(draft.given[setting.key], draft, backend)
        if setting.managed_only and not backend.managed:
            raise _managed_only(draft.given[setting.key], draft, backend)
    _check_min_idle(draft)
    if "isolation_level" in draft.engine:
        key = draft.given["sqlalchemy.isolation_level"].key
        level = isolation_level(draft.engine["isolation_level"], key, backend)
        draft.engine["isolation_level"] = level
    _check_read_only(draft)
    if draft.own.get("connect_timeout") is not None:
        _check_timeout(draft, backend)


def _check_read_only(draft: Draft) -> None:
    if not draft.own.get("read_only"):
        return
    options = draft.engine.get("execution_options", {})
    level = options.get("isolation_level", draft.engine.get("isolation_level"))
    if str(level).upper() == "AUTOCOMMIT":
        raise SettingsError(
            f"{draft.given['dbpool.read_only'].key} = true cannot hold with the isolation level "
            "AUTOCOMMIT, where there is no transaction to make read-only: remove one of them."
        )


def _check_timeout(draft: Draft, backend: Backend) -> None:
    driver = backend.dialect.driver
    if driver not in CONNECT_TIMEOUTS:
        why = f"the driver {driver} has no such limit"
    elif "creator" in draft.engine:
        why = "the creator opens the connections"
    else:
        return
    item = draft.given["dbpool.connect_timeout"]
    raise SettingsError(f"{item.key} = {shown(item.value)} has no effect, {why}: remove it.")
