"""Keep every connection in the process that opened it.

A forked child shares its parent's sockets. One byte that the child sends, a
ROLLBACK by the garbage collector included, breaks the parent's conversation
with its server. So a child gets empty pools, and whatever it inherited is
replaced by a stand-in that talks to nobody.

The hook of `os.register_at_fork` does that before the child runs anything
else. A process forked without hooks (uWSGI's default) is noticed by its pid at
the next checkout, statement or commit.
"""

import ctypes
import os
import threading
import weakref
from typing import Any, NoReturn

from sqlalchemy import Connection, Engine, event, exc
from sqlalchemy.pool import (
    ConnectionPoolEntry,
    PoolProxiedConnection,
    SingletonThreadPool,
    StaticPool,
)

from .errors import ForkedConnectionError

__all__ = ["protect"]


class _Owner:
    """The process that the engines' pools belong to."""

    pid = os.getpid()


_opened: weakref.WeakKeyDictionary[Engine, weakref.WeakSet[ConnectionPoolEntry]] = (
    weakref.WeakKeyDictionary()
)
# Guards the change of owner in a process forked without hooks. By pid, because
# a lock that another thread of the parent held would never be released here.
_locks: dict[int, threading.Lock] = {}


class _ParentsConnection:
    """Stands in for a parent's DBAPI connection: refuses work, sends nothing."""

    def __init__(self, opened_in: int) -> None:
        self._opened_in = opened_in

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise ForkedConnectionError(
            f"This connection was opened in process {self._opened_in}, before a fork; process"
            f" {os.getpid()} cannot use it. Close the session and take a new one in the child."
        )

    cursor = commit = execute = _refuse

    def _nothing(self, *args: Any, **kwargs: Any) -> None:
        """Let a session of the parent be rolled back and closed in peace."""

    rollback = close = _nothing


def protect(engine: Engine) -> None:
    """Make `engine` safe to use on both sides of a fork."""
    if _is_private_memory(engine):
        return
    records: weakref.WeakSet[ConnectionPoolEntry] = weakref.WeakSet()
    _opened[engine] = records
    event.listen(engine, "connect", lambda _dbapi, record: records.add(record))
    event.listen(engine, "checkout", _check_checkout)
    event.listen(engine, "before_cursor_execute", _check_statement, retval=True)
    event.listen(engine, "commit", _check_commit)
    event.listen(engine, "rollback", _check_rollback)


def _is_private_memory(engine: Engine) -> bool:
    """SQLite in memory: a child has a copy of its own, and an empty pool would lose it."""
    return engine.dialect.name == "sqlite" and isinstance(
        engine.pool, SingletonThreadPool | StaticPool
    )


def _check_checkout(
    dbapi_connection: Any, record: ConnectionPoolEntry, proxy: PoolProxiedConnection
) -> None:
    if os.getpid() != _Owner.pid:
        leave_parent()
        raise exc.DisconnectionError("The pool was inherited through a fork.")


def _check_statement(
    connection: Connection, cursor: Any, statement: Any, parameters: Any, *args: Any
) -> tuple[Any, Any]:
    _check_commit(connection)
    return statement, parameters


def _check_commit(connection: Connection) -> None:
    if os.getpid() != _Owner.pid:
        parent = _Owner.pid
        leave_parent()
        _ParentsConnection(parent)._refuse()


def _check_rollback(connection: Connection) -> None:
    if os.getpid() != _Owner.pid:
        leave_parent()


def leave_parent() -> None:
    """Give this process pools of its own, if it still has its parent's."""
    pid = os.getpid()
    with _locks.setdefault(pid, threading.Lock()):
        if _Owner.pid == pid:
            return
        stand_in = _ParentsConnection(_Owner.pid)
        for engine, records in list(_opened.items()):
            for record in list(records):
                _disown(record, stand_in)
            records.clear()
            engine.dispose(close=False)
        _Owner.pid = pid


def _disown(record: ConnectionPoolEntry, stand_in: _ParentsConnection) -> None:
    """Put `stand_in` wherever the parent's connection could be reached from this process."""
    if record.dbapi_connection is None:
        return
    # Never freed, not even when the interpreter ends: drivers say QUIT or
    # Terminate on the parent's socket when their connection is.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(record.dbapi_connection))
    record.dbapi_connection = stand_in  # type: ignore[assignment,misc]
    # SQLAlchemy's private names, the same in 2.0 and 2.1: the proxy that a
    # session holds, and what would run SQL when it is given back.
    record.finalize_callback.clear()  # type: ignore[attr-defined]
    proxy = record.fairy_ref and record.fairy_ref()  # type: ignore[attr-defined]
    if proxy is not None:
        proxy.dbapi_connection = stand_in


os.register_at_fork(after_in_child=leave_parent)
