"""Databases that are kept and made as new for one test after another."""

import itertools
import os
from collections import deque
from collections.abc import Callable
from typing import Protocol

__all__ = ["DatabaseServer", "KeptDatabases"]

# So many are made before one is used again: who still closes the connections of the test
# before does it in another database than the next test's.
KEPT = 3


class DatabaseServer(Protocol):
    """A server that keeps databases."""

    def execute(self, sql: str) -> None:
        """Run a statement as the administrator."""

    def create(self, database: str) -> None:
        """Make an empty database."""

    def renew(self, database: str) -> bool:
        """Make a database as it was when it was created; False: that cannot be done."""

    def drop(self, database: str) -> None:
        """Remove a database, whoever uses it."""

    def url(self, driver: str, database: str) -> str:
        """Give the SQLAlchemy URL of a database."""


class KeptDatabases:
    """The databases of a run at one server: most tests get one that others have used before.

    To create one takes five times as long as to empty it.
    """

    def __init__(self, server: DatabaseServer) -> None:
        self.server = server
        self._free: deque[str] = deque()
        self._numbers = itertools.count(1)

    def take(self) -> tuple[str, Callable[[], None]]:
        """Give the name of a database that is as new, and what gives it back."""
        # Made as new here: at its return the engines of that test are still to be disposed, and
        # what they open until then would be in the next test's way.
        name = self._renewed() or self._created()
        return name, lambda: self._free.append(name)

    def close(self) -> None:
        """Drop the databases that are kept."""
        while self._free:
            self.server.drop(self._free.popleft())

    def _renewed(self) -> str | None:
        while len(self._free) >= KEPT:
            name = self._free.popleft()
            if self.server.renew(name):
                return name
            self.server.drop(name)
        return None

    def _created(self) -> str:
        name = f"test_{os.getpid()}_{next(self._numbers)}"
        self.server.create(name)
        return name
