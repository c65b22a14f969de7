"""What has to be over before a message is tried again: waits for it, up to a stop."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from ..clock import monotonic, sleep
from ..drivers.driver_errors import driver_text
from ..engines.write_outage import WriteOutage
from ..errors import DatabaseUnavailable, PoolTimeout
from ..events import Kind, tell
from ..pool.options import pool_text
from ..pool.outage import pause_before
from ..stopping import Stop

__all__ = [
    "DatabaseIsBack",
    "OthersArePast",
    "PauseIsOver",
    "PoolIsResumed",
    "Remedy",
    "Reminder",
    "ServerTakesWrites",
    "ThereIsRoom",
    "reason",
]

log = logging.getLogger(__name__)

LONGEST_PAUSE = 5.0  # seconds, between two tries
LONGEST_LOOK = 0.5  # seconds between two looks at a pool of this process, which cost nothing
LOG_EVERY = 30.0  # seconds between two log lines about the same outage


class Remedy(ABC):
    """Something that another try needs.

    :cvar awaited: what the log says that is waited for; None: for a moment only.
    :cvar counts: whether a try that needs it was one: what the server's state stops is none.
    :cvar heeds_stop: whether a stop ends the tries: the next worker has all of them.
    """

    awaited: ClassVar[str | None] = None
    counts: ClassVar[bool] = True
    heeds_stop: ClassVar[bool] = True

    def __init__(self, stop: Stop) -> None:
        self.stop = stop

    @abstractmethod
    def wait(self, tries: int) -> bool:
        """Wait until it is so, after `tries` tries; return False if the stop comes first."""


class OthersArePast(Remedy):
    """The transactions of others, which stood in the way, are over."""

    heeds_stop = False

    def wait(self, tries: int) -> bool:
        """Wait for a moment: they are short. The message in hand is finished even at a stop."""
        sleep(_pause(tries) / 4)
        return True


class PauseIsOver(Remedy):
    """A while has passed, and others may have given back what they held."""

    def wait(self, tries: int) -> bool:
        """Wait a while."""
        return not self.stop.wait(_pause(tries))


class ThereIsRoom(PauseIsOver):
    """The server can store something again; the next try finds out."""

    awaited = "the database has room"
    counts = False


class ServerTakesWrites(Remedy):
    """The address leads to a server that takes writes."""

    awaited = "the database takes writes"
    counts = False

    def __init__(self, stop: Stop, writes: WriteOutage) -> None:
        super().__init__(stop)
        self.writes = writes

    def wait(self, tries: int) -> bool:
        """Wait for it, and from the second try on a while before."""
        # Where half of the new connections lead to a standby it takes several.
        if tries > 1 and self.stop.wait(_pause(tries)):
            return False
        while not self.writes.wait(LOG_EVERY, self.stop.is_set):
            if self.stop.is_set():
                return False
            error = self.writes.unavailable()
            _say_waiting(f"waiting: {error}", error)
        return True


class PoolIsResumed(Remedy):
    """An operator has resumed the pool that he had paused.

    :param is_paused: tells whether it is paused still.
    :param refusal: what the pool has said.
    """

    awaited = "the pool is resumed"
    counts = False

    def __init__(self, stop: Stop, is_paused: Callable[[], bool], refusal: PoolTimeout) -> None:
        super().__init__(stop)
        self.is_paused = is_paused
        self.refusal = refusal

    def wait(self, tries: int) -> bool:
        """Wait for it."""
        said, number = Reminder(monotonic()), 1
        while not self.stop.wait(min(_pause(number), LONGEST_LOOK)):
            number += 1
            if not self.is_paused():
                return True
            if said.is_due(monotonic()):
                name, kind = self.refusal.pool_name, type(self.refusal).__name__
                text = f"waiting: {pool_text(name)} is still paused; `pdbpool resume` ends that"
                tell(log, Kind.WAITING, text, name, reason=kind)
        return False


class DatabaseIsBack(Remedy):
    """The database can be used again.

    :param probe: returns why it cannot be used, None if it can; raises what waiting does not help
        against.
    """

    awaited = "the database"

    def __init__(self, stop: Stop, probe: Callable[[], Exception | None]) -> None:
        super().__init__(stop)
        self.probe = probe

    def wait(self, tries: int) -> bool:
        """Wait for it, and look at it ever more seldom."""
        said = Reminder(monotonic())
        # From `tries` on: a message that itself brings the server down finds it back at once.
        number = tries
        while not self.stop.wait(_pause(number)):
            number += 1
            error = self.probe()
            if error is None:
                log.info("the database is back")
                return True
            if said.is_due(monotonic()):
                text = f"waiting: the database is still away: {reason(error)}"
                _say_waiting(text, error)
        return False


class Reminder:
    """When something was last said, so that it is not said too often."""

    def __init__(self, at: float = float("-inf")) -> None:
        self._at = at

    def is_due(self, now: float) -> bool:
        """Tell whether it may be said again: from now on it has been."""
        due = now - self._at >= LOG_EVERY
        if due:
            self._at = now
        return due


def reason(error: Exception) -> str:
    """Say for the log what an error is, without a statement's parameters."""
    shown = getattr(error, "orig", None) or error
    return f"{type(shown).__name__}: {driver_text(shown)}"


def _say_waiting(text: str, error: Exception) -> None:
    if isinstance(error, PoolTimeout | DatabaseUnavailable):
        kind = type(error).__name__
        tell(log, Kind.WAITING, text, error.pool_name, reason=kind, **error.fields)
    else:
        # Of a pool of others.
        log.warning("%s", text)


def _pause(number: int) -> float:
    return pause_before(number, LONGEST_PAUSE)
