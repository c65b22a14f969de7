"""A database server in memory, with real sockets.

Its driver (`stub_driver`) looks like psycopg 3 to whoever asks, so SQLAlchemy's dialect
and psycopg_pool take its connections. The server closes its end of a connection's socket
pair to kill it, or sends bytes to make it speak.
"""

import contextlib
import enum
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator

import psycopg

from .stub_driver import StubConnection

__all__ = ["Failure", "Gate", "StubServer"]


class Failure(enum.Enum):
    """Ways in which a connect fails, with the words of libpq and the server."""

    UNREACHABLE = "Connection refused\n\tIs the server running on that host?"
    STARTING = "FATAL:  the database system is starting up"
    SATURATED = "FATAL:  sorry, too many clients already"
    CONFIGURATION = 'FATAL:  password authentication failed for user "stub"'

    def error(self) -> psycopg.OperationalError:
        """Return the driver's error for this failure, a new one each time."""
        where = 'connection to server at "127.0.0.1", port 5432 failed: '
        return psycopg.OperationalError(f"connection failed: {where}{self.value}")


class Gate:
    """Holds connects back until it is opened, and knows how many have come."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._open = False
        self.arrived = 0

    def __repr__(self) -> str:
        return f"<Gate {'open' if self._open else 'shut'}, {self.arrived} arrived>"

    def pass_through(self) -> None:
        """Block until the gate is open."""
        with self._condition:
            self.arrived += 1
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._open, timeout=60.0)

    def wait_for_arrivals(self, count: int, timeout: float = 15.0) -> None:
        """Block until `count` connects stand before the gate."""
        with self._condition:
            if not self._condition.wait_for(lambda: self.arrived >= count, timeout):
                raise AssertionError(f"{self.arrived} connects came, expected {count}")

    def open(self) -> None:
        """Let everyone pass, from now on."""
        with self._condition:
            self._open = True
            self._condition.notify_all()


class StubServer:
    """The server: what it counts, and how it can be made to misbehave."""

    def __init__(self, connect_delay: float = 0.0, limit: int | None = None) -> None:
        self.connect_delay = connect_delay
        """Seconds that a successful connect takes."""
        self.refusal_delay = 0.0
        """Seconds that a failing connect takes."""
        self.limit = limit
        """Sessions that the server admits; one more is told `SATURATED`."""
        self.down: Failure | None = None
        """How every connect fails now, or None while the server is up."""
        self.counts: Counter[str] = Counter()
        self.attempt_times: list[float] = []
        self.connections: list[StubConnection] = []
        self.peak = 0
        self._lock = threading.Lock()
        self._script: deque[Failure | None] = deque()
        self._gate: Gate | None = None

    def __repr__(self) -> str:
        return f"<StubServer {len(self.connections)} open, {dict(self.counts)}>"

    @property
    def attempts(self) -> int:
        """Connects that were tried."""
        return self.counts["attempt"]

    @property
    def connects(self) -> int:
        """Connects that succeeded."""
        return self.counts["connect"]

    @property
    def pings(self) -> int:
        """Statements that were no unit of work."""
        return self.counts["ping"]

    @property
    def closes(self) -> int:
        """Connections that the client has closed."""
        return self.counts["close"]

    @property
    def open(self) -> int:
        """Connections that the client has not closed."""
        return len(self.connections)

    def connect(self) -> StubConnection:
        """Open a connection, as slowly and with such success as was arranged."""
        with self._lock:
            self.counts["attempt"] += 1
            self.attempt_times.append(time.monotonic())
            failure = self._script.popleft() if self._script else None
            gate = self._gate
        if gate is not None:
            gate.pass_through()
        failure = failure or self.down
        if delay := self.refusal_delay if failure else self.connect_delay:
            time.sleep(delay)
        return self._admit(failure or self.down)

    def _admit(self, failure: Failure | None) -> StubConnection:
        with self._lock:
            if failure is None and self.limit is not None and self.open >= self.limit:
                failure = Failure.SATURATED
            if failure is not None:
                self.counts["failure"] += 1
                raise failure.error()
            connection = StubConnection(self)
            self.connections.append(connection)
            self.counts["connect"] += 1
            self.peak = max(self.peak, self.open)
            return connection

    def count(self, what: str) -> None:
        """Add one to a counter."""
        with self._lock:
            self.counts[what] += 1

    def forget(self, connection: StubConnection) -> None:
        """Strike a connection that the client has closed off the list."""
        with self._lock:
            if connection in self.connections:
                self.connections.remove(connection)
                self.counts["close"] += 1

    def fail_next(self, *outcomes: Failure | None) -> None:
        """Give the next connects these outcomes in turn; None is a success."""
        with self._lock:
            self._script.extend(outcomes)

    def forgive(self) -> None:
        """Take back what `fail_next` arranged and no connect has met."""
        with self._lock:
            self._script.clear()

    @contextlib.contextmanager
    def gate(self) -> Iterator[Gate]:
        """Hold back the connects that begin inside this block until it is opened."""
        gate = self._gate = Gate()
        try:
            yield gate
        finally:
            self._gate = None
            gate.open()

    def kill(self, *connections: StubConnection) -> None:
        """End sessions from the server's side; the client's sockets report it."""
        for connection in connections:
            connection.far.close()

    def kill_all(self) -> None:
        """End every session from the server's side."""
        self.kill(*self.connections)

    def shut_down(self) -> None:
        """Close both ends of whatever is left; whoever comes late finds nobody."""
        self.down, self.limit = Failure.CONFIGURATION, 0
        for connection in list(self.connections):
            connection.close()

    def speak(self, connection: StubConnection) -> None:
        """Send a notice that nobody asked for: the socket becomes readable."""
        connection.far.send(b"N")
