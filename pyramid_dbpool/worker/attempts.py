"""One message's work in the database, tried again while that can help."""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Generic, TypeVar

from sqlalchemy import Engine, select
from sqlalchemy import exc as sa_exc
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError

from ..clock import monotonic, sleep
from ..drivers.connect_failures import ConnectFailure, classify_connect_failure, connect_failure
from ..drivers.driver_errors import driver_text
from ..drivers.transactions import is_known_rollback, is_lost, is_overstay
from ..engines.stored import Outcome, database_error, is_aftermath, observed
from ..engines.transaction_modes import TransactionModes
from ..errors import CommitUnknown, DatabaseUnavailable
from ..pool.outage import pause_before
from ..sessions.unit_of_work import unit_of_work
from ..stopping import Stop, stoppable
from .message_names import MessageName

__all__ = ["Attempts"]

log = logging.getLogger(__name__)

M = TypeVar("M")

LONGEST_PAUSE = 5.0  # seconds, between two tries
LOG_EVERY = 30.0  # seconds between two log lines about the same outage

WORTH_WAITING = (ConnectFailure.SATURATED, ConnectFailure.UNREACHABLE)


@dataclass(frozen=True)
class Attempts(Generic[M]):
    """Does the work of one message after another, each as often as it takes and may be."""

    handle: Callable[[M, Session], object]
    session: Session
    modes: TransactionModes
    stop: Stop
    max_tries: int
    repeatable: bool

    def run(self, message: M, named: MessageName[M]) -> bool:
        """Handle the message; return False if it was time to stop before the database was back.

        :raises Exception: the error of the last try.
        """
        # A stop does not wait as long as a caller may for a connection.
        with stoppable(self.stop.is_set):
            return self._run(message, named)

    def _run(self, message: M, named: MessageName[M]) -> bool:
        tries, modes = 0, asdict(self.modes)
        while True:
            tries += 1
            try:
                with (
                    observed(self._note) as outcome,
                    unit_of_work(self.session, **modes) as session,
                ):
                    self.handle(message, session)
                return True
            except Exception as error:
                remedy = self._remedy(error, outcome)
                if remedy is None:
                    raise
                # At a stop the last try is none: the next worker has all of them.
                stopped = self.stop.is_set() and remedy != self._others_are_past
                if tries >= self.max_tries and not stopped:
                    raise
                waits = " (waiting for the database)" if remedy == self._database_is_back else ""
                log.warning(
                    "%s: try %d of %d%s: %s",
                    named,
                    tries,
                    self.max_tries,
                    waits,
                    _reason(database_error(error, outcome)),
                )
                if stopped or not remedy(tries):
                    log.warning("%s: neither handled nor acknowledged, to stop", named)
                    return False

    def _remedy(self, error: Exception, outcome: Outcome) -> Callable[[int], bool] | None:
        """Return what has to be waited for before another try; None if none is allowed."""
        if not (self.repeatable or outcome.nothing_stored):
            return None
        said = database_error(error, outcome)
        if outcome.overstayed and not isinstance(said, CommitUnknown):
            # Another try would take as long, and do again what was done beside the database.
            return None
        if is_aftermath(said):
            return self._others_are_past if outcome.transient else None
        return self._remedy_of(said)

    def _note(self, outcome: Outcome, error: Exception) -> None:
        # The handler may swallow it, and meet an error that does not say what it was.
        outcome.transient = outcome.transient or self._remedy_of(error) is not None

    def _remedy_of(self, said: Exception) -> Callable[[int], bool] | None:
        if isinstance(said, CommitUnknown):
            return self._database_is_back if self.repeatable else None
        if isinstance(said, sa_exc.TimeoutError):
            return self._pause_is_over
        if isinstance(said, StaleDataError):
            return self._others_are_past
        if isinstance(said, sa_exc.DBAPIError) and is_known_rollback(said):
            return self._others_are_past
        return self._database_is_back if self._is_away(said) else None

    def _others_are_past(self, tries: int) -> bool:
        # The others' transactions are short; the message in hand is finished even at a stop.
        sleep(_pause(tries) / 4)
        return True

    def _pause_is_over(self, tries: int) -> bool:
        return not self.stop.wait(_pause(tries))

    def _database_is_back(self, tries: int) -> bool:
        """Wait until the database can be used again; return False if the stop comes first."""
        said = monotonic()
        # From `tries` on: a message that itself brings the server down finds it back at once.
        number = tries
        while not self.stop.wait(_pause(number)):
            number += 1
            error = self._probe()
            if error is None:
                log.info("the database is back")
                return True
            if monotonic() - said >= LOG_EVERY:
                said = monotonic()
                log.warning("waiting: the database is still away: %s", _reason(error))
        return False

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

    def refusal(self, error: Exception) -> DatabaseUnavailable | None:
        """Return how the database refuses all connections, which no message can help."""
        said, engine = database_error(error), self._engine
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


def _pause(number: int) -> float:
    return pause_before(number, LONGEST_PAUSE)


def _reason(error: Exception) -> str:
    shown = getattr(error, "orig", None) or error
    return f"{type(shown).__name__}: {driver_text(shown)}"
