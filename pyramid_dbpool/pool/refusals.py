"""Why a caller gets no connection: the errors of a pool, with its numbers in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from ..drivers.connect_failures import ConnectFailure
from ..drivers.driver_errors import driver_text
from ..errors import DatabaseUnavailable, PoolLineFull, PoolTimeout
from .leases import holders_text, leases, named
from .options import ini_key, pool_text
from .outage import Outage
from .shared import Shared
from .stats import Holder

T = TypeVar("T", bound=PoolTimeout)

# SQLAlchemy's page about pools that are exhausted: https://sqlalche.me/e/20/3o7r
EXHAUSTED = "3o7r"


class Refusals:
    """Make the errors of one pool, a new one for each caller; never with its lock held.

    But for `unavailable` and `inside`, which call nothing that could wait.
    """

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._name = shared.options.pool_name

    def unavailable(
        self, error: BaseException, kind: ConnectFailure, lasted: float = 0.0
    ) -> DatabaseUnavailable:
        """Make the exception for one caller who cannot be served.

        :param lasted: for how many seconds openings have failed.
        """
        text = unavailable_text(self._name, kind, lasted, error, self._shared.source.url_key)
        refusal = DatabaseUnavailable.saying(text, error, self._name)
        refusal.__cause__ = error
        return refusal

    def away(self, outage: Outage) -> DatabaseUnavailable:
        """Make the error for one caller who gets nothing because of an outage."""
        lasted = self._shared.clock() - outage.since
        return self.unavailable(outage.error, outage.kind, lasted)

    def inside(self) -> PoolTimeout:
        """Make the error for a caller who has interrupted the pool's own work."""
        return self._exhausted(PoolTimeout, inside_text(self._name))

    def line_full(self) -> PoolLineFull:
        """Make the error for one caller too many."""
        shared = self._shared
        with shared.door, shared.lock:
            shared.stats.refused["line_full"] += 1
            held, line = leases(shared.line, shared.clock()), shared.line
            waiting, capacity = line.waiting, line.capacity
        return self._exhausted(
            PoolLineFull, line_full_text(self._name, waiting, capacity, named(held))
        )

    def timed_out(
        self,
        waited: float,
        outage: Outage | None,
        *,
        cut: bool = False,
        setting: str | None = None,
    ) -> BaseException:
        """Make the error for a caller whose time is over.

        :param waited: for how many seconds he has waited.
        :param outage: what keeps openings from succeeding, if anything does.
        :param cut: whether it was the caller's own deadline that came first.
        :param setting: the setting that had set this deadline, and its value.
        """
        shared, name = self._shared, self._name
        with shared.door, shared.lock:
            line, overflow = shared.line, shared.overflow
            held, waiting = leases(line, shared.clock()), line.waiting
            opening, opened, leased = line.opening, line.total - line.opening, line.leased
            waiting_holders = shared.stats.waiting_holders
            shared.stats.refused["timeout"] += 1
        if outage is not None and outage.kind is ConnectFailure.SATURATED:
            text = saturated_text(name, waited, opened, outage.error, named(held))
        elif outage is not None:
            return self.away(outage)
        elif opening and opening >= leased:
            text = slow_text(name, waited, opening, cut=cut, setting=setting)
        else:
            text = timeout_text(
                name,
                waited=waited,
                size=shared.size,
                overflow=overflow,
                waiting=waiting,
                holders=named(held),
                waiting_holders=waiting_holders,
                cut=cut,
                setting=setting,
            )
        error = self._exhausted(PoolTimeout, text)
        error.__cause__ = None if outage is None else outage.error
        return error

    def _exhausted(self, kind: type[T], text: str) -> T:
        error = kind(text, code=EXHAUSTED)
        error.pool_name = self._name
        return error


def timeout_text(
    pool_name: str | None,
    *,
    waited: float,
    size: int,
    overflow: int,
    waiting: int,
    holders: Sequence[Holder],
    waiting_holders: int = 0,
    cut: bool = False,
    setting: str | None = None,
) -> str:
    """Explain that no connection came free in time.

    :param waiting_holders: how many of those who wait, this caller counted, hold a connection.
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
        f"{pool_text(pool_name)}: no connection came free within {waited:.2f} s"
        f"{over} (QueuePool limit of size {size}"
        f" overflow {overflow} reached, {len(holders)} checked out, {others} waiting"
        f"{_waiting_holders_text(waiting_holders)})."
        f"{holders_text(holders)} Give connections back sooner, raise"
        f" {ini_key(pool_name, 'pool_size')} or {ini_key(pool_name, 'max_overflow')}, or"
        f" {more_time}."
    )


def _waiting_holders_text(count: int) -> str:
    hold = "1 of those who wait holds" if count == 1 else f"{count} of those who wait hold"
    return f"; {hold} a connection already" if count else ""


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
        f"{pool_text(pool_name)}: no connection within {waited:.2f} s; {still} still being"
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
        f"{pool_text(pool_name)}: no connection within {waited:.2f} s, because the server admits"
        f" no more ({driver_text(error)}); this pool has {count} open."
        f"{holders_text(holders)} Raise the server's limit, or lower"
        f" {ini_key(pool_name, 'pool_size')} and {ini_key(pool_name, 'max_overflow')} in the"
        " processes that share it."
    )


def inside_text(pool_name: str | None) -> str:
    """Explain that there is no connection for whoever interrupts the pool's own work."""
    return (
        f"{pool_text(pool_name)}: no connection can be had at once, and nobody may wait here: a"
        " signal's handler or a finalizer (__del__, a weakref's callback) has interrupted the"
        " pool's own work in this thread, and everybody would wait with it. Have it set a flag or"
        " put a message into a queue, and use the database when it has returned."
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
        f"{pool_text(pool_name)}: {line}{holders_text(holders)} Give connections back sooner, or"
        f" raise {ini_key(pool_name, 'pool_size')} or {ini_key(pool_name, 'max_overflow')}."
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
            f"{pool_text(pool_name)}: the database refuses this configuration; check {suspect}"
            f" ({said})"
        )
    return (
        f"{pool_text(pool_name)}: the database server of {url_key} has been"
        f" unreachable for {lasted:.1f} s ({said})"
    )
