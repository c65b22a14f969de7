"""Refuse settings that are each right, and that do not go together."""

from sqlalchemy import __version__ as sqlalchemy_version
from sqlalchemy.engine import URL

from ..secrets import shown
from .backend import Backend
from .connect_arguments import check_connect_arguments
from .declaration import BY_KEY
from .mistakes import known_ones
from .pool_settings import Draft, is_autocommit

__all__ = ["check_together"]


def check_together(draft: Draft, url: URL, takes: frozenset[str], backend: Backend) -> None:
    """Note what this dialect, driver or pool class cannot keep to.

    :param takes: the keyword arguments that `create_engine` takes for them.
    """
    _check_taken(draft, takes, backend)
    _check_managed(draft, backend)
    _check_isolation_level(draft, backend)
    _check_read_only(draft, url)
    check_connect_arguments(draft, url, backend)


def _check_taken(draft: Draft, takes: frozenset[str], backend: Backend) -> None:
    """Refuse a declared key that this dialect or this pool class has no use for."""
    for keyword in draft.engine:
        key = "sqlalchemy." + keyword
        queue_only = key in BY_KEY and BY_KEY[key].queue_only
        # SingletonThreadPool does take pool_size: for how many threads it keeps one.
        unpooled = queue_only and backend.in_memory and not backend.chosen
        if keyword in takes and not unpooled:
            continue
        if queue_only:
            _refuse_without_line(key, draft, backend)
            continue
        draft.mistakes.note(
            f"{draft.given[key].key} is not taken by the dialect "
            f"{backend.dialect.dialect_description} of SQLAlchemy {sqlalchemy_version} with "
            f"{backend.pool_class.__name__}: remove it."
        )


def _refuse_without_line(key: str, draft: Draft, backend: Backend) -> None:
    poolclass = BY_KEY["sqlalchemy.poolclass"].key_for(draft.name)
    used = backend.pool_class.__name__
    if backend.chosen:
        why = f"{poolclass} is {used}, where no caller waits in line"
        remedy = f"remove it or {poolclass}"
    elif backend.in_memory:
        why = "a SQLite database in memory belongs to one connection, there is nothing to pool"
        remedy = "remove it, or use a file"
    else:
        why = f"the dialect uses {used}, where no caller waits in line"
        remedy = f"remove it, or set {poolclass} = QueuePool"
    draft.refuse(key, why, remedy)


def _check_managed(draft: Draft, backend: Backend) -> None:
    """Refuse what only a `ManagedPool` knows if there is none, and what it cannot do."""
    poolclass = BY_KEY["sqlalchemy.poolclass"].key_for(draft.name)
    for keyword in draft.own:
        key = "dbpool." + keyword
        if not BY_KEY[key].managed_only or backend.managed:
            continue
        if backend.queues:
            used = backend.pool_class.__name__
            why = f"{poolclass} is {used}, and only a ManagedPool knows it"
            draft.refuse(key, why, f"remove it or {poolclass}")
        else:
            _refuse_without_line(key, draft, backend)
    size = draft.engine.get("pool_size", BY_KEY["sqlalchemy.pool_size"].default)
    if backend.managed and 0 < size < draft.own.get("min_idle", 0):
        item = draft.given["dbpool.min_idle"]
        draft.mistakes.note(
            f"{item.key} = {shown(item.value)} is more than "
            f"{BY_KEY['sqlalchemy.pool_size'].key_for(draft.name)} = {size}: lower the one or "
            "raise the other."
        )


def _check_isolation_level(draft: Draft, backend: Backend) -> None:
    """Put an isolation level into the dialect's spelling; refuse one that it does not have."""
    if "isolation_level" not in draft.engine:
        return
    item = draft.given["sqlalchemy.isolation_level"]
    word = draft.engine["isolation_level"].replace("_", " ").upper()
    draft.engine["isolation_level"] = word
    try:
        known = list(backend.dialect.get_isolation_level_values(None))  # type: ignore[arg-type]
    except Exception:
        # Some dialects ask the connection. Then the server has the say.
        return
    if word in known:
        return
    draft.mistakes.note(
        f"{item.key} = {shown(item.value)} is not an isolation level of "
        f"{backend.dialect.name}:{known_ones(word, known)}."
    )


def _check_read_only(draft: Draft, url: URL) -> None:
    if draft.own.get("read_only") and is_autocommit(url, draft.engine):
        draft.mistakes.note(
            f"{draft.given['dbpool.read_only'].key} = true cannot hold with the isolation "
            "level AUTOCOMMIT, or the driver's autocommit, where there is no transaction to make "
            "read-only: remove one of them."
        )
