"""What the work in hand may have stored so far, and so whether it may be run again.

Whoever may run something again observes it; the engines note what they send.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Self, TypeAlias
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, ExceptionContext, event
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.pool import PoolProxiedConnection

from ..clock import monotonic
from ..drivers.driver_errors import driver_error, driver_text, error_chain, sqlstate
from ..drivers.statements import commits, commits_alone, first_word, is_plain_read
from ..drivers.transactions import (
    in_autocommit,
    in_transaction,
    is_known_rollback,
    is_lock_timeout,
    is_unknown_outcome,
)
from ..drivers.writability import WriteRefusal
from ..errors import CommitUnknown, DatabaseUnavailable, PoolTimeout, TransactionFailed
from ..pool.deadlines import current_deadline
from ..pool.labels import current_label
from ..pool.managed import ManagedPool, PooledConnection, WatchedConnection
from .hearing import Heard
from .overstays import Overstays
from .steps import steps_of
from .traffic import Traffic
from .write_outage import WriteOutage

__all__ = [
    "Judge",
    "Outcome",
    "current_outcome",
    "database_error",
    "is_aftermath",
    "judged",
    "note_error",
    "note_given_up",
    "note_outcomes",
    "note_refusal",
    "observed",
    "said_by_database",
    "unobserved",
]

SAID_BY_DATABASE = (
    DBAPIError,
    PendingRollbackError,
    PoolTimeoutError,
    StaleDataError,
    TransactionFailed,
)

# PostgreSQL's word for a statement after one that failed: "current transaction is aborted".
_ABORTED = "25P02"

_current: ContextVar[Outcome | None] = ContextVar("dbpool_outcome", default=None)
current_outcome = _current.get

Judge: TypeAlias = "Callable[[Outcome, Exception], Exception | None]"
Told: TypeAlias = "Callable[[Outcome, PoolTimeout | DatabaseUnavailable], object]"


class Outcome:
    """What was sent on any of our engines while this was observed: inside its `with`.

    :param on_error: gets each error of SQLAlchemy where it arises, before anybody handles it;
        may return another one to be raised in its place.
    :param on_refusal: gets the error of each caller whom a pool of ours refuses a connection.
    """

    # On the class what hardly any work changes: each request and each message has one of these.

    on_error: Judge | None = None
    on_refusal: Told | None = None
    # Whether whoever observes may run the work again, and so has to know what is stored; if not,
    # he asks what errors mean, and no more.
    repeats = True
    # COMMITs that were begun, without those known to have been rolled back.
    commits = 0
    # Something was sent that needs no COMMIT of SQLAlchemy's to be stored.
    stored = False
    prepared = False
    # The connection that is sent the first PREPARE, until it is told what follows.
    preparing: PoolProxiedConnection | None = None
    # Whether there was an error that another try may not meet, swallowed or not.
    transient = False
    # Whether the server has ended a connection because the work left it waiting.
    overstayed = False
    # Whether a lock was waited for in vain, and longer than a connection would have been.
    waited_long = False
    # How a server has last refused to store anything, and what knows more of it.
    write_refusal: WriteRefusal | None = None
    writes: WriteOutage | None = None
    # Whether a connection was given up for that, which is not lost.
    gave_up = False
    # The connection whose last word was COMMIT.
    committing: PoolProxiedConnection | None = None
    # What drivers have said. Weakly: their tracebacks keep whole sessions.
    heard: WeakKeyDictionary[BaseException, _Meaning] | None = None
    # The last of them, if nothing was sent since; for as long as somebody observes.
    last_heard: BaseException | None = None
    # What was being handled when this began: an `except` clause may call what is observed.
    handled: BaseException | None = None

    # Who observed before.
    _former: Outcome | None

    def __init__(self, on_error: Judge | None = None, on_refusal: Told | None = None) -> None:
        if on_error is not None:
            self.on_error = on_error
        if on_refusal is not None:
            self.on_refusal = on_refusal
        # Checkouts that no SQLAlchemy connection has taken over: what they send is unseen. A
        # list, since threads with a copy of the context may come together.
        self.unseen: list[None] = []

    def __enter__(self) -> Self:
        self._former = _current.get()
        _current.set(self)
        if self.repeats:
            self.handled = sys.exception()
        return self

    def __exit__(self, *_: object) -> None:
        # By no token: an interrupt may come before there is one, and a generator be closed in
        # another context than it was begun in, which refuses it.
        if _current.get() is self:
            _current.set(self._former)
        self.last_heard = None

    def judge(self, error: Exception) -> Exception | None:
        """Show an error to whoever observes; return the one to raise in its place, if any."""
        return None if self.on_error is None else self.on_error(self, error)

    def name_holder(self, connection: PoolProxiedConnection) -> None:
        """Name who has checked out a connection and has no name yet."""

    def note_refusal(self, error: PoolTimeout | DatabaseUnavailable) -> None:
        """Show whoever observes that a caller gets no connection."""
        if self.on_refusal is not None:
            self.on_refusal(self, error)

    @property
    def nothing_stored(self) -> bool:
        """Whether it is certain that nothing is stored."""
        return not (self.commits or self.stored or self.prepared or self.unseen)

    def meaning_of(self, error: BaseException) -> Exception | None:
        """Return SQLAlchemy's error for a driver's that was raised in its place."""
        # Python's own errors cannot be referred to weakly.
        if self.heard is None or not hasattr(error, "__weakref__"):
            return None
        meaning = self.heard.get(error)
        if meaning is None:
            return None
        if meaning.unknown:
            return CommitUnknown(error, driver_text(error))
        return DBAPIError("", None, error, connection_invalidated=meaning.lost)

    def write_refusal_of(self, error: BaseException) -> WriteRefusal | None:
        """Return how the server has refused to store anything, if that is what an error says."""
        if is_aftermath(error):
            return self.write_refusal
        said = driver_error(error)
        if self.heard is None or not hasattr(said, "__weakref__"):
            return None
        meaning = self.heard.get(said)
        return None if meaning is None else meaning.write_refusal


class _Meaning(NamedTuple):
    """What an error of a driver says.

    - `lost`: the connection is.
    - `unknown`: nobody knows what is stored.
    - `write_refusal`: how the server stores nothing of anybody's.
    """

    lost: bool
    unknown: bool
    write_refusal: WriteRefusal | None


def observed(
    on_error: Judge | None = None, on_refusal: Told | None = None, *, repeats: bool = True
) -> Outcome:
    """Note what a block stores, in this thread (or greenlet) and in copies of its context."""
    outcome = Outcome(on_error, on_refusal)
    if not repeats:
        outcome.repeats = False
    return outcome


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
    return error if outcome is None else outcome.judge(error) or error


def note_refusal(error: PoolTimeout | DatabaseUnavailable) -> None:
    """Show whoever observes that a caller gets no connection."""
    outcome = _current.get()
    if outcome is not None:
        outcome.note_refusal(error)


def note_given_up(error: DBAPIError) -> None:
    """Note that an error is about a connection that was given up before, maybe by ourselves.

    Where its first error was swallowed, this one has to stand for it.
    """
    outcome, said = _current.get(), driver_error(error)
    if outcome is None or not outcome.gave_up or not hasattr(said, "__weakref__"):
        return
    _note_meaning(outcome, said, _Meaning(True, False, outcome.write_refusal))


def is_aftermath(error: BaseException) -> bool:
    """Tell whether an error only says that there was another one before, which was swallowed."""
    if isinstance(error, DBAPIError):
        return sqlstate(driver_error(error)) == _ABORTED
    return isinstance(error, TransactionFailed | PendingRollbackError)


def said_by_database(error: Exception, handled: BaseException | None) -> Exception | None:
    """Return what the database said, in an error or in one that has led to it.

    :param handled: what was being handled when the work began.
    """
    chain = error_chain(error, handled)
    return next((each for each in chain if isinstance(each, SAID_BY_DATABASE)), None)


def database_error(error: Exception, outcome: Outcome) -> Exception:
    """Return what the database said, where the app has made an error of its own of it."""
    for each in error_chain(error, outcome.handled):
        if isinstance(each, SAID_BY_DATABASE):
            return each
        meaning = outcome.meaning_of(each)
        if meaning is not None:
            return meaning
    # pyramid_tm raises every error from None.
    cut = error.__cause__ is None and error.__suppress_context__
    if cut and outcome.last_heard is not None:
        return outcome.meaning_of(outcome.last_heard) or error
    return error


def note_outcomes(engine: Engine, *, autocommit: bool, read_only: bool) -> None:
    """Note what `engine` sends with whoever observes.

    :param autocommit: whether its connections are in AUTOCOMMIT unless they say otherwise.
    :param read_only: whether its transactions are read-only, so that COMMIT stores nothing.
    """

    def begin(connection: Connection) -> None:
        outcome = _current.get()
        if outcome is not None:
            outcome.committing = None
            if outcome.repeats and _is_autocommit(connection, autocommit):
                outcome.stored = True

    note_checkout = _note_reader if read_only else _note_checkout
    if isinstance(engine.pool, ManagedPool):
        engine.pool.on_checkout = note_checkout
        engine.pool.on_refusal = note_refusal
    else:
        event.listen(engine, "checkout", lambda _dbapi, _record, fairy: note_checkout(fairy))
    event.listen(engine, "handle_error", _judge_error, retval=True)
    steps = steps_of(engine)
    steps.connect.append(_note_connection)
    steps.begin.append(begin)
    steps.statement.append(_note_read if read_only else _note_statement)
    steps.rollback_prepared.append(_end_preparing)
    if not read_only:
        steps.rollback.append(_note_rollback)
        steps.commit.append(_note_commit)
        steps.prepare.append(_note_prepare)
        steps.commit_prepared.append(_note_commit)


def _is_autocommit(connection: Connection, configured: bool) -> bool:
    level = connection.get_execution_options().get("isolation_level")
    if level is not None:
        return str(level).upper() == "AUTOCOMMIT"
    # The driver may have been told by itself: in the URL, or by a hook.
    return configured or in_autocommit(connection.dialect, connection.connection.dbapi_connection)


class _Observed(WatchedConnection):
    """A connection whose holder may go around SQLAlchemy."""

    __slots__ = ()

    def before_commit(self) -> None:
        """Note a COMMIT that is not SQLAlchemy's, if it may store something."""
        outcome = _current.get()
        if outcome is None or outcome.committing is self:
            return
        if in_transaction(self.dbapi_connection) is not False:
            outcome.stored = True

    def before_rollback(self) -> None:
        """Note that the transaction ends here, and stores nothing."""
        traffic = Traffic.on(self)
        if traffic is not None:
            traffic.opened = False

    def before_handing_out(self) -> None:
        """Note that nobody sees what is done with the driver's connection from now on."""
        outcome = _current.get()
        if outcome is not None:
            outcome.stored = True


