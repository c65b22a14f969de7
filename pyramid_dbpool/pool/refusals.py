"""Why a caller gets no connection: the errors of a pool, with its numbers in them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import exc as sa_exc

from ..drivers.connect_failures import ConnectFailure, classify_connect_failure
from ..errors import DatabaseUnavailable, PoolLineFull, PoolTimeout
from . import messages
from .entries import LEASED
from .holders import Lease, named

if TYPE_CHECKING:
    from .core import Service
    from .managed import ManagedPool

# SQLAlchemy's page about pools that are exhausted: https://sqlalche.me/e/20/3o7r
BACKGROUND = "3o7r"


class Refusals:
    """Make the errors of one pool, a new one for each caller."""

    def __init__(self, service: Service, source: ManagedPool) -> None:
        self._service = service
        self._source = source
        self._name = service.options.pool_name

    def classify(self, error: BaseException) -> ConnectFailure | None:
        """Say what a failed opening means; None: a fault of the program."""
        module = getattr(self._source._dialect, "loaded_dbapi", None)
        if module is None:
            return ConnectFailure.UNREACHABLE if isinstance(error, Exception) else None
        # UnicodeDecodeError: psycopg2's, of a server that writes its own encoding.
        known = module.Error | OSError | UnicodeDecodeError | sa_exc.DBAPIError
        if not isinstance(error, known):
            return None
        return classify_connect_failure(cast("Any", self._source._dialect), error)

    def refusal(self, error: BaseException, kind: ConnectFailure) -> BaseException:
        """Make the exception for one caller who cannot be served."""
        trouble = self._service.opener.trouble
        lasted = 0.0 if trouble is None else time.monotonic() - trouble.since
        text = messages.unavailable_text(self._name, kind, lasted, error, self._source.url_key)
        refusal = DatabaseUnavailable.saying(text, error, self._name)
        refusal.__cause__ = error
        return refusal

    def check_admission_locked(self, now: float) -> None:
        """Refuse a caller whose wait would be pointless."""
        trouble = self._service.opener.refused_locked(now)
        if trouble is not None:
            self._service.stats.refused["outage"] += 1
            self._service.opener.outages.refused_locked()
            raise self.refusal(trouble.error, trouble.kind)

    def line_full(self) -> PoolLineFull:
        """Make the error for one caller too many."""
        with self._service.lock:
            self._service.stats.refused["line_full"] += 1
            line, leases = self._service.line, self.leases_locked()
            waiting, capacity = line.waiting, line.capacity
        text = messages.line_full_text(self._name, waiting, capacity, named(leases))
        error = PoolLineFull(text, code=BACKGROUND)
        error.pool_name = self._name
        return error

    def timed_out(
        self, waited: float, cut: bool = False, setting: str | None = None
    ) -> BaseException:
        """Make the error for a caller whose time is over.

        :param cut: whether it was the caller's own deadline that came first.
        :param setting: the setting that had set this deadline, and its value.
        """
        with self._service.lock:
            trouble, line = self._service.opener.trouble, self._service.line
            leases, opening, waiting = self.leases_locked(), line.opening, line.waiting
            opened = line.total - opening
            self._service.stats.refused["timeout"] += 1
            self._service.opener.outages.refused_locked()
        name = self._name
        if trouble is not None and trouble.kind is ConnectFailure.SATURATED:
            said, holders = trouble.error, named(leases)
            text = messages.saturated_text(name, waited, opened, said, holders)
        elif trouble is not None:
            return self.refusal(trouble.error, trouble.kind)
        elif opening and opening >= line.leased:
            text = messages.slow_text(name, waited, opening, cut=cut, setting=setting)
        else:
            text = messages.timeout_text(
                name,
                waited=waited,
                size=self._service.size,
                overflow=self._service.overflow(),
                waiting=waiting,
                holders=named(leases),
                cut=cut,
                setting=setting,
            )
        error = PoolTimeout(text, code=BACKGROUND)
        error.__cause__ = None if trouble is None else trouble.error
        error.pool_name = self._name
        return error

    def leases_locked(self) -> list[Lease]:
        """List what is checked out; name the holders when the lock is free again."""
        now = time.monotonic()
        return [
            Lease(each.label, each.holder, now - each.leased_at)
            # A copy: the collector may return a connection in the middle of this.
            for each in list(self._service.line.members)
            # One that was just opened has had no holder yet.
            if each.state is LEASED and each.holder != 0
        ]
