"""How one transaction runs: isolation level, read-only, deferrable.

Everything is said with ``SET TRANSACTION``, which the server forgets when the
transaction ends, so that nothing outlives a checkout on a pooled connection.
SQLite has no such statement; there a pragma is set and taken back. It is said on
each connection that a session takes, as it takes it: a session may have several,
and who asks for one of them beforehand may get another than the work does.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy import exc as sa_exc
from sqlalchemy.orm import Session, SessionTransaction

from ..drivers.transactions import in_autocommit

__all__ = ["TransactionModes", "make_read_only"]

# A key of Session.info: the modes of its transactions, `_Applied`.
_MODES = "pyramid_dbpool.modes"

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

    @property
    def are_the_pools(self) -> bool:
        """Whether nothing has to be said to the server."""
        return not (self.isolation_level or self.read_only or self.deferrable)

    def check(self, dialect: str, *, twophase: bool = False) -> None:
        """Refuse a mode that the database does not have.

        :param twophase: whether the transactions are prepared before they are committed.
        :raises ValueError: there is one.
        """
        if twophase and dialect in {"mysql", "mariadb"} and not self.are_the_pools:
            # Their XA START begins the transaction: SET TRANSACTION comes too late.
            raise ValueError(f"two-phase transactions on {dialect} have the pool's modes only.")
        if dialect == "sqlite":
            if self.deferrable or self.isolation_level not in (None, "SERIALIZABLE"):
                raise ValueError("SQLite's transactions are SERIALIZABLE and never deferrable.")
        elif self.deferrable and dialect != "postgresql":
            raise ValueError(f"deferrable transactions are PostgreSQL's; this is {dialect}.")

    @contextmanager
    def applied(self, session: Session) -> Iterator[None]:
        """Run the transactions that `session` begins meanwhile in these modes.

        On each connection that it takes, whose taking raises what is wrong with them.

        :raises ValueError: the database does not have such a mode.
        """
        if self.are_the_pools:
            yield
            return
        if session.bind is not None:
            self.check(session.bind.dialect.name, twophase=session.twophase)
        applied = session.info[_MODES] = _Applied(self, session)
        try:
            yield
        finally:
            del session.info[_MODES]
            applied.taken_back.close()

    def begin(self, session: Session) -> None:
        """Begin a transaction in these modes, on its connection if there can be but one.

        A session that chooses its connections is not asked for one: it may not be the one that
        the work needs, or not be known before.

        :raises ValueError: the database does not have such a mode.
        :raises sqlalchemy.exc.DBAPIError: the database is away or refuses.
        """
        if self.are_the_pools:
            return
        if not session.in_transaction():
            session.begin()
        if session.bind is not None and type(session).get_bind is Session.get_bind:
            session.connection()

    def _statement(self) -> str:
        modes = [f"ISOLATION LEVEL {self.isolation_level}"] if self.isolation_level else []
        modes += ["READ ONLY"] * self.read_only + ["DEFERRABLE"] * self.deferrable
        return f"SET TRANSACTION {', '.join(modes)}"


class _Applied:
    """Sets modes on the connections of one session."""

    def __init__(self, modes: TransactionModes, session: Session) -> None:
        self._modes = modes
        self._twophase = session.twophase
        self._transaction: SessionTransaction | None = None
        self.taken_back = ExitStack()

    def set_on(self, connection: Connection, begun: SessionTransaction) -> None:
        """Set them on a connection that a transaction of the session has begun on."""
        if begun is not self._transaction:
            # The one before is over, as after a commit by hand, of which there may be many.
            self.taken_back.close()
            self._transaction = begun
        modes, dialect = self._modes, connection.dialect.name
        modes.check(dialect, twophase=self._twophase)
        if dialect != "sqlite":
            _refuse_autocommit(connection)
            connection.exec_driver_sql(modes._statement())
        elif modes.read_only:
            self.taken_back.enter_context(_query_only(connection))


# First in line, because SET TRANSACTION has to be the first statement. On the class, because
# a listener on a session costs 30 µs.
@event.listens_for(Session, "after_begin", insert=True)
def _set_modes(session: Session, begun: SessionTransaction, connection: Connection) -> None:
    applied = session.info.get(_MODES)
    if applied is None or begun.nested:
        return
    try:
        applied.set_on(connection, begun)
    except BaseException:
        # Whoever swallowed the error would go on without the modes.
        if connection is not session.bind:
            connection.invalidate()
        raise


@contextmanager
def _query_only(connection: Connection) -> Iterator[None]:
    """Refuse writes on SQLite until the transaction ends, or the block."""
    dbapi_connection = connection.connection.dbapi_connection
    before = _is_query_only(dbapi_connection)
    is_set = True

    def take_back(_connection: Connection) -> None:
        nonlocal is_set
        # Once: somebody else may have the connection by the end of the block.
        if is_set:
            is_set = False
            # A connection that was invalidated is closed, and has no mode.
            with suppress(sqlite3.ProgrammingError):
                _set_query_only(dbapi_connection, before)

    _set_query_only(dbapi_connection, True)
    for end in ("commit", "rollback"):
        event.listen(connection, end, take_back)
    try:
        yield
    finally:
        take_back(connection)
        # A session may have been given somebody's own connection, which lives on.
        for end in ("commit", "rollback"):
            event.remove(connection, end, take_back)


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
