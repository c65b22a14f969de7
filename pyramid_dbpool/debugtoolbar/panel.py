"""The panel: records the request that it is made for, and shows what there is by then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pyramid.request import Request
from pyramid.response import Response
from pyramid_debugtoolbar.panels import DebugPanel
from sqlalchemy import exc as sa_exc
from sqlalchemy.pool import QueuePool

from ..clock import monotonic
from ..drivers.driver_errors import driver_error, driver_text, sqlstate
from ..drivers.transactions import is_known_rollback, is_lost
from ..engines.stored import current_outcome, database_error
from ..errors import PoolError
from ..pool.managed import ManagedPool
from ..pool.view import Holding, Waiting
from ..telemetry.wording import counted, duration
from .findings import findings
from .recording import Checkout, Place, RecordedBody, Recording, Transaction, edge
from .watching import RECORDING, WatchedPool, watched_pools

__all__ = ["PoolPanel"]

# A key of the environ, which all attempts at a request share.
_ATTEMPTS = "pyramid_dbpool.debugtoolbar.attempts"
# How many of those who hold a pool's connections, or wait for one, are named.
_NAMED = 10

Handler = Callable[[Request], Response]


class PoolPanel(DebugPanel):  # type: ignore[misc]  # the toolbar says no types
    """What this request has done with its connections, and how its pools are at its end."""

    name = "dbpool"
    title = "Database connections"
    nav_title = "Connections"
    template = "pyramid_dbpool.debugtoolbar:templates/panel.dbtmako"
    has_content = True

    def __init__(self, request: Request) -> None:
        self._pools = watched_pools(request.registry)
        self._recording = Recording(request.environ.setdefault(_ATTEMPTS, []))
        self._is_ours = False

    def wrap_handler(self, handler: Handler) -> Handler:
        """Record what the request does from here on, its body included."""
        recording = self._recording

        @edge
        def record(request: Request) -> Response:
            request.__dict__[RECORDING] = recording
            try:
                with recording.at_work():
                    response = handler(request)
            except BaseException as error:
                self._end(request, error)
                raise
            self._end(request, getattr(request, "exception", None))
            if not isinstance(response.app_iter, list | tuple):
                response.app_iter = RecordedBody(response.app_iter, recording)
            return response

        # What there is to know of the app's engines is in the recording by the end.
        return record if self._pools else handler

    def _end(self, request: Request, error: BaseException | None) -> None:
        recording = self._recording
        recording.ended = monotonic()
        if error is not None:
            said = _said_by_database(error)
            recording.error = _in_words(said)
            recording.is_of_database = isinstance(said, PoolError | sa_exc.SQLAlchemyError)
        recording.sessions = [
            f"request.{each.attribute}"
            for each in self._pools
            if each.attribute in request.__dict__
        ]
        recording.pools = [_state_of(each) for each in self._pools]
        self._is_ours = True

    @property
    def nav_subtitle(self) -> str:
        """How often it had a connection, for the tab."""
        return str(len(self._recording.checkouts) or "")

    @property
    def nav_subtitle_style(self) -> str:
        """Whether there is something to look at, as the tab's colour."""
        levels = {each.level for each in findings(self._recording, monotonic())}
        worst = next((each for each in ("danger", "warning") if each in levels), None)
        return "" if worst is None else f"progress-bar-{worst}"

    def render_vars(self, request: Request) -> dict[str, Any]:
        """Return what the template shows, as of now: a body may come after its request."""
        recording, now = self._recording, monotonic()
        return {
            "is_ours": self._is_ours,
            "findings": findings(recording, now),
            "checkouts": [_row(recording, each, now) for each in recording.checkouts],
            "sessions": _sessions(recording),
            "attempts": [_attempt(each) for each in recording.attempts],
            "number": recording.number,
            "totals": _totals(recording, now),
            "pools": recording.pools,
        }


def _said_by_database(error: BaseException) -> BaseException:
    """Return what the database said, where the app has made an error of its own of it."""
    outcome = current_outcome()
    if outcome is None or not isinstance(error, Exception):
        return error
    return database_error(error, outcome)


def _in_words(said: BaseException) -> str:
    """Name an error, with what the database said of it where that has no content."""
    name = type(said).__name__
    if isinstance(said, PoolError | sa_exc.TimeoutError) and said.args:
        return f"{name}: {' '.join(str(said.args[0]).split())}"
    if not isinstance(said, sa_exc.DBAPIError):
        return name
    code = sqlstate(driver_error(said))
    name = type(driver_error(said)).__name__ + (f" {code}" if code else "")
    # What else a server says may cite values.
    return f"{name}: {driver_text(said)}" if is_lost(said) or is_known_rollback(said) else name


