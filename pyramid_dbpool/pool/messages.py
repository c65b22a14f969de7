"""What a pool's errors say: which pool, the numbers, who holds what, and the remedy."""

from __future__ import annotations

from collections.abc import Sequence

from ..drivers.connect_failures import ConnectFailure
from ..drivers.driver_errors import driver_text
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
    """Return a sentence that names the longest holders and their ages."""
    longest = sorted(holders, key=lambda each: -each.held_seconds)[:NAMED_HOLDERS]
    named = ", ".join(f"{each.label} for {each.held_seconds:.1f} s" for each in longest)
    return f" Longest holders: {named}." if named else ""


def timeout_text(
    pool_name: str | None,
    *,
    waited: float,
    size: int,
    overflow: int,
    waiting: int,
    holders: Sequence[Holder],
    cut: bool = False,
    setting: str | None = None,
) -> str:
    """Explain that no connection came free in time.

    :param cut: whether that was the time of a `deadline`.
    :param setting: the setting that had set this deadline, and its value.
    """
    over, more_time = "", f"raise {ini_key(pool_name, 'pool_timeout')}"
    if cut and setting:
        over, more_time = f", when {setting} was over", f"raise {setting.partition(' ')[0]}"
    elif cut:
        over, more_time = ", the deadline of the caller", "allow a longer deadline"
    others = "1 other" if waiting == 1 else f"{waiting} others"
    return (
        f"{_pool(pool_name)}: no connection came free within {waited:.2f} s"
        f"{over} (QueuePool limit of size {size}"
        f" overflow {overflow} reached, {len(holders)} checked out, {others} waiting)."
        f"{holders_text(holders)} Give connections back sooner, raise"
        f" {ini_key(pool_name, 'pool_size')} or {ini_key(pool_name, 'max_overflow')}, or"
        f" {more_time}."
    )


def slow_text(
    pool_name: str | None,
    waited: float,
    opening: int,
    *,
    cut: bool = False,
    setting: str | None = None,
) -> str:
    """Explain that the time was over before any connection could be opened."""
    still = "1 connection is" if opening == 1 else f"{opening} connections are"
    limit = ini_key(pool_name, "pool_timeout")
    if cut:
        limit = setting or "the deadline of the caller"
    return (
        f"{_pool(pool_name)}: no connection within {waited:.2f} s; {still} still being"
        f" opened. The server answers slowly or not at all; {limit} says how long to wait."
    )


def saturated_text(
    pool_name: str | None,
    waited: float,
    count: int,
    error: BaseException,
    holders: Sequence[Holder] = (),
) -> str:
    """Explain that the server admits no more connections."""
    return (
        f"{_pool(pool_name)}: no connection within {waited:.2f} s, because the server admits no"
        f" more ({driver_text(error)}); this pool has {count} open."
        f"{holders_text(holders)} Raise the server's limit, or lower"
        f" {ini_key(pool_name, 'pool_size')} and {ini_key(pool_name, 'max_overflow')} in the"
        " processes that share it."
    )


def line_full_text(
    pool_name: str | None,
    waiting: int,
    capacity: int | None,
    holders: Sequence[Holder] = (),
) -> str:
    """Explain that the line is as long as it may be."""
    key = ini_key(pool_name, "max_waiting", "dbpool.")
    callers = "1 caller waits" if waiting == 1 else f"{waiting} callers wait"
    places = "only connection" if capacity == 1 else f"{capacity} connections"
    line = f"{callers} already for its {places}, as many as {key} allows."
    if not waiting:
        line = f"its {places} cannot be had at once, and {key} = 0 lets nobody wait."
    return (
        f"{_pool(pool_name)}: {line}{holders_text(holders)} Give connections back sooner, or raise"
        f" {ini_key(pool_name, 'pool_size')} or {ini_key(pool_name, 'max_overflow')}."
    )


def unavailable_text(
    pool_name: str | None,
    kind: ConnectFailure,
    lasted: float,
    error: BaseException,
    url_key: str | None = None,
) -> str:
    """Explain that no connection can be opened.

    :param url_key: the setting of the URL; None: the usual one of the pool.
    """
    said, url_key = driver_text(error), url_key or ini_key(pool_name, "url")
    if kind is ConnectFailure.CONFIGURATION:
        suspect = url_key
        if "unsupported startup parameter" in said:
            key = ini_key(pool_name, "statement_timeout", "dbpool.")
            suspect = f"{key} and the timeouts beside it, which PgBouncer refuses"
        return (
            f"{_pool(pool_name)}: the database refuses this configuration; check {suspect}"
            f" ({said})"
        )
    return (
        f"{_pool(pool_name)}: the database server of {url_key} has been"
        f" unreachable for {lasted:.1f} s ({said})"
    )


def away_text(pool_name: str | None, grace: float | None, error: BaseException) -> str:
    """Say in the log that an outage begins."""
    refused = "" if grace is None else f", and are refused at once after {grace:g} s of it"
    return (
        f"{_pool(pool_name)}: the database server is unreachable ({driver_text(error)})."
        f" Callers wait until it is back or their time is over{refused}."
    )


def back_text(pool_name: str | None, lasted: float, refused: int) -> str:
    """Say in the log that an outage is over."""
    callers = "1 caller" if refused == 1 else f"{refused} callers"
    ending = (
        f"; {callers} got no connection meanwhile." if refused else ". Every caller was served."
    )
    return f"{_pool(pool_name)}: the database server is back after {lasted:.1f} s{ending}"


def held_text(pool_name: str | None, holder: Holder, where: str) -> str:
    """Say in the log that a connection is held for long."""
    return (
        f"{_pool(pool_name)}: {holder.label} has held a connection for"
        f" {holder.held_seconds:.1f} s, {where}."
        f" ({ini_key(pool_name, 'hold_warning', 'dbpool.')} says after how long to warn.)"
    )


def second_text(pool_name: str | None, taker: str, first: Holder, where: str) -> str:
    """Say in the log that a holder takes another connection.

    :param first: who holds the other one: the same, or the request around a subrequest.
    """
    held = (
        "and has held one" if taker == first.label else f"beside one that {first.label} has held"
    )
    return (
        f"{_pool(pool_name)}: {taker} takes a second connection {held} for"
        f" {first.held_seconds:.1f} s, {where}. When every connection is the first of such a"
        " pair, all wait for each other until their time is over: use one session, or give the"
        " first connection back before."
    )