class _ObservedPooled(_Observed, PooledConnection):
    """The same of a pool of ours."""

    __slots__ = ()


def _note_checkout(connection: PoolProxiedConnection) -> None:
    outcome = _current.get()
    if outcome is not None and outcome.repeats:
        outcome.unseen.append(None)
        kind = _ObservedPooled if isinstance(connection, PooledConnection) else _Observed
        kind.watch(connection)
        if current_label() is None:
            outcome.name_holder(connection)


def _note_reader(connection: PoolProxiedConnection) -> None:
    outcome = _current.get()
    if outcome is not None and outcome.repeats:
        outcome.unseen.append(None)
        if current_label() is None:
            outcome.name_holder(connection)


def _note_connection() -> None:
    # It comes right after its checkout.
    outcome = _current.get()
    if outcome is not None and outcome.unseen:
        outcome.unseen.pop()


def _note_read(connection: Connection, statement: str, _context: Any) -> None:
    outcome = _current.get()
    if outcome is not None:
        outcome.last_heard = None
        Traffic.note(connection.connection, statement, connection.dialect.name)


def _note_statement(connection: Connection, statement: str, _context: Any) -> None:
    outcome = _current.get()
    if outcome is None:
        return
    outcome.last_heard = None
    dialect = connection.dialect.name
    if Traffic.note(connection.connection, statement, dialect):
        outcome.stored = True
    if is_plain_read(statement) and outcome.preparing is None:
        return
    # SQLAlchemy's own PREPARE is noted as such.
    prepares = outcome.preparing is not None and _note_preparing(outcome, connection, statement)
    if outcome.repeats and not outcome.stored:
        outcome.stored = (not prepares and commits(statement, dialect)) or (
            dialect == "sqlite" and _is_alone(connection, statement)
        )


