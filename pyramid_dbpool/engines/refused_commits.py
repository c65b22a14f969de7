"""COMMITs that are refused, because they would not store what their author believes to be stored.

Where the server has given the transaction up and the error was swallowed, or has rolled it back
by itself; and where the connection is lost already.
"""

from collections.abc import Callable
from functools import partial
from typing import NoReturn

from sqlalchemy import Connection, Engine
from sqlalchemy import exc as sa_exc
from sqlalchemy.pool import PoolProxiedConnection

from ..drivers.driver_errors import error_number, sqlstate
from ..drivers.last_words import last_words
from ..drivers.sockets import has_ended
from ..drivers.transactions import in_autocommit, transaction_failed
from ..errors import TransactionFailed
from ..pool.managed import is_silent
from ..secrets import mask_text
from . import stored
from .hearing import Heard
from .overstays import Overstays
from .steps import notes_in, notes_of, steps_of

__all__ = ["has_failed", "note_failure", "refuse_false_commits"]

# A note on a transaction: what its error said. The text and not the error, whose traceback would
# keep a forgotten session, and so its connection, alive for ever.
_FAILURE = "failure"
# Another one: that the server has rolled it back, with all of its savepoints.
_ENDED = "ended"

# With these InnoDB rolls the whole transaction back: a row that others have changed since the
# snapshot (MariaDB, innodb_snapshot_isolation), a full table of locks, a deadlock.
_ENDING = frozenset({1020, 1206, 1213})

# Data exceptions, and what functions raise of their own: their texts quote values.
_QUOTING = ("22", "P0")


def refuse_false_commits(
    engine: Engine, hear: Callable[[Heard], object], overstays: Overstays
) -> None:
    """Have `engine` commit only what is whole, on a connection that is there.

    :param hear: gets what a server has said that ended the connection.
    """
    lose = partial(_lose, hear=hear, overstays=overstays)

    def refuse_lost(connection: Connection) -> PoolProxiedConnection:
        # COMMIT or PREPARE would be sent into the void, and nobody know that it never arrived; or,
        # where the first error was swallowed, SQLAlchemy's own would not say that it was a lost
        # one.
        if connection.invalidated:
            lose(connection)
        proxied = connection.connection
        if not is_silent(proxied) and has_ended(proxied.dbapi_connection):
            lose(connection)
        return proxied

    def refuse_commit(connection: Connection) -> None:
        # PostgreSQL answers such a COMMIT with ROLLBACK and no error, and MariaDB commits what
        # came after a deadlock: the work would be lost while its author believes that it is
        # stored.
        if _has_failed(refuse_lost(connection)):
            error = _error(connection)
            # As after any failed COMMIT, the connection has to be out of the
            # transaction; SQLAlchemy takes it for ended and sends nothing more.
            connection.connection.rollback()
            raise error

    def refuse_prepare(connection: Connection) -> None:
        # PostgreSQL would forget it without an error, and the other databases commit their parts.
        if _has_failed(refuse_lost(connection)):
            raise _error(connection)

    steps = steps_of(engine)
    steps.rollback_to_savepoint.append(_forget_failure)
    steps.commit.append(refuse_commit)
    steps.prepare.append(refuse_prepare)


def has_failed(connection: Connection) -> bool:
    """Tell whether the server has given the transaction up, or has ended it already."""
    return _has_failed(connection.connection)


def _has_failed(connection: PoolProxiedConnection) -> bool:
    return transaction_failed(connection.dbapi_connection) or _ENDED in notes_of(connection.info)


def _lose(
    connection: Connection, *, hear: Callable[[Heard], object], overstays: Overstays
) -> NoReturn:
    if connection.invalidated:
        lost = _lost(connection, None)
        stored.note_given_up(lost)
    else:
        said = last_words(connection.connection.dbapi_connection)
        lost = _lost(connection, said)
        heard = Heard(lost.orig or lost, connection.connection, connection.dialect, True, False)
        hear(heard)
        overstays.explain(lost, heard)
    connection.invalidate(lost)
    raise stored.judged(lost)


def _lost(connection: Connection, said: Exception | None) -> sa_exc.OperationalError:
    noticed = "the server closed the connection before COMMIT was sent"
    # With a statement: without one it would be taken for an answer that was lost.
    lost = sa_exc.OperationalError(
        "COMMIT",
        None,
        said or connection.dialect.loaded_dbapi.OperationalError(noticed),
        connection_invalidated=True,
    )
    if said is not None:
        lost.add_detail(noticed)
    return lost


def _error(connection: Connection) -> TransactionFailed:
    said = notes_of(connection.info).get(_FAILURE)
    failure = "A statement of this transaction failed" + (f" ({said})" if said else "")
    return TransactionFailed(
        f"{failure} and its error was swallowed, so the server would roll everything back,"
        " or has done so. Nothing was committed: let the error propagate, or (no remedy for a"
        " deadlock) run the statement that may fail inside session.begin_nested()."
    )


def note_failure(heard: Heard) -> None:
    """Note on a connection which error made the server give its transaction up."""
    if heard.lost:
        return
    notes = notes_in(heard.connection.info)
    if _ends_transaction(heard):
        notes[_ENDED] = True
    # The first one: those after it only say that the transaction is aborted.
    if _FAILURE not in notes and _has_failed(heard.connection):
        notes[_FAILURE] = _text(heard.error)


def _ends_transaction(heard: Heard) -> bool:
    # The server then begins another one by itself.
    dialect = heard.dialect
    if dialect.name not in {"mysql", "mariadb"} or error_number(heard.error) not in _ENDING:
        return False
    return not in_autocommit(dialect, heard.connection.dbapi_connection, may_ask=True)


def _text(error: BaseException) -> str:
    name = type(error).__name__
    if (sqlstate(error) or "").startswith(_QUOTING):
        return name
    # The lines after the first show the statement and the row.
    return f"{name}: {mask_text(str(error).partition(chr(10))[0])}"


def _forget_failure(connection: Connection) -> None:
    # The savepoint that is gone back to is none of those that the server has rolled back.
    if not connection.invalidated:
        notes = notes_in(connection.info)
        if _ENDED not in notes:
            notes.pop(_FAILURE, None)
