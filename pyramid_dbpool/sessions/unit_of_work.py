"""A session on the process's engine, and one unit of work on it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, TypeAlias

import transaction
from sqlalchemy import exc as sa_exc
from sqlalchemy.orm import Session, scoped_session

from ..drivers.driver_errors import driver_text
from ..engines.registry import find_engine, process_engine
from ..engines.stored import current_outcome, observed, unobserved
from ..engines.transaction_modes import TransactionModes
from ..errors import CommitUnknown, SessionInUse
from ..pool.labels import labelled_by_caller
from .closing import close_session
from .maker import lasting, session_maker
from .uncommitted import forget_promise, promise, refuse_discarded, warn_of_rollback

__all__ = ["session_factory", "unit_of_work"]

AnySession: TypeAlias = Session | scoped_session[Session]
TransactionManager: TypeAlias = (
    transaction.TransactionManager | transaction.ThreadTransactionManager
)


def session_factory(settings: Mapping[str, Any], name: str = "default") -> Session:
    """Return a new session on this process's one engine for `settings`.

    It is joined to no transaction manager, and it runs no SQL of its own, so
    ``SET TRANSACTION`` can be its first statement. After ``close()`` it can be
    used again; the engine and its pool stay. Its ``rollback()`` and ``close()``
    do not raise because the connection is lost, so that a loop goes on. What an
    app hangs on its ``registry["dbsession_factory"]`` holds for it too. ::

        session = session_factory(settings)
        for message in queue:
            try:
                handle(message, session)
                session.commit()
            finally:
                session.close()

    :param settings: the app's settings, as Pyramid has them (ini strings).
    :param name: the pool: ``"default"``, or NAME of ``sqlalchemy.NAME.url``.
    :raises SettingsError: a setting is unknown or wrong.
    """
    return session_maker(process_engine(settings, name))()


@contextmanager
def unit_of_work(
    session_or_settings: AnySession | Mapping[str, Any],
    *,
    name: str = "default",
    isolation_level: str | None = None,
    read_only: bool = False,
    deferrable: bool = False,
    transaction_manager: TransactionManager | None = None,
) -> Iterator[Session]:
    """Commit on success, roll back on error, close in any case.

    Yields the session. An error is raised again, after the rollback; nothing is tried again.
    The modes hold on every connection that the session takes, also after a commit by hand. ::

        with unit_of_work(settings, isolation_level="SERIALIZABLE", read_only=True) as session:
            session.get(Note, 42)

    :param session_or_settings: a session that is in no transaction, or the
        settings to make one from.
    :param name: the pool, where settings are given.
    :param isolation_level: for this unit only: ``READ UNCOMMITTED``,
        ``READ COMMITTED``, ``REPEATABLE READ`` or ``SERIALIZABLE``.
    :param read_only: refuse writes in this unit.
    :param deferrable: wait for a snapshot that cannot fail (PostgreSQL).
    :param transaction_manager: begin, commit and abort this manager instead of
        the session alone; the session joins it.
    :raises PoolTimeout: no connection came free in time.
    :raises DatabaseUnavailable: the server is away, or refuses the login.
    :raises SessionInUse: the session, or the manager, is already in a
        transaction, which this unit would have ended with its own.
    :raises CommitUnknown: the connection was lost during COMMIT.
    :raises TransactionFailed: a statement had failed and its error was swallowed.
    :raises ChangesDiscarded: the session was closed with something written.
    :raises SettingsError: a setting is unknown or wrong.
    :raises TypeError: neither a session nor settings.
    :raises ValueError: a mode that is unknown, or that the database does not have.
    """
    modes = TransactionModes(isolation_level, read_only, deferrable)
    session = _session(session_or_settings, name)
    if session.in_transaction():
        raise SessionInUse(
            "This session is already in a transaction: commit or close it first, or give"
            " unit_of_work the settings to get a session of its own."
        )
    if transaction_manager is None:
        unit = _committed(session, read_only)
    else:
        # Here, because zope.sqlalchemy imports every driver that is installed.
        from .joining import joined_transaction  # noqa: PLC0415

        unit = joined_transaction(session, transaction_manager)
    # Whoever observes already is told; a read-only unit has no COMMIT worth knowing of.
    watch = nullcontext() if read_only or current_outcome() else observed()
    try:
        with (
            labelled_by_caller("unit_of_work"),
            lasting(session),
            watch,
            # Around the body too: it may commit by hand.
            _commit_outcome(session, read_only),
            # Around the end of the unit: what hooks do before COMMIT is part of it.
            modes.applied(session),
            unit,
        ):
            modes.begin(session)
            yield session
            # Here, so that a connection that is lost in a flush is not taken for one that is
            # lost in COMMIT.
            session.flush()
    finally:
        close_session(session)


def _session(session_or_settings: AnySession | Mapping[str, Any], name: str) -> Session:
    if isinstance(session_or_settings, Mapping):
        return session_factory(session_or_settings, name)
    if isinstance(session_or_settings, scoped_session):
        return session_or_settings()
    if not isinstance(session_or_settings, Session):
        raise TypeError(
            "unit_of_work takes a session or the app's settings, not"
            f" {type(session_or_settings).__name__}."
        )
    return session_or_settings


@contextmanager
def _committed(session: Session, read_only: bool) -> Iterator[None]:
    if read_only:
        yield
        with unobserved():
            session.commit()
        return
    promise(session)
    try:
        yield
        refuse_discarded(session)
        session.commit()
        warn_of_rollback(session)
    finally:
        forget_promise(session)


@contextmanager
def _commit_outcome(session: Session, read_only: bool) -> Iterator[None]:
    """Tell a COMMIT whose answer was lost from one that failed, on an engine that is not ours."""
    try:
        yield
    except sa_exc.DBAPIError as error:
        if find_engine(session.bind) is not None:
            # Our engines know what they have sent; a lost ROLLBACK has no statement either.
            raise
        # Without a statement it was COMMIT itself; a flush has one. A read-only
        # unit has nothing that could be stored.
        lost = error.connection_invalidated and error.statement is None and not read_only
        if lost and not isinstance(error, CommitUnknown):
            raise CommitUnknown(error.orig, driver_text(error)) from error
        raise
