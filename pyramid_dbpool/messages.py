"""What a pool's errors say: which pool, the numbers, who holds what, and the remedy."""

from __future__ import annotations

from collections.abc import Sequence

from .drivers import ConnectFailure
from .stats import Holder

# How many holders an error names.
NAMED_HOLDERS = 5


def ini_key(pool_name: str | None, keyword: str, prefix: str = "sqlalchemy.") -> str:
    """Return the full ini key of a pool's setting."""
    named = pool_name is not None and pool_name != "default"
    return f"{prefix}{pool_name}.{keyword}" if named else prefix + keyword


def _pool(pool_name: str | None) -> str:
    return "the pool" if pool_name is None else f"pool {pool_name!r}"


def holders_text(holders: Sequence[Holder]) -> str:
    """List the longest holders: label and age."""
    longest = sorted(holders, key=lambda each: -each.held_seconds)[:NAMED_HOLDERS]
    return ", ".join(
        f"{each.label or 'unnamed'} for {each.held_seconds:.1f} s" for each in longest
    )


def timeout_text(
    pool_name: str | None,
    *,
    waited: float,
    size: int,
    overflow: int,
    waiting: int,
    holders: Sequence[Holder],
) -> str:
    """Explain that no connection came free in time."""
    text = (
        f"{_pool(pool_name)}: no connection came free within {waited:.2f} s"
        f" (QueuePool limit of size {size} overflow {overflow} reached, {len(holders)} checked"
        f" out, {waiting} others waiting)."
    )
    if holders:
        text += f" Longest holders: {holders_text(holders)}."
    return (
        f"{text} Give connections back sooner, or raise {ini_key(pool_name, 'pool_size')},"
        f" {ini_key(pool_name, 'max_overflow')} or {ini_key(pool_name, 'pool_timeout')}."
    )


def slow_text(pool_name: str | None, waited: float, opening: int) -> str:
    """Explain that the deadline came before any connection could be opened."""
    return (
        f"{_pool(pool_name)}: no connection within {waited:.2f} s; {opening} are still being"
        f" opened. The server answers slowly or not at all; {ini_key(pool_name, 'pool_timeout')}"
        " says how long to wait."
    )


def saturated_text(pool_name: str | None, waited: float, count: int, error: BaseException) -> str:
    """Explain that the server admits no more connections."""
    return (
        f"{_pool(pool_name)}: no connection within {waited:.2f} s, because the server admits no"
        f" more ({error}); this pool has {count} open. Raise the server's limit, or lower"
        f" {ini_key(pool_name, 'pool_size')} and {ini_key(pool_name, 'max_overflow')} in the"
        " processes that share it."
    )


def line_full_text(pool_name: str | None, waiting: int, capacity: int | None) -> str:
    """Explain that the line is as long as it may be."""
    return (
        f"{_pool(pool_name)}: {waiting} callers wait already for its {capacity} connections, as"
        f" many as {ini_key(pool_name, 'max_waiting', 'dbpool.')} allows."
    )


def unavailable_text(
    pool_name: str | None, kind: ConnectFailure, lasted: float, error: BaseException
) -> str:
    """Explain that no connection can be opened."""
    if kind is ConnectFailure.CONFIGURATION:
        return (
            f"{_pool(pool_name)}: the database refuses this configuration; check"
            f" {ini_key(pool_name, 'url')} ({error})"
        )
    return (
        f"{_pool(pool_name)}: the database server has been unreachable for {lasted:.1f} s"
        f" ({error})"
    )
