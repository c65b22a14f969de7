"""What the work in hand may have stored so far, and so whether it may be run again.

Whoever may run something again observes it; the engines note what they send.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

from sqlalchemy import Connection, Engine, ExceptionContext, event
from sqlalchemy.exc import DBAPIError, PendingRollbackError

from ..drivers.driver_errors import driver_error, driver_text, sqlstate
from ..drivers.statements import commits, commits_alone
from ..drivers.transactions import in_autocommit, is_known_rollback, is_unknown_outcome
from ..errors import CommitUnknown, TransactionFailed
from ..pool.managed import ManagedPool

__all__ = [
    "Outcome",
    "current_outcome",
    "is_aftermath",
    "judged",
    "note_outcomes",
    "observed",
    "unobserved",
]

# PostgreSQL's word for a statement after one that failed: "current transaction is aborted".
_ABORTED = "25P02"

_current: ContextVar[Outcome | None] = ContextVar("dbpool_outcome", default=None)
current_outcome = _current.get

Judge: TypeAlias = "Callable[[Outcome, Exception], Exception | None]"


class Outcome:
    """What was sent on any of our engines while this was observed.

    :param on_error: gets each error of SQLAlchemy where it arises, before anybody handles it;
        may return another one to be raised in its place.
    """

    __slots__ = ("commits", "committing", "on_error", "prepared", "stored", "transient", "unseen")

    def __init__(self, on_error: Judge | None = None) -> None:
        self.on_error = on_error
        # COMMITs that were begun, without those known to have been rolled back.
        self.commits = 0
        # Something was sent that needs no COMMIT of SQLAlchemy's to be stored.
        self.stored = False
        self.prepared = False
        # Whether there was an error that another try may not meet, swallowed or not.
        self.transient = False
        # Checkouts that no SQLAlchemy connection has taken over: what they send is unseen. A
        # list, since threads with a copy of the context may come together.
        self.unseen: list[None] = []
        # The connection whose last word was COMMIT.
        self.committing: Connection | None = None

    @property
    def nothing_stored(self) -> bool:
        """Whether it is certain that nothing is stored."""
        return not (self.commits or self.stored or self.prepared or self.unseen)


@contextmanager
def observed(on_error: Judge | None = None) -> Iterator[Outcome]:
    """Note what the block stores, in this thread (or greenlet) and in copies of its context."""
    outcome = Outcome(on_error)
    token = _current.set(outcome)
    try:
        yield outcome
    finally:
        _current.reset(token)


@contextmanager
def unobserved() -> Iterator[None]:
    """Note nothing: what the block commits has stored nothing."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


def judged(error: Exception) -> Exception:
    """Show an error to whoever observes; return the one to raise."""
    outcome = _current.get()
    if outcome is None or outcome.on_error is None:
        return error
    return outcome.on_error(outcome, error) or error


def is_aftermath(error: BaseException) -> bool:
    """Tell whether an error only says that there was another one before, which was swallowed."""
    if isinstance(error, DBAPIError):
        return sqlstate(driver_error(error)) == _ABORTED
    return isinstance(error, TransactionFailed | PendingRollbackError)


def note_outcomes(engine: Engine, *, autocommit: bool, read_only: bool) -> None:
    """Note what `engine` sends with whoever observes.

    :param autocommit: whether its connections are in AUTOCOMMIT unless they say otherwise.
    :param read_only: whether its transactions are read-only, so that COMMIT stores nothing.
    """

    def begin(connection: Connection) -> None:
        outcome = _current.get()
        if outcome is not None:
            outcome.committing = None
            if _is_autocommit(connection, autocommit):
                outcome.stored = True

    if isinstance(engine.pool, ManagedPool):
        engine.pool.on_checkout = _note_checkout
    else:
        event.listen(engine, "checkout", _note_checkout)
    event.listen(engine, "engine_connect", _note_connection)
    event.listen(engine, "begin", begin)
    event.listen(engine, "handle_error", _note_error, retval=True)
    if not read_only:
        event.listen(engine, "before_cursor_execute", _note_statement)
        event.listen(engine, "commit", _note_commit)
        event.listen(engine, "prepare_twophase", _note_prepare)
        event.listen(engine, "commit_twophase", lambda connection, *_: _note_commit(connection))


def _is_autocommit(connection: Connection, configured: bool) -> bool:
    level = connection.get_execution_options().get("isolation_level")
    if level is not None:
        return str(level).upper() == "AUTOCOMMIT"
    # The driver may have been told by itself: in the URL, or by a hook.
    return configured or in_autocommit(connection.dialect, connection.connection.dbapi_connection)


def _note_checkout(*_args: object) -> None:
    outcome = _current.get()
    if outcome is not None:
        outcome.unseen.append(None)


def _note_connection(_connection: Connection) -> None:
    # It comes right after its checkout.
    outcome = _current.get()
    if outcome is not None and outcome.unseen:
        outcome.unseen.pop()


def _note_statement(connection: Connection, _cursor: Any, statement: Any, *_args: object) -> None:
    outcome = _current.get()
    if outcome is not None and not outcome.stored:
        dialect = connection.dialect.name
        outcome.stored = commits(str(statement), dialect) or (
            dialect == "sqlite" and _is_alone(connection, str(statement))
        )


def _is_alone(connection: Connection, statement: str) -> bool:
    """Tell whether SQLite stores a statement at once, because it is in no transaction."""
    dbapi: Any = connection.connection.dbapi_connection
    return not dbapi.in_transaction and commits_alone(statement, begins=dbapi.isolation_level)


def _note_commit(connection: Connection) -> None:
    outcome = _current.get()
    if outcome is not None:
        outcome.commits += 1
        outcome.committing = connection


def _note_prepare(_connection: Connection, _xid: Any) -> None:
    outcome = _current.get()
    if outcome is not None:
        outcome.prepared = True


def _note_error(context: ExceptionContext) -> BaseException | None:
    outcome, error = _current.get(), context.sqlalchemy_exception
    # KeyboardInterrupt and its like are no errors of the database; a connection that was
    # never there has sent nothing.
    if outcome is None or context.connection is None or not isinstance(error, DBAPIError):
        return None
    said: Exception = error
    if _is_of_commit(outcome, context):
        outcome.committing = None
        if context.is_disconnect or is_unknown_outcome(error):
            lost = context.original_exception
            said = CommitUnknown(lost, driver_text(lost))
        elif is_known_rollback(error):
            outcome.commits -= 1
    said = judged(said)
    return None if said is error else said


def _is_of_commit(outcome: Outcome, context: ExceptionContext) -> bool:
    if outcome.committing is None or outcome.committing is not context.connection:
        return False
    # COMMIT is no statement to SQLAlchemy, COMMIT PREPARED is one.
    return context.statement is None or outcome.prepared