def _state_of(pool: WatchedPool) -> dict[str, Any]:
    """Say how a pool is."""
    found = pool.made.engine.pool
    if isinstance(found, ManagedPool):
        return {"name": pool.name, **_managed_state(found)}
    if isinstance(found, QueuePool):
        used, idle = found.checkedout(), found.checkedin()
        return {"name": pool.name, "size": found.size(), "used": used, "idle": idle}
    return {"name": pool.name, "status": found.status()}


def _managed_state(pool: ManagedPool) -> dict[str, Any]:
    view = pool.view(stacks=False)
    numbers = view.snapshot
    return {
        "size": numbers.size,
        "capacity": numbers.capacity,
        "used": numbers.leased,
        "idle": numbers.idle,
        "opening": numbers.opening,
        "waiting": numbers.waiting,
        "outage": None if numbers.outage_seconds is None else duration(numbers.outage_seconds),
        "holders": _people(view.holders),
        "waiters": _people(view.waiters),
    }


def _people(found: Sequence[Holding | Waiting]) -> list[str]:
    """Name those who hold, or wait, the first ones of them."""
    named = [f"{each.label}, for {duration(each.seconds)}" for each in found[:_NAMED]]
    rest = len(found) - len(named)
    return [*named, f"and {rest} more"] if rest else named


def _row(recording: Recording, checkout: Checkout, now: float) -> dict[str, Any]:
    """Say of one checkout what the table shows."""
    return {
        "pool": checkout.pool,
        "at": duration(checkout.asked - recording.began),
        "by": checkout.by,
        "thread": checkout.thread,
        "waited": duration(checkout.waited(now)),
        "held": duration(checkout.held(now)),
        "idle": duration(checkout.idle),
        "is_out": checkout.returned is None and checkout.refusal is None,
        "was_detached": checkout.was_detached,
        "after_the_answer": recording.ended is not None and checkout.asked >= recording.ended,
        "refusal": checkout.refusal,
        "server_pid": checkout.server_pid,
        "statements": counted(checkout.statements, "statement"),
        "where": [_place(each) for each in checkout.where],
        "returned_where": [_place(each) for each in checkout.returned_where],
        "transactions": [_transaction(each, recording, now) for each in checkout.transactions],
        "bar": _bar(recording, checkout, now),
    }


def _place(place: Place) -> dict[str, Any]:
    return {"function": place.function, "short": place.short, "full": str(place)}


def _transaction(transaction: Transaction, recording: Recording, now: float) -> dict[str, Any]:
    ended = now if transaction.ended is None else transaction.ended
    return {
        "at": duration(transaction.begun - recording.began),
        "end": transaction.end or "open",
        "took": duration(ended - transaction.begun),
    }


def _bar(recording: Recording, checkout: Checkout, now: float) -> dict[str, str]:
    """Say in per cent of the request where the checkout was waited for, used and held idle."""
    ends = [each.asked + each.waited(now) + each.held(now) for each in recording.checkouts]
    whole = max(recording.began + recording.seconds, *ends) - recording.began
    parts = {
        "before": checkout.asked - recording.began,
        "waited": checkout.waited(now),
        "used": checkout.held(now) - checkout.idle,
        "idle": checkout.idle,
    }
    return {name: f"{100 * max(0.0, part) / whole:.2f}%" for name, part in parts.items()}


def _had(recording: Recording) -> list[Checkout]:
    """Return the checkouts that were not refused."""
    return [each for each in recording.checkouts if each.refusal is None]


def _sessions(recording: Recording) -> list[dict[str, Any]]:
    """Say how often each of the request's sessions, and whoever else, had a connection."""
    counts = dict.fromkeys(recording.sessions, 0)
    # Who has asked in vain, has not come to be known by its session.
    for each in _had(recording):
        counts[each.by] = counts.get(each.by, 0) + 1
    return [
        {"name": name or "nobody named", "text": counted(count, "checkout")}
        for name, count in counts.items()
    ]


def _attempt(recording: Recording) -> dict[str, Any]:
    return {
        "number": recording.number,
        "took": duration(recording.seconds),
        "checkouts": counted(len(recording.checkouts), "checkout"),
        "error": recording.error,
    }


def _totals(recording: Recording, now: float) -> dict[str, Any]:
    had = _had(recording)
    refused = len(recording.checkouts) - len(had)
    return {
        "checkouts": counted(len(had), "checkout") + (f" ({refused} refused)" if refused else ""),
        "waited": duration(sum(each.waited(now) for each in recording.checkouts)),
        "held": duration(sum(each.held(now) for each in had)),
        "took": duration(recording.seconds),
        "statements": counted(sum(each.statements for each in had), "statement"),
        "transactions": counted(sum(len(each.transactions) for each in had), "transaction"),
    }
