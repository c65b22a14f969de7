"""Why a caller gets no connection: the errors of a pool, with its numbers in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from ..drivers.app_errors import place_in_app
from ..drivers.connect_failures import ConnectFailure
from ..drivers.driver_errors import driver_error, driver_text
from ..drivers.tls import tls_options
from ..errors import DatabaseUnavailable, PoolLineFull, PoolTimeout
from .leases import Lease, groups, holders_text, leases, named
from .line import Pause
from .options import Spelling, pool_text
from .outage import Outage
from .shared import Shared
from .stats import Holder

T = TypeVar("T", bound=PoolTimeout)

# SQLAlchemy's page about pools that are exhausted: https://sqlalche.me/e/20/3o7r
EXHAUSTED = "3o7r"


class _Books(NamedTuple):
    """The pool at the moment of a refusal, as it is told of."""

    at: float
    held: list[Lease]
    leased: int
    opening: int
    opened: int
    capacity: int | None
    full: bool
    waiting: int
    waiting_holders: int
    pause: Pause | None


class Refusals:
    """Make the errors of one pool, a new one for each caller; never with its lock held.

    But for `unavailable` and `inside`, which call nothing that could wait.
    """

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._name = shared.options.pool_name
        self._spelled = shared.source.spelled

    def unavailable(
        self, error: BaseException, kind: ConnectFailure, lasted: float = 0.0
    ) -> DatabaseUnavailable:
        """Make the exception for one caller who cannot be served.

        :param lasted: for how many seconds openings have failed.
        """
        text = unavailable_text(self._name, self._spelled, kind, lasted, error)
        refusal = DatabaseUnavailable.saying(text, error, self._name)
        refusal.__cause__ = error
        if lasted:
            refusal.fields = {"seconds": lasted}
        return refusal

    def away(self, outage: Outage) -> DatabaseUnavailable:
        """Make the error for one caller who gets nothing because of an outage."""
        lasted = self._shared.clock() - outage.since
        return self.unavailable(outage.error, outage.kind, lasted)

    def inside(self) -> PoolTimeout:
        """Make the error for a caller who has interrupted the pool's own work."""
        return self._exhausted(PoolTimeout, inside_text(self._name))

    def paused(self) -> PoolTimeout | None:
        """Make the error of a caller who may not even look at the server; None: he may."""
        pause = self._shared.line.paused
        return None if pause is None else self._paused(pause, 0.0)

    def _paused(
        self, pause: Pause, waited: float, *, cut: bool = False, setting: str | None = None
    ) -> PoolTimeout:
        lasted, limit = self._shared.clock() - pause.since, self._spelled("pool_timeout")
        if cut:
            limit = setting or "the deadline of the caller"
        text = paused_text(self._name, waited, lasted, pause.by, limit=limit)
        error = self._exhausted(PoolTimeout, text)
        error.paused = True
        error.fields = {"seconds": waited, "paused_seconds": lasted}
        return error

    def line_full(self) -> PoolLineFull:
        """Make the error for one caller too many."""
        books, spelled = self._refuse("line_full"), self._spelled
        holders = named(books.held)
        # Some may have left the line since this caller was told that it is full.
        most = self._shared.options.max_waiting or 0
        if books.pause is not None:
            lasted, by = books.at - books.pause.since, books.pause.by
            text = paused_line_full_text(self._name, spelled, most, lasted, by)
        else:
            text = line_full_text(
                self._name,
                spelled,
                most,
                books.capacity,
                holders,
                waiting_holders=books.waiting_holders,
            )
        error = self._exhausted(PoolLineFull, text)
        error.paused = books.pause is not None
        error.fields = _fields(holders, books)
        return error

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
        books, name, spelled = self._refuse("timeout"), self._name, self._spelled
        if books.pause is not None:
            return self._paused(books.pause, waited, cut=cut, setting=setting)
        holders = named(books.held)
        if outage is not None:
            found = self._outage_text(outage, waited, books, holders)
            if found is None:
                return self.away(outage)
            text = found
        elif books.opening and (books.opening >= books.leased or not books.full):
            text = slow_text(name, spelled, waited, books.opening, cut=cut, setting=setting)
        else:
            text = timeout_text(
                name,
                spelled,
                waited=waited,
                size=self._shared.size,
                capacity=books.capacity,
                opened=None if books.full else books.opened,
                waiting=books.waiting,
                holders=holders,
                waiting_holders=books.waiting_holders,
                cut=cut,
                setting=setting,
            )
        error = self._exhausted(PoolTimeout, text, outage)
        error.fields = {"seconds": waited} | _fields(holders, books)
        return error

    def _refuse(self, reason: str) -> _Books:
        """Count a refusal, and copy what there is to say of it."""
        shared, line = self._shared, self._shared.line
        with shared.door, shared.lock:
            shared.stats.refused[reason] += 1
            now = shared.clock()
            return _Books(
                at=now,
                held=leases(line, now),
                leased=line.leased,
                opening=line.opening,
                opened=line.total - line.opening,
                capacity=line.capacity,
                full=line.full,
                waiting=line.waiting,
                waiting_holders=shared.stats.waiting_holders,
                pause=line.paused,
            )

    def _outage_text(
        self, outage: Outage, waited: float, books: _Books, holders: Sequence[Holder]
    ) -> str | None:
        """Explain why open connections were not enough in an outage; None: there were none."""
        name, spelled, hold = self._name, self._spelled, books.waiting_holders
        if outage.kind is ConnectFailure.SATURATED:
            return saturated_text(
                name,
                spelled,
                waited,
                books.opened,
                outage.error,
                holders=holders,
                waiting_holders=hold,
            )
        if books.opened and outage.serves_since(books.at - waited):
            return no_new_text(
                name,
                spelled,
                waited,
                outage,
                count=books.opened,
                holders=holders,
                waiting_holders=hold,
            )
        return None

    def _exhausted(self, kind: type[T], text: str, outage: Outage | None = None) -> T:
        error = kind(text, code=EXHAUSTED)
        error.pool_name = self._name
        error.__cause__ = None if outage is None else outage.error
        return error


