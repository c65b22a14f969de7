"""How one transaction runs: isolation level, read-only, deferrable.

Everything is said with ``SET TRANSACTION``, which the server forgets when the
transaction ends, so that nothing outlives a checkout on a pooled connection.
SQLite has no such statement; there a pragma is set and taken back.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy import exc as sa_exc
from sqlalchemy.orm import Session

from ..drivers.transactions import in_autocommit

__all__ = ["TransactionModes", "make_read_only"]

ISOLATION_LEVELS = ("READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")


@dataclass(frozen=True)
class TransactionModes:
    """The modes of one transaction.

    :param isolation_level: one of `ISOLATION_LEVELS`, or None for the pool's.
    :param read_only: refuse writes.
    :param deferrable: wait for a snapshot that cannot fail (PostgreSQL, with
        ``SERIALIZABLE`` and `read_only`).
    :raises ValueError: an unknown isolation level.
    """

    isolation_level: str | None = None
    read_only: bool = False
    deferrable: bool = False

    def __post_init__(self) -> None:
        level = self.isolation_level
        if level is not None:
            level = level.upper().replace("_", " ")
            if level not in ISOLATION_LEVELS:
                raise ValueError(
                    f"isolation_level is {self.isolation_level!r}; it can be"
                    f" {', '.join(ISOLATION_LEVELS)}."
                )
            object.__setattr__(self, "isolation_level", level)

    def check(self, dialect: str) -> None:
        """Refuse a mode that the database does not have.

        :raises ValueError: there is one.
        """
        if dialect == "sqlite":
            if self.deferrable or self.isolation_level not in (None, "SERIALIZABLE"):
                raise ValueError("SQLite's transactions are SERIALIZABLE and never deferrable.")
        elif self.deferrable and dialect != "postgresql":
            raise ValueError(f"deferrable transactions are PostgreSQL's; this is {dialect}.")

    @contextmanager
    def applied(self, session: Session) -> Iterator[None]:
        """Run the next transaction of `session` in these modes.

        :raises ValueError: the database does not have such a mode.
        :raises sqlalchemy.exc.DBAPIError: the database is away or refuses.
        """
        if self == TransactionModes():
            yield
            return
        connection = session.connection()
        self.check(connection.dialect.name)
        if connection.dialect.name == "sqlite":
            with self._applied_on_sqlite(connection):
                yield
        else:
            _refuse_autocommit(connection)
            connection.exec_driver_sql(self._statement())
            yield

    def _statement(self) -> str:
        modes = [f"ISOLATION LEVEL {self.isolation_level}"] if self.isolation_level else []
        modes += ["READ ONLY"] * self.read_only + ["DEFERRABLE"] * self.deferrable
        return f"SET TRANSACTION {', '.join(modes)}"

    @contextmanager
    def _applied_on_sqlite(self, connection: Connection) -> Iterator[None]:
        if not self.read_only:
            yield
            return
        dbapi_connection = connection.connection.dbapi_connection
        before = _is_query_only(dbapi_connection)
        _set_query_only(dbapi_connection, True)
        try:
            yield
        finally:
            # A connection that the body has invalidated is closed, and has no mode.
            with suppress(sqlite3.ProgrammingError):
                _set_query_only(dbapi_connection, before)


def make_read_only(engine: Engine) -> None:
    """Make every transaction of `engine` read-only, whoever begins it."""
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda dbapi, _record: _set_query_only(dbapi, True))
    else:
        statement = TransactionModes(read_only=True)._statement()
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(statement))
        event.listen(engine, "begin_twophase", _refuse_twophase)


def _refuse_twophase(_connection: Connection, _xid: Any) -> None:
    # PREPARE could not be told to be read-only with the same statement.
    raise sa_exc.InvalidRequestError("A read-only pool has no two-phase transactions.")


def _refuse_autocommit(connection: Connection) -> None:
    dbapi_connection = connection.connection.dbapi_connection
    if in_autocommit(connection.dialect, dbapi_connection, may_ask=True):
        raise ValueError(
            "this engine is in AUTOCOMMIT (isolation_level in its settings): there is no"
            " transaction that could have an isolation level or be read-only."
        )


def _is_query_only(dbapi_connection: Any) -> bool:
    cursor = dbapi_connection.cursor()
    try:
        return bool(cursor.execute("PRAGMA query_only").fetchone()[0])
    finally:
        cursor.close()


def _set_query_only(dbapi_connection: Any, on: bool) -> None:
    # On the driver's connection: SQLAlchemy's may be invalidated, or be in a
    # transaction that has failed, when the mode has to go.
    cursor = dbapi_connection.cursor()
    try:
        cursor.execute(f"PRAGMA query_only = {int(on)}")
    finally:
        cursor.close()
