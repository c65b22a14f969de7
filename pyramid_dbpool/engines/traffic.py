"""What goes over a connection in its transaction, and when, while somebody observes.

From it follows what no event of SQLAlchemy's tells: that the transaction was committed behind its
back, how long the connection had nothing to do, and how long a statement took.
"""

from __future__ import annotations

from sqlalchemy.pool import PoolProxiedConnection

from ..clock import monotonic
from ..drivers.statements import leaves_open
from ..drivers.transactions import in_transaction
from .steps import notes_in, notes_of

__all__ = ["Traffic"]


# A note on a transaction.
_TRAFFIC = "traffic"


class Traffic:
    """The statements of one transaction, as far as they matter here.

    - `opened`: whether the driver, unless it has committed since, shows a transaction.
    """

    __slots__ = ("_at", "_before", "opened")

    def __init__(self, at: float) -> None:
        self._at = at
        self._before: float | None = None
        self.opened = False

    @staticmethod
    def on(connection: PoolProxiedConnection) -> Traffic | None:
        """Return what was sent in the transaction of a connection; None: nothing."""
        return notes_of(connection.info).get(_TRAFFIC)

    @staticmethod
    def note(connection: PoolProxiedConnection, statement: str, dialect: str) -> bool:
        """Note a statement that is about to be sent; tell whether all before it was committed."""
        notes, now = notes_in(connection.info), monotonic()
        traffic: Traffic | None = notes.get(_TRAFFIC)
        if traffic is None:
            traffic, committed = Traffic(now), False
            notes[_TRAFFIC] = traffic
        else:
            traffic._before, traffic._at = traffic._at, now
            committed = traffic.is_committed(connection)
        # What is open stays so but for a ROLLBACK: the question is on the path of each statement.
        rolls_back = statement[:1] in {"R", "r"}
        if dialect == "postgresql" and not rolls_back:
            traffic.opened = True
        elif rolls_back or not traffic.opened:
            traffic.opened = leaves_open(statement, dialect, opened=traffic.opened)
        return committed

    def is_committed(self, connection: PoolProxiedConnection) -> bool:
        """Tell whether the driver has ended the transaction without SQLAlchemy's knowledge."""
        return self.opened and in_transaction(connection.dbapi_connection) is False

    def idle_seconds(self, *, in_statement: bool) -> float | None:
        """Say for how long the transaction had waited, before its last statement or until now.

        None if nothing was sent before. The statement before counts with it.
        """
        if not in_statement:
            return monotonic() - self._at
        return None if self._before is None else self._at - self._before

    def statement_seconds(self) -> float:
        """Say for how long the last statement has run."""
        return monotonic() - self._at
