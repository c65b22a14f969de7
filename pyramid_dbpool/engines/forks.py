"""Keep every connection in the process that opened it.

A forked child shares its parent's sockets. One byte that the child sends, a
ROLLBACK by the garbage collector included, breaks the parent's conversation
with its server. So a child gets empty pools, and whatever it inherited is
replaced by a stand-in that talks to nobody.

`inheritance` tells that there was a fork: before the child runs anything else, or,
where Python's hooks do not run (uWSGI's default), at its next checkout,
statement or commit.
"""

import os
import weakref
from contextlib import suppress
from os import getpid
from typing import Any, NoReturn

from sqlalchemy import Connection, Engine, event, exc
from sqlalchemy.pool import (
    ConnectionPoolEntry,
    PoolProxiedConnection,
    SingletonThreadPool,
    StaticPool,
)

from ..drivers.sockets import replace_by_dead, socket_of
from ..errors import ForkedConnectionError
from ..pool import inheritance
from ..pool.fork_gate import opening
from ..pool.managed import ManagedPool
from .steps import steps_of

__all__ = ["protect"]

# SQLAlchemy's private names that this relies on, the same in 2.0 and 2.1: those of a connection's
# record, for the proxy that a session holds, and for what would run SQL when it is given back;
# and a pool's, for what opens its connections.
RELIED_ON = ("_creator", "_invoke_creator", "fairy_ref", "finalize_callback")

# A key of ConnectionPoolEntry.record_info.
_INHERITED = "pyramid_dbpool.inherited"
# A key of ConnectionPoolEntry.info: the descriptor of its socket, and what is behind it.
_SOCKET = "pyramid_dbpool.socket"


def protect(engine: Engine) -> None:
    """Make `engine` safe to use on both sides of a fork."""
    in_memory = engine.dialect.name == "sqlite" and isinstance(
        engine.pool, SingletonThreadPool | StaticPool
    )
    # A child has a copy of a database in memory; an empty pool would lose it.
    if not in_memory:
        inheritance.watch(_Guard(engine))


class _ParentsConnection:
    """Stands in for a parent's DBAPI connection: refuses work, sends nothing."""

    def __init__(self, opened_in: int) -> None:
        self._opened_in = opened_in

    def refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise `ForkedConnectionError`."""
        raise ForkedConnectionError(
            f"This connection was opened in process {self._opened_in}, before a fork; process"
            f" {getpid()} cannot use it. Close the session and take a new one in the child."
        )

    cursor = commit = execute = refuse

    def nothing(self, *args: Any, **kwargs: Any) -> None:
        """Let a session of the parent be rolled back and closed in peace."""

    rollback = close = nothing


class _Guard:
    """Watches over the connections of one engine; lives as long as the engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = weakref.ref(engine)
        self._records: weakref.WeakSet[ConnectionPoolEntry] = weakref.WeakSet()
        self._owner = getpid()
        # The first one: others may talk to the server, and a fork come in the middle of it.
        event.listen(engine, "connect", self._opened, insert=True)
        steps = steps_of(engine)
        steps.inherited.append(self._refuse_parents)
        steps.rollback.append(_notice_fork)
        # When a child ends, or disposes of the engine, before it has used it.
        event.listen(engine, "close", _notice_fork)
        if not isinstance(engine.pool, ManagedPool):
            event.listen(engine, "checkout", self._after_checkout)
            _hold_forks_up(engine.pool, self._records)

    def abandon(self) -> None:
        """Take the engine away from the parent's connections."""
        engine = self._engine()
        stand_in = _ParentsConnection(self._owner)
        self._owner = getpid()
        for record in list(self._records):
            _disown(record, stand_in)
        self._records.clear()
        if engine is not None and not isinstance(engine.pool, ManagedPool):
            engine.dispose(close=False)

    def _opened(self, dbapi_connection: object, record: ConnectionPoolEntry) -> None:
        descriptor = socket_of(dbapi_connection)
        record.info[_SOCKET] = descriptor, _inode(descriptor)
        self._records.add(record)

    def _after_checkout(
        self, _dbapi: object, record: ConnectionPoolEntry, proxy: PoolProxiedConnection
    ) -> None:
        notes = record.record_info
        inherited = isinstance(record.dbapi_connection, _ParentsConnection)
        # The second, where another thread has just left the parent.
        if not inheritance.here[0] or inherited:
            inheritance.leave_parent()
            if notes is not None:
                notes[_INHERITED] = True
            raise exc.DisconnectionError("The pool was inherited through a fork.")
        if notes and notes.pop(_INHERITED, False):
            # SQLAlchemy has connected anew, in the pool that was inherited: there
            # the connection would stay open for ever.
            proxy.detach()

    def _refuse_parents(self, _connection: Connection) -> None:
        parents = _ParentsConnection(self._owner)
        inheritance.leave_parent()
        parents.refuse()


def _hold_forks_up(pool: Any, known: weakref.WeakSet[ConnectionPoolEntry]) -> None:
    """Have forks wait for the openings of a pool that is not ours, until they are `known`."""
    connect = pool._invoke_creator

    # SQLAlchemy knows by this very signature what it may pass, in the pool that is made after a
    # dispose too.
    def creator(connection_record: Any = None) -> Any:
        with opening():
            connection = connect(connection_record)
            if connection_record is not None:
                # As SQLAlchemy does too, but only when a fork may have come.
                connection_record.dbapi_connection = connection
                known.add(connection_record)
            return connection

    pool._creator = creator


def _notice_fork(*_args: object) -> None:
    if not inheritance.here[0]:
        inheritance.leave_parent()


def _disown(record: Any, stand_in: _ParentsConnection) -> None:
    """Put `stand_in` wherever the parent's connection could be reached from this process."""
    if record.dbapi_connection is None:
        return
    inheritance.inherit(record.dbapi_connection)
    _cut(record)
    record.dbapi_connection = stand_in
    with suppress(AttributeError):  # it has none before all of its connect listeners have run
        record.finalize_callback.clear()
    proxy = record.fairy_ref and record.fairy_ref()
    if proxy is not None:
        proxy.dbapi_connection = stand_in


def _inode(descriptor: int | None) -> int | None:
    """Return the number by which the system knows what is behind a descriptor."""
    if descriptor is not None:
        with suppress(OSError):
            return os.fstat(descriptor).st_ino
    return None


def _cut(record: Any) -> None:
    """Put a dead socket under the number of the inherited one, in this process.

    A cursor that is still open has the real connection; read, closed or only
    freed here, it would take the parent's answers, or wait for them for ever.
    """
    inherited = socket_of(record.dbapi_connection)
    if inherited is None:
        # mysqlclient does not show it while another thread waits for an answer; a closed one's
        # number is somebody else's by now.
        descriptor, inode = record.info.get(_SOCKET, (None, None))
        inherited = descriptor if _inode(descriptor) == inode else None
    if inherited is not None:
        replace_by_dead(inherited)
