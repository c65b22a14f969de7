"""One message's work in the database, tried again while that can help."""

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sqlalchemy import Engine, select
from sqlalchemy import exc as sa_exc
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError

from ..clock import monotonic
from ..drivers.connect_failures import ConnectFailure, classify_connect_failure, connect_failure
from ..drivers.transactions import is_known_rollback, is_lost, is_overstay
from ..drivers.writability import WriteRefusal, storage_refusal
from ..engines.stored import (
    Outcome,
    database_error,
    is_aftermath,
    observed,
    said_by_database,
)
from ..engines.transaction_modes import TransactionModes
from ..errors import CommitUnknown, DatabaseUnavailable, PoolError, PoolTimeout
from ..events import Kind, tell
from ..pool.managed import ManagedPool
from ..sessions.unit_of_work import UnitOfWork
from ..stopping import Stop
from .message_names import MessageName
from .remedies import (
    DatabaseIsBack,
    OthersArePast,
    PauseIsOver,
    PoolIsResumed,
    Remedy,
    Reminder,
    ServerTakesWrites,
    ThereIsRoom,
    reason,
)

__all__ = ["Attempts"]

log = logging.getLogger(__name__)

M = TypeVar("M")

WORTH_WAITING = (ConnectFailure.SATURATED, ConnectFailure.UNREACHABLE)


@dataclass(frozen=True)
class Attempts(Generic[M]):
    """Does the work of one message after another, each as often as it takes and may be."""

    handle: Callable[[M, Session], object]
    session: Session
    modes: TransactionModes | None
    stop: Stop
    max_tries: int
    repeatable: bool
    # What is being handled while it does: `consume` may be called in an `except` clause.
    handled: BaseException | None = field(default_factory=sys.exception)

    def run(self, message: M, named: MessageName[M]) -> bool:
        """Handle the message; return False if it was time to stop before the database was back.

        :raises Exception: the error of the last try.
        """
        tries, counted, waits_said = 0, 0, Reminder()
        while True:
            tries += 1
            outcome = observed(self._note)
            try:
                with outcome, UnitOfWork(self.session, self.modes) as session:
                    self.handle(message, session)
                return True
            except Exception as error:
                remedy = self._remedy(error, outcome)
                if remedy is None:
                    raise
                # At a stop the last try is none.
                stopped = self.stop.is_set() and remedy.heeds_stop
                counted += remedy.counts
                if counted >= self.max_tries and not stopped and remedy.counts:
                    raise
                if remedy.counts or waits_said.is_due(monotonic()):
                    _say(named, self._plan(counted, remedy), database_error(error, outcome))
                if stopped or not remedy.wait(tries):
                    log.warning("%s: neither handled nor acknowledged, to stop", named)
                    return False

    def _plan(self, tries: int, remedy: Remedy) -> str:
        if not remedy.counts:
            return f"waiting until {remedy.awaited}"
        waits = "" if remedy.awaited is None else f" (waiting for {remedy.awaited})"
        return f"try {tries} of {self.max_tries}{waits}"

    def _remedy(self, error: Exception, outcome: Outcome) -> Remedy | None:
        """Return what has to be waited for before another try; None if none is allowed."""
        if not (self.repeatable or outcome.nothing_stored):
            return None
        said = database_error(error, outcome)
        if outcome.overstayed and not isinstance(said, CommitUnknown):
            # Another try would take as long, and do again what was done beside the database.
            return None
        if is_aftermath(said) and outcome.write_refusal is None:
            return OthersArePast(self.stop) if outcome.transient else None
        return self._remedy_of(said, outcome)

    def _remedy_of_timeout(self, said: sa_exc.TimeoutError) -> Remedy:
        if isinstance(said, PoolTimeout) and said.paused:
            return PoolIsResumed(self.stop, self._is_paused, said)
        return PauseIsOver(self.stop)

    def _note(self, outcome: Outcome, error: Exception) -> None:
        # The handler may swallow it, and meet an error that does not say what it was.
        outcome.transient = outcome.transient or self._remedy_of(error, outcome) is not None

    def _remedy_of(self, said: Exception, outcome: Outcome) -> Remedy | None:
        database_is_back = DatabaseIsBack(self.stop, self._probe)
        if isinstance(said, CommitUnknown):
            return database_is_back if self.repeatable else None
        if isinstance(said, sa_exc.TimeoutError):
            return self._remedy_of_timeout(said)
        if isinstance(said, StaleDataError):
            return OthersArePast(self.stop)
        if (refusal := self._write_refusal_of(said, outcome)) is not None:
            return self._remedy_of_refusal(refusal, outcome)
        if isinstance(said, sa_exc.DBAPIError) and is_known_rollback(said):
            return OthersArePast(self.stop)
        return database_is_back if self._is_away(said) else None

    @staticmethod
    def _write_refusal_of(said: Exception, outcome: Outcome) -> WriteRefusal | None:
        if (refusal := outcome.write_refusal_of(said)) is not None:
            return refusal
        # On an engine of others nobody has heard of it before.
        opened = isinstance(said, sa_exc.DBAPIError) and not isinstance(said, PoolError)
        return storage_refusal(said) if opened else None

    def _remedy_of_refusal(self, refusal: WriteRefusal, outcome: Outcome) -> Remedy:
        if refusal is WriteRefusal.READ_ONLY and outcome.writes is not None:
            return ServerTakesWrites(self.stop, outcome.writes)
        # A statement that takes up the room itself would go on doing so.
        exhausted = refusal is WriteRefusal.EXHAUSTED
        return PauseIsOver(self.stop) if exhausted else ThereIsRoom(self.stop)

    def _probe(self) -> Exception | None:
        """Return why the database cannot be used, None if it can.

        :raises Exception: what waiting does not help against.
        """
        engine = self._engine
        if engine is None:
            # The next try finds out.
            return None
        try:
            with engine.connect() as connection:
                connection.scalar(select(1))
        except Exception as error:
            if self._is_away(error) or isinstance(error, sa_exc.TimeoutError):
                return error
            raise
        return None

    def _is_paused(self) -> bool:
        engine = self._engine
        # Where nobody can tell, the next try finds out.
        return engine is not None and isinstance(engine.pool, ManagedPool) and engine.pool.paused

    def refusal(self, error: Exception) -> DatabaseUnavailable | None:
        """Return how the database refuses all connections, which no message can help."""
        said, engine = said_by_database(error, self.handled), self._engine
        if engine is None or not isinstance(said, DatabaseUnavailable):
            return None
        failure = classify_connect_failure(engine.dialect, said)
        return said if failure is ConnectFailure.CONFIGURATION else None

    def _is_away(self, error: Exception) -> bool:
        if isinstance(error, DatabaseUnavailable):
            return self.refusal(error) is None
        if not isinstance(error, sa_exc.DBAPIError):
            return False
        if is_lost(error):
            return not is_overstay(error)
        engine = self._engine
        return engine is not None and connect_failure(engine.dialect, error) in WORTH_WAITING

    @property
    def _engine(self) -> Engine | None:
        try:
            return self.session.get_bind().engine
        except sa_exc.UnboundExecutionError:
            # A session of the caller's own may have an engine for each class, and none for all.
            return None


def _say(named: MessageName[Any], plan: str, error: Exception) -> None:
    text = f"{named}: {plan}: {reason(error)}"
    if not isinstance(error, PoolTimeout | DatabaseUnavailable):
        log.warning("%s", text)
        return
    kind = type(error).__name__
    pool = error.pool_name
    tell(log, Kind.REFUSED, text, pool, label=str(named), reason=kind, **error.fields)
