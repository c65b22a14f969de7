"""A session on the process's engine, and one unit of work on it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, ContextDecorator, ExitStack
from types import TracebackType
from typing import Any, Self, TypeAlias

import transaction
from sqlalchemy import exc as sa_exc
from sqlalchemy.orm import Session, scoped_session

from ..drivers.driver_errors import driver_text
from ..engines.registry import find_engine, process_engine
from ..engines.stored import Outcome, current_outcome, observed, unobserved
from ..engines.transaction_modes import TransactionModes
from ..errors import CommitUnknown, SessionInUse
from ..pool.labels import Label, caller_label, current_label
from .closing import close_session
from .maker import make_lasting, session_maker
from .uncommitted import forget_promise, promise, refuse_discarded, warn_of_rollback

__all__ = ["UnitOfWork", "session_factory", "unit_of_work"]

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


def unit_of_work(
    session_or_settings: AnySession | Mapping[str, Any],
    *,
    name: str = "default",
    isolation_level: str | None = None,
    read_only: bool = False,
    deferrable: bool = False,
    transaction_manager: TransactionManager | None = None,
) -> UnitOfWork:
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
    modes = None
    if isolation_level or read_only or deferrable:
        modes = TransactionModes(isolation_level, read_only, deferrable)
    return UnitOfWork(session_or_settings, modes, name, transaction_manager)


class UnitOfWork(ContextDecorator, AbstractContextManager[Session]):
    """What `unit_of_work` returns; for who has the modes already.

    A class, since each message of a worker enters one: five nested generators cost 40 µs. As what
    they made, it decorates functions too, each call of which is a unit, and it is entered once.
    """

    # On the class what few units have: a label and a watch of their own, and parts beside the
    # session; and what one has that was entered.
    _label: Label | None = None
    _watch: Outcome | None = None
    _parts: ExitStack | None = None
    _session: Session | None = None
    # The class that its session had before.
    _former: type[Session]

    def __init__(
        self,
        session_or_settings: AnySession | Mapping[str, Any],
        modes: TransactionModes | None,
        name: str = "default",
        manager: TransactionManager | None = None,
    ) -> None:
        self._given, self._name = session_or_settings, name
        self._modes, self._manager = modes, manager
        # A read-only unit has no COMMIT worth knowing of.
        self._stores = modes is None or not modes.read_only

    def _recreate_cm(self) -> Self:
        return type(self)(self._given, self._modes, self._name, self._manager)

    def __enter__(self) -> Session:
        """Begin: nothing is sent yet, unless there are modes."""
        if self._session is not None:
            # The inner one would end the outer one's session in the place of its own.
            raise RuntimeError("A unit of work is entered once: call unit_of_work() for each.")
        given = self._given
        session = given if isinstance(given, Session) else _session(given, self._name)
        if session.in_transaction():
            raise SessionInUse(
                "This session is already in a transaction: commit or close it first, or give"
                " unit_of_work the settings to get a session of its own."
            )
        self._former, self._session = type(session), session
        try:
            self._begin(session)
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return session

    def _begin(self, session: Session) -> None:
        # Whoever observes already is told; and a request names itself when it takes a connection.
        if current_outcome() is None:
            if current_label() is None:
                self._label = caller_label("unit_of_work")
                self._label.__enter__()
            if self._stores:
                self._watch = observed(repeats=False)
                self._watch.__enter__()
        make_lasting(session)
        if self._modes is not None or self._manager is not None:
            self._parts = ExitStack()
            self._enter_parts(session, self._parts)
        else:
            promise(session)

    def _enter_parts(self, session: Session, parts: ExitStack) -> None:
        if self._modes is not None:
            # Around the end of the unit: what hooks do before COMMIT is part of it.
            parts.enter_context(self._modes.applied(session))
        if self._manager is not None:
            # Here, because zope.sqlalchemy imports every driver that is installed.
            from .joining import joined_transaction  # noqa: PLC0415

            parts.enter_context(joined_transaction(session, self._manager))
        elif self._stores:
            promise(session)
        if self._modes is not None:
            self._modes.begin(session)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Commit, or after an error roll back; close in any case."""
        try:
            parts = self._parts
            if error is None:
                if parts is None:
                    self._commit()
                else:
                    with parts:
                        self._commit()
            elif parts is not None:
                parts.__exit__(kind, error, traceback)
        except sa_exc.DBAPIError as failed:
            self._explain(failed)
            raise
        else:
            # The body may commit by hand.
            self._explain(error)
        finally:
            try:
                self._leave()
            except BaseException:
                # An interrupt in the middle of it: each part of it may be done twice.
                self._leave()
                raise

    @property
    def _entered(self) -> Session:
        assert self._session is not None
        return self._session

    def _leave(self) -> None:
        session = self._entered
        if self._stores and self._manager is None:
            forget_promise(session)
        if type(session) is not self._former:
            session.__class__ = self._former
        if self._label is not None:
            self._label.__exit__()
        if self._watch is not None:
            self._watch.__exit__()
        close_session(session)

    def _commit(self) -> None:
        session = self._entered
        # Here, so that a connection that is lost in a flush is not taken for one that is
        # lost in COMMIT.
        session.flush()
        if self._manager is not None:
            # It does so itself.
            return
        if not self._stores:
            with unobserved():
                session.commit()
            return
        refuse_discarded(session)
        session.commit()
        warn_of_rollback(session)

    def _explain(self, error: BaseException | None) -> None:
        """Tell a COMMIT whose answer was lost from one that failed, on an engine of others.

        :raises CommitUnknown: it was lost.
        """
        if not isinstance(error, sa_exc.DBAPIError) or isinstance(error, CommitUnknown):
            return
        # Our engines know what they have sent; a lost ROLLBACK has no statement either.
        if find_engine(self._entered.bind) is not None:
            return
        # Without a statement it was COMMIT itself; a flush has one. A read-only
        # unit has nothing that could be stored.
        lost = error.connection_invalidated and error.statement is None
        if lost and self._stores:
            raise CommitUnknown(error.orig, driver_text(error)) from error


def _session(
    session_or_settings: scoped_session[Session] | Mapping[str, Any], name: str
) -> Session:
    if isinstance(session_or_settings, Mapping):
        return session_factory(session_or_settings, name)
    if isinstance(session_or_settings, scoped_session):
        return session_or_settings()
    raise TypeError(
        "unit_of_work takes a session or the app's settings, not"
        f" {type(session_or_settings).__name__}."
    )