def _note_preparing(outcome: Outcome, connection: Connection, statement: str) -> bool:
    """Note whether PREPARE is still under way on a connection; tell whether a statement is it."""
    if outcome.preparing is not connection.connection:
        return False
    if first_word(statement) in {"PREPARE", "XA"}:
        return True
    # It is over: whatever fails from now on has nothing to do with it.
    outcome.preparing = None
    return False


def _is_alone(connection: Connection, statement: str) -> bool:
    """Tell whether SQLite stores a statement at once, because it is in no transaction."""
    dbapi: Any = connection.connection.dbapi_connection
    return not dbapi.in_transaction and commits_alone(statement, begins=dbapi.isolation_level)


def _note_rollback(connection: Connection) -> None:
    outcome = _current.get()
    if outcome is None or connection.closed or connection.invalidated:
        return
    traffic = Traffic.on(connection.connection)
    if traffic is not None and traffic.is_committed(connection.connection):
        outcome.stored = True


def _note_commit(connection: Connection) -> None:
    outcome = _current.get()
    if outcome is not None:
        outcome.commits += 1
        outcome.committing = connection.connection
        outcome.preparing = None


def _note_prepare(connection: Connection) -> None:
    outcome = _current.get()
    if outcome is not None:
        outcome.preparing = None if outcome.prepared else connection.connection
        outcome.prepared = True