def _fields(holders: Sequence[Holder], books: _Books) -> dict[str, str | float]:
    fields: dict[str, str | float] = {
        "in_use": len(holders),
        "waiting": books.waiting,
        "waiting_holders": books.waiting_holders,
    }
    for first in groups(holders)[:1]:
        fields["holder"], fields["holder_connections"] = first.label, first.connections
        fields["holder_seconds"] = first.longest
    return fields


def timeout_text(
    pool_name: str | None,
    spelled: Spelling,
    *,
    waited: float,
    size: int,
    capacity: int | None,
    opened: int | None,
    waiting: int,
    holders: Sequence[Holder],
    waiting_holders: int = 0,
    cut: bool = False,
    setting: str | None = None,
) -> str:
    """Explain that no connection came free in time.

    :param opened: how many connections are open; None: as many as there may be, in SQLAlchemy's
        words.
    :param waiting_holders: how many of those who wait, this caller counted, hold a connection.
    :param cut: whether that was the time of a `deadline`.
    :param setting: the setting that had set this deadline, and its value.
    """
    over, more_time = "", f"raise {spelled('pool_timeout')}"
    if cut and setting:
        over, more_time = f", when {setting} was over", f"raise {setting.partition(' ')[0]}"
    elif cut:
        over, more_time = ", the deadline of the caller", "allow a longer deadline"
    others = "1 other" if waiting == 1 else f"{waiting} others"
    if opened is None:
        state = f"QueuePool limit of size {size} overflow {(capacity or size) - size} reached"
        room = f" raise {spelled('pool_size')} or {spelled('max_overflow')},"
    else:
        state, room = f"{opened}{'' if capacity is None else f' of {capacity}'} open", ""
    return (
        f"{pool_text(pool_name)}: no connection came free within {waited:.2f} s"
        f"{over} ({state}, {len(holders)} checked out, {others} waiting"
        f"{_waiting_holders_text(waiting_holders)})."
        f"{holders_text(holders)}{_in_pairs_text(waiting_holders)} Give connections back"
        f" sooner,{room} or {more_time}."
    )


def _in_pairs_text(waiting_holders: int) -> str:
    # A larger pool, which is advised next, only makes it rarer.
    if not waiting_holders:
        return ""
    return (
        " Who waits beside a connection of his own keeps it from the others: use one session, or"
        " give the first connection back before."
    )


def _waiting_holders_text(count: int) -> str:
    hold = "1 of those who wait holds" if count == 1 else f"{count} of those who wait hold"
    return f"; {hold} a connection already" if count else ""


def paused_text(
    pool_name: str | None, waited: float, lasted: float, by: str, *, limit: str
) -> str:
    """Explain that nobody is served because somebody has asked for that.

    :param waited: for how many seconds the caller has waited, and
    :param limit: which limit of his came before the end of it.
    :param lasted: for how many seconds the pool has been paused.
    """
    return (
        f"{pool_text(pool_name)}: no connection within {waited:.2f} s ({limit}), because the pool"
        f" {since_text(lasted, by)}."
    )


def paused_line_full_text(
    pool_name: str | None, spelled: Spelling, max_waiting: int, lasted: float, by: str
) -> str:
    """Explain that nobody may wait any more for the end of a pause."""
    callers = "1 caller waits" if max_waiting == 1 else f"{max_waiting} callers wait"
    return (
        f"{pool_text(pool_name)}: {callers} already, as many as {spelled('max_waiting')} allows,"
        f" because the pool {since_text(lasted, by)}."
    )


