"""One message's work in the database, tried again while that can help."""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Generic, TypeAlias, TypeVar

from sqlalchemy import Engine, select
from sqlalchemy import exc as sa_exc
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError

from ..clock import monotonic, sleep
from ..drivers.connect_failures import ConnectFailure, classify_connect_failure, connect_failure
from ..drivers.driver_errors import driver_text
from ..drivers.transactions import is_known_rollback, is_lost, is_overstay
from ..drivers.writability import WriteRefusal, storage_refusal
from ..engines.stored import Outcome, database_error, is_aftermath, observed
from ..engines.transaction_modes import TransactionModes
from ..engines.write_outage import WriteOutage
from ..errors import CommitUnknown, DatabaseUnavailable, PoolError
from ..pool.outage import pause_before
from ..sessions.unit_of_work import unit_of_work
from ..stopping import Stop, stoppable
from .message_names import MessageName

__all__ = ["Attempts"]

log = logging.getLogger(__name__)

M = TypeVar("M")
# Waits for what has gone wrong to be over, and returns False if the stop comes first; gets the
# number of tries so far.
Remedy: TypeAlias = Callable[[int], bool]

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
        tries, modes, said = 0, asdict(self.modes), _Said()
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
                if tries >= self.max_tries and not stopped and self._counts(remedy):
                    raise
                self._tell(said, named, tries, remedy, database_error(error, outcome))
                if stopped or not remedy(tries):
                    log.warning("%s: neither handled nor acknowledged, to stop", named)
                    return False

    def _tell(
        self, said: "_Said", named: MessageName[M], tries: int, remedy: Remedy, error: Exception
    ) -> None:
        number = f"try {tries} of {self.max_tries}"
        if remedy in {self._others_are_past, self._pause_is_over}:
            log.warning("%s: %s: %s", named, number, _reason(error))
        elif self._counts(remedy) or (tries == 1 and remedy != self._there_is_room):
            log.warning("%s: %s (waiting for the database): %s", named, number, _reason(error))
        elif said.is_due(monotonic()):
            # However many tries that takes.
            what = "has room" if remedy == self._there_is_room else "takes writes"
            log.warning("%s: waiting until the database %s: %s", named, what, _reason(error))

    def _remedy(self, error: Exception, outcome: Outcome) -> Remedy | None:
        """Return what has to be waited for before another try; None if none is allowed."""
        if not (self.repeatable or outcome.nothing_stored):
            return None
        said = database_error(error, outcome)
        if outcome.overstayed and not isinstance(said, CommitUnknown):
            # Another try would take as long, and do again what was done beside the database.
            return None
        if is_aftermath(said) and outcome.write_refusal is None:
            return self._others_are_past if outcome.transient else None
        return self._remedy_of(said, outcome)

    def _note(self, outcome: Outcome, error: Exception) -> None:
        # The handler may swallow it, and meet an error that does not say what it was.
        outcome.transient = outcome.transient or self._remedy_of(error, outcome) is not None

    def _remedy_of(self, said: Exception, outcome: Outcome) -> Remedy | None:
        if isinstance(said, CommitUnknown):
            return self._database_is_back if self.repeatable else None
        if isinstance(said, sa_exc.TimeoutError):
            return self._pause_is_over
        if isinstance(said, StaleDataError):
            return self._others_are_past
        if (refusal := self._write_refusal_of(said, outcome)) is not None:
            return self._remedy_of_refusal(refusal, outcome)
        if isinstance(said, sa_exc.DBAPIError) and is_known_rollback(said):
            return self._others_are_past
        return self._database_is_back if self._is_away(said) else None

    @staticmethod
    def _write_refusal_of(said: Exception, outcome: Outcome) -> WriteRefusal | None:
        if (refusal := outcome.write_refusal_of(said)) is not None:
            return refusal
        # On an engine of others nobody has heard of it before.
        opened = isinstance(said, sa_exc.DBAPIError) and not isinstance(said, PoolError)
        return storage_refusal(said) if opened else None

    def _remedy_of_refusal(self, refusal: WriteRefusal, outcome: Outcome) -> Remedy:
        if refusal.is_read_only and outcome.writes is not None:
            lifted = refusal is WriteRefusal.FENCED
            wait = self._fence_is_lifted if lifted else self._server_takes_writes
            return partial(wait, outcome.writes)
        # A statement that takes up the room itself would go on doing so.
        counts = refusal is WriteRefusal.EXHAUSTED
        return self._pause_is_over if counts else self._there_is_room

    def _counts(self, remedy: Remedy) -> bool:
        """Tell whether a try that needs this was one: what a server's state stops never was."""
        what = remedy.func if isinstance(remedy, partial) else remedy
        return what not in {self._there_is_room, self._server_takes_writes}

    def _server_takes_writes(self, writes: WriteOutage, tries: int) -> bool:
        # Where half of the new connections lead to a standby it takes several.
        paused = tries == 1 or self._pause_is_over(tries)
        return paused and self._fence_is_lifted(writes, tries)

    def _fence_is_lifted(self, writes: WriteOutage, _tries: int) -> bool:
        """Wait until the server takes writes; return False if the stop comes first."""
        while not writes.wait(LOG_EVERY, self.stop.is_set):
            if self.stop.is_set():
                return False
            log.warning("waiting: %s", writes.unavailable())
        return True

    def _there_is_room(self, tries: int) -> bool:
        return self._pause_is_over(tries)

    def _others_are_past(self, tries: int) -> bool:
        # The others' transactions are short; the message in hand is finished even at a stop.
        sleep(_pause(tries) / 4)
        return True

    def _pause_is_over(self, tries: int) -> bool:
        return not self.stop.wait(_pause(tries))

    def _database_is_back(self, tries: int) -> bool:
        """Wait until the database can be used again; return False if the stop comes first."""
        said = _Said(monotonic())
        # From `tries` on: a message that itself brings the server down finds it back at once.
        number = tries
        while not self.stop.wait(_pause(number)):
            number += 1
            error = self._probe()
            if error is None:
                log.info("the database is back")
                return True
            if said.is_due(monotonic()):
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


class _Said:
    """When something was last said, so that it is not said too often."""

    def __init__(self, at: float = float("-inf")) -> None:
        self._at = at

    def is_due(self, now: float) -> bool:
        """Tell whether it may be said again: from now on it has been."""
        due = now - self._at >= LOG_EVERY
        if due:
            self._at = now
        return due


def _pause(number: int) -> float:
    return pause_before(number, LONGEST_PAUSE)


def _reason(error: Exception) -> str:
    shown = getattr(error, "orig", None) or error
    return f"{type(shown).__name__}: {driver_text(shown)}"