def _end_preparing(_connection: Connection) -> None:
    outcome = _current.get()
    if outcome is not None:
        outcome.preparing = None


def _judge_error(context: ExceptionContext) -> BaseException | None:
    outcome, error = _current.get(), context.sqlalchemy_exception
    # KeyboardInterrupt and its like are no errors of the database; a connection that was
    # never there has sent nothing.
    if outcome is None or context.connection is None or not isinstance(error, DBAPIError):
        return None
    meaning = outcome.meaning_of(context.original_exception)
    said = judged(meaning if isinstance(meaning, CommitUnknown) else error)
    return None if said is error else said


def note_error(
    heard: Heard, *, overstays: Overstays, writes: WriteOutage, patience: float | None
) -> bool:
    """Note what an error means with whoever observes; tell whether to give its connection up.

    :param writes: is told of writes that the server refuses, whether anybody observes or not.
    :param patience: how long a caller waits for a connection, in seconds.
    """
    refusal, outcome = writes.hear(heard), _current.get()
    # A pool of ours replaces its connections by itself.
    gives_up = refusal is WriteRefusal.READ_ONLY and not writes.replaces
    if outcome is None:
        return gives_up
    if refusal is not None:
        outcome.write_refusal, outcome.writes = refusal, writes
        outcome.gave_up |= gives_up
    overstayed = heard.lost and overstays.setting(heard) is not None
    outcome.overstayed |= overstayed
    if not heard.lost and is_lock_timeout(heard.error):
        outcome.waited_long |= _is_longer(Traffic.on(heard.connection), patience)
    _note_ended(outcome, heard)
    unknown = False
    if _is_of_commit(outcome, heard):
        outcome.committing = None
        unknown = (heard.lost and not overstayed) or is_unknown_outcome(heard.error)
        if not unknown and (overstayed or refusal or is_known_rollback(heard.error)):
            outcome.commits -= 1
    _note_meaning(outcome, heard.error, _Meaning(heard.lost, unknown, refusal))
    outcome.last_heard = heard.error
    if (meaning := outcome.meaning_of(heard.error)) is not None:
        # Here too, for nobody may hear of it afterwards.
        judged(meaning)
    return gives_up


def _note_ended(outcome: Outcome, heard: Heard) -> None:
    """Note that an error may have ended the transaction."""
    traffic = Traffic.on(heard.connection)
    if traffic is not None:
        # It may have begun nothing, or the server have ended what there was: that the driver shows
        # no transaction would be taken for a commit.
        traffic.opened = False
    if outcome.preparing is heard.connection and not heard.lost:
        # The server has rolled back what it could not prepare.
        outcome.prepared, outcome.preparing = False, None


def _note_meaning(outcome: Outcome, error: BaseException, meaning: _Meaning) -> None:
    if outcome.heard is None:
        outcome.heard = WeakKeyDictionary()
    outcome.heard[error] = meaning


def _is_longer(traffic: Traffic | None, patience: float | None) -> bool:
    until = current_deadline()
    if until is not None and monotonic() > until:
        return True
    if traffic is None or patience is None:
        return False
    # By more than a tenth: SQLite's driver waits as long as we do by default, and what its timer
    # is late must not decide.
    return traffic.statement_seconds() > patience * 1.1


def _is_of_commit(outcome: Outcome, heard: Heard) -> bool:
    if outcome.committing is None or outcome.committing is not heard.connection:
        return False
    # COMMIT is no statement to SQLAlchemy, COMMIT PREPARED is one.
    return not heard.of_statement or outcome.prepared
