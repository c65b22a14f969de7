"""The driver of the stub server: connections that look like psycopg 3's.

Each has one end of a socket pair; the server closes the other end to kill it.
"""

import os
import select
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from .stub import StubServer

__all__ = ["UNIT", "StubConnection", "driver_module"]

UNIT = "unit"
"""The statement of a unit of work; every other statement counts as a ping."""

IDLE, INTRANS, UNKNOWN = 0, 2, 4
"""libpq's transaction states, which psycopg's `TransactionStatus` numbers alike."""


class StubCursor:
    """The cursor that SQLAlchemy's dialects need for a ping or a unit."""

    description = None

    def __init__(self, connection: "StubConnection") -> None:
        self.connection = connection

    def execute(self, statement: object, parameters: object = None) -> None:
        """Run a statement."""
        self.connection.execute(statement)

    def fetchone(self) -> tuple[int]:
        """Return the one row that every statement has."""
        return (1,)

    def close(self) -> None:
        """Do nothing: a cursor holds nothing."""


class StubConnection:
    """A psycopg-like connection to a `StubServer`."""

    _pool: Any
    _created_at: float
    _expire_at: float

    def __init__(self, server: "StubServer") -> None:
        self.server = server
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.far.setblocking(False)
        self.autocommit = False
        self.closed = False
        self.broken = False
        self.transaction_status = IDLE
        # What psycopg's own `rollback` looks at, too.
        self._pipeline = self._tpc = None
        self._num_transactions = 0
        self.fail_rollback = False
        self.mute = False
        """Whether the network drops everything: statements wait, for a minute here."""
        self.pid = os.getpid()
        self.held = threading.Lock()
        """Taken by whoever has checked the connection out: it has one holder."""

    def __repr__(self) -> str:
        state = "broken" if self.broken else "closed" if self.closed else "open"
        return f"<StubConnection {state} {id(self):#x}>"

    def __del__(self) -> None:
        """Close both ends of a connection that a pool dropped, as a driver does."""
        self.near.close()
        self.far.close()

    @property
    def pgconn(self) -> "StubConnection":
        """Return itself: what the pools ask of libpq is answered here."""
        return self

    @property
    def info(self) -> "StubConnection":
        """Return itself, for the same reason."""
        return self

    @property
    def socket(self) -> int:
        """Return the file descriptor under libpq's name."""
        return self.fileno()

    def fileno(self) -> int:
        """Return the file descriptor of the client's end."""
        if self.closed:
            raise psycopg.OperationalError("the connection is closed")
        return self.near.fileno()

    def execute(self, statement: object, parameters: object = None) -> StubCursor:
        """Run a statement: a unit of work, or a ping."""
        self._round_trip("unit" if statement == UNIT else "ping")
        if not self.autocommit:
            self.transaction_status = INTRANS
        return StubCursor(self)

    def _round_trip(self, what: str) -> None:
        self.server.count(what)
        if self.mute:
            self._wait_for_nothing()
        try:
            alive = not self.closed and self.near.recv(4096) != b""
        except BlockingIOError:
            return
        except OSError:
            alive = False
        if not alive:
            self._break()

    def _wait_for_nothing(self) -> None:
        over = time.monotonic() + 60.0
        while (left := over - time.monotonic()) > 0:
            if select.select([self.near], [], [], left)[0] and not self.near.recv(4096):
                self._break()

    def _break(self) -> None:
        self.broken = True
        self.close()
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    def cursor(self, name: str | None = None) -> StubCursor:
        """Return a cursor."""
        return StubCursor(self)

    def commit(self) -> None:
        """End the transaction."""
        self._end()

    def rollback(self) -> None:
        """End the transaction; outside one, send nothing, as psycopg does."""
        if self.fail_rollback:
            self._break()
        self._end()

    def _end(self) -> None:
        if self.closed:
            raise psycopg.OperationalError("the connection is closed")
        if self.transaction_status == INTRANS:
            self._round_trip("end")
            self.transaction_status = IDLE

    def close(self) -> None:
        """Close the client's end and tell the server."""
        if not self.closed:
            self.closed = True
            self.transaction_status = UNKNOWN
            self.near.close()
            self.far.close()
            self.server.forget(self)


def driver_module() -> Any:
    """Return the module that goes to `create_engine(module=...)`: psycopg's own.

    SQLAlchemy reads its errors, its version and its adapters; connections come
    from the pool's creator, so its `connect` is never called.
    """
    return sys.modules["psycopg"]