def since_text(lasted: float, by: str) -> str:
    """Say for how long a pool has been paused, by whom, and what ends that."""
    return (
        f"has been paused for {lasted:.1f} s by {by}: callers wait until it is resumed, with"
        " `pdbpool resume` or the pool's resume()"
    )


def slow_text(
    pool_name: str | None,
    spelled: Spelling,
    waited: float,
    opening: int,
    *,
    cut: bool = False,
    setting: str | None = None,
) -> str:
    """Explain that the time was over before any connection could be opened."""
    still = "1 connection is" if opening == 1 else f"{opening} connections are"
    limit = spelled("pool_timeout")
    if cut:
        limit = setting or "the deadline of the caller"
    return (
        f"{pool_text(pool_name)}: no connection within {waited:.2f} s; {still} still being"
        f" opened. The server answers slowly or not at all; {limit} says how long to wait."
    )


def saturated_text(
    pool_name: str | None,
    spelled: Spelling,
    waited: float,
    count: int,
    error: BaseException,
    *,
    holders: Sequence[Holder] = (),
    waiting_holders: int = 0,
) -> str:
    """Explain that the server admits no more connections."""
    return (
        f"{pool_text(pool_name)}: no connection within {waited:.2f} s, because the server admits"
        f" no more ({driver_text(error)}); this pool has {count} open"
        f"{_waiting_holders_text(waiting_holders)}."
        f"{holders_text(holders)} Raise the server's limit, or lower"
        f" {spelled('pool_size')} and {spelled('max_overflow')} in the"
        " processes that share it."
    )


def no_new_text(
    pool_name: str | None,
    spelled: Spelling,
    waited: float,
    outage: Outage,
    *,
    count: int,
    holders: Sequence[Holder],
    waiting_holders: int = 0,
) -> str:
    """Explain that none of the open connections came free, and that no other can be opened."""
    if outage.kind is ConnectFailure.CONFIGURATION:
        why, remedy = "the database refuses others", f"Check {spelled('url')}."
    else:
        why = "no other can be opened"
        remedy = (
            "Open ones work: look for what keeps this machine from opening others (name resolution"
            f" for {spelled('url')}, a firewall, its limit of open files)."
        )
    open_ones = "the only open one" if count == 1 else f"none of the {count} open ones"
    came = "did not come free" if count == 1 else "came free"
    return (
        f"{pool_text(pool_name)}: no connection within {waited:.2f} s: {open_ones} {came}, and"
        f" {why} ({driver_text(outage.error)}){_waiting_holders_text(waiting_holders)}."
        f"{holders_text(holders)} {remedy}"
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
    spelled: Spelling,
    max_waiting: int,
    capacity: int | None,
    holders: Sequence[Holder] = (),
    *,
    waiting_holders: int = 0,
) -> str:
    """Explain that the line is as long as it may be."""
    key = spelled("max_waiting")
    callers = "1 caller waits" if max_waiting == 1 else f"{max_waiting} callers wait"
    places = "only connection" if capacity == 1 else f"{capacity} connections"
    line = (
        f"{callers} already for its {places}, as many as {key} allows"
        f"{_waiting_holders_text(waiting_holders)}."
    )
    if not max_waiting:
        line = f"its {places} cannot be had at once, and {key} = 0 lets nobody wait."
    return (
        f"{pool_text(pool_name)}: {line}{holders_text(holders)} Give connections back sooner, or"
        f" raise {spelled('pool_size')} or {spelled('max_overflow')}."
    )


def unavailable_text(
    pool_name: str | None,
    spelled: Spelling,
    kind: ConnectFailure,
    lasted: float,
    error: BaseException,
) -> str:
    """Explain that no connection can be opened.

    :param lasted: for how many seconds; 0: nobody has looked before.
    """
    said, url = driver_text(error), spelled("url")
    if place_in_app(error) is not None:
        since = f", and has not for {lasted:.1f} s" if lasted else ""
        return f"{pool_text(pool_name)}: the app's own code opens no connection{since} ({said})"
    if kind is ConnectFailure.CONFIGURATION:
        suspect = url
        if "unsupported startup parameter" in said:
            timeout = spelled("statement_timeout")
            suspect = f"{timeout} and the timeouts beside it, which PgBouncer refuses"
        elif options := tls_options(error):
            suspect = (
                f"what {url} or {spelled('connect_args')} say of TLS ({options}), the certificates"
                " and their dates"
            )
        elif "invalid connection option" in said or isinstance(driver_error(error), TypeError):
            suspect = f"{url} and {spelled('connect_args')}"
        return (
            f"{pool_text(pool_name)}: no connection can be opened with this configuration; check"
            f" {suspect} ({said})"
        )
    since = f"has been unreachable for {lasted:.1f} s" if lasted else "is unreachable"
    return f"{pool_text(pool_name)}: the database server of {url} {since} ({said})"
