"""The two lines that an outage writes to the log."""

from __future__ import annotations

import logging
from collections import deque
from contextlib import suppress

from ..drivers.connect_failures import ConnectFailure
from . import messages
from .outage import Trouble

log = logging.getLogger(__name__)


class OutageLog:
    """Says once that the server is away, and once that it is back.

    What is to be said is decided with the pool's lock held, and said without it: a
    handler of the log may write to a disk or a network, or to a table of this pool.
    """

    def __init__(self, pool_name: str | None, grace: float | None) -> None:
        self._name = pool_name
        self._grace = grace
        self._since: float | None = None
        self._refused = 0
        self._lines: deque[str] = deque()

    def note_locked(self, trouble: Trouble | None, now: float) -> None:
        """See whether an outage begins or is over."""
        away = trouble is not None and trouble.kind is ConnectFailure.UNREACHABLE
        if trouble is not None and away and self._since is None:
            self._since, self._refused = trouble.since, 0
            self._lines.append(messages.away_text(self._name, self._grace, trouble.error))
        elif trouble is None and self._since is not None:
            self._lines.append(messages.back_text(self._name, now - self._since, self._refused))
            self._since = None

    def refused_locked(self, count: int = 1) -> None:
        """Count callers who got no connection in this outage."""
        self._refused += count

    def write(self) -> None:
        """Write what is to be said."""
        # Not asked first whether there is a line: another thread may take it meanwhile.
        with suppress(IndexError):
            while True:
                log.warning("%s", self._lines.popleft())
