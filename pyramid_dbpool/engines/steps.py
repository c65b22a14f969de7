"""Who is told of what an engine's connections do, before they do it.

SQLAlchemy has events for all of this. But with the first listener it looks for others at each step
of each connection, and joins their lists anew for each connection: one that does nothing costs a
session on SQLite a fifth of its time (36 µs of 172). So the connections are of a class of ours,
which tells whoever is to know, and then does what SQLAlchemy's does, events of the app's included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast
from weakref import ref

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.base import OptionEngine

from ..pool import inheritance

__all__ = ["Steps", "notes_in", "notes_of", "steps_of"]

# SQLAlchemy's private names that this relies on, the same in 2.0 and 2.1: what an engine's
# connections are made of, what raises where there is none, and those steps of theirs that come
# with an event.
RELIED_ON = (
    "_begin_impl",
    "_begin_twophase_impl",
    "_commit_impl",
    "_commit_twophase_impl",
    "_connection_cls",
    "_handle_dbapi_exception_noconnection",
    "_option_cls",
    "_prepare_twophase_impl",
    "_rollback_impl",
    "_rollback_to_savepoint_impl",
    "_rollback_twophase_impl",
)

# A key of Connection.info: what is noted of one transaction, gone when another one begins.
_NOTES = "pyramid_dbpool.notes"

_NONE: Mapping[str, Any] = {}

# One look at it costs less than a call.
_here = inheritance.here

# Gets the connection that takes the step.
Told = Callable[[Connection], object]


class Steps:
    """Whom to tell of each step, in this order.

    Each but the first is called with the connection; what it raises is raised in the place of the
    step.

    :ivar connect: a connection is made; it has been checked out.
    :ivar statement: a statement is sent; gets its text, and SQLAlchemy's context of it.
    :ivar executed: a statement was sent and has not failed; called with its cursor, the statement,
        and SQLAlchemy's context of it.
    :ivar inherited: a statement or a COMMIT is about to be sent in a forked child that has not
        left its parent's pools.
    :ivar begin: also one with two phases.
    :ivar commit: a transaction with one phase.
    """

    __slots__ = (
        "begin",
        "commit",
        "commit_prepared",
        "connect",
        "executed",
        "inherited",
        "prepare",
        "rollback",
        "rollback_prepared",
        "rollback_to_savepoint",
        "statement",
    )

    def __init__(self) -> None:
        self.connect: list[Callable[[], object]] = []
        self.inherited: list[Told] = []
        self.statement: list[Callable[[Connection, str, Any], object]] = []
        self.executed: Callable[[Any, Any, Any], object] | None = None
        self.begin: list[Told] = []
        self.commit: list[Told] = []
        self.rollback: list[Told] = []
        self.rollback_to_savepoint: list[Told] = []
        self.prepare: list[Told] = []
        self.commit_prepared: list[Told] = []
        self.rollback_prepared: list[Told] = []


class _ToldConnection(Connection):
    """A connection that tells what it is about to do."""

    engine: _ToldEngine

    def __init__(self, engine: _ToldEngine) -> None:
        try:
            taken = engine.raw_connection()
        except engine.dialect.loaded_dbapi.Error as error:
            # As SQLAlchemy does, which would tell the app's listeners before us: what one of them
            # sends, and fails with, would be taken for what nobody sees.
            self._handle_dbapi_exception_noconnection(error, engine.dialect, engine)
        for tell in engine.steps.connect:
            tell()
        super().__init__(engine, taken)

    def _begin_impl(self, transaction: Any) -> None:
        self.info.pop(_NOTES, None)
        for tell in self.engine.steps.begin:
            tell(self)
        super()._begin_impl(transaction)

    def _commit_impl(self) -> None:
        steps = self.engine.steps
        if not _here[0]:
            for tell in steps.inherited:
                tell(self)
        for tell in steps.commit:
            tell(self)
        super()._commit_impl()

    def _rollback_impl(self) -> None:
        for tell in self.engine.steps.rollback:
            tell(self)
        super()._rollback_impl()

    def _rollback_to_savepoint_impl(self, name: str) -> None:
        for tell in self.engine.steps.rollback_to_savepoint:
            tell(self)
        super()._rollback_to_savepoint_impl(name)

    def _begin_twophase_impl(self, transaction: Any) -> None:
        self.info.pop(_NOTES, None)
        for tell in self.engine.steps.begin:
            tell(self)
        super()._begin_twophase_impl(transaction)

    def _prepare_twophase_impl(self, xid: Any) -> None:
        for tell in self.engine.steps.prepare:
            tell(self)
        super()._prepare_twophase_impl(xid)

    def _rollback_twophase_impl(self, xid: Any, is_prepared: bool) -> None:
        for tell in self.engine.steps.rollback_prepared:
            tell(self)
        super()._rollback_twophase_impl(xid, is_prepared)

    def _commit_twophase_impl(self, xid: Any, is_prepared: bool) -> None:
        for tell in self.engine.steps.commit_prepared:
            tell(self)
        super()._commit_twophase_impl(xid, is_prepared)


class _ToldEngine(Engine):
    """An engine whose connections tell."""

    steps: Steps
    _connection_cls = _ToldConnection


class _ToldOptionEngine(OptionEngine, _ToldEngine):
    """What `engine.execution_options()` returns."""

    def __init__(self, proxied: _ToldEngine, execution_options: Any) -> None:
        self.steps = proxied.steps
        super().__init__(proxied, execution_options)


_ToldEngine._option_cls = _ToldOptionEngine


def steps_of(engine: Engine) -> Steps:
    """Return what is called at each step of the connections of `engine`."""
    if not isinstance(engine, _ToldEngine):
        # `create_engine` knows SQLAlchemy's class only.
        engine.__class__ = _ToldEngine
        engine = cast("_ToldEngine", engine)
        engine.steps = Steps()
        _tell_of_statements(engine)
    return engine.steps


def notes_in(info: dict[Any, Any]) -> dict[str, Any]:
    """Return what is noted of a connection's transaction, to be written to.

    :param info: the connection's.
    """
    notes: dict[str, Any] = info.setdefault(_NOTES, {})
    return notes


def notes_of(info: dict[Any, Any]) -> Mapping[str, Any]:
    """Return the same, to be read: empty if nothing is noted."""
    notes: Mapping[str, Any] = info.get(_NOTES, _NONE)
    return notes


def _tell_of_statements(engine: _ToldEngine) -> None:
    steps = engine.steps

    def tell_statement(_cursor: Any, statement: Any, _parameters: Any, context: Any) -> None:
        connection = context.root_connection
        # What SQLAlchemy itself asks of the first connection of all, no caller has sent.
        if not isinstance(connection, _ToldConnection):
            return
        if not _here[0]:
            for tell in steps.inherited:
                tell(connection)
        # Some drivers have statements that are no strings.
        said = str(statement)
        for tell_of in steps.statement:
            tell_of(connection, said, context)

    def tell_bare_statement(cursor: Any, statement: Any, context: Any) -> None:
        tell_statement(cursor, statement, None, context)

    # These events are the dialect's, which cost nothing of the above; and they come after those of
    # the engine, where an app may have made another statement of the one in hand.
    event.listen(engine, "do_execute", tell_statement)
    event.listen(engine, "do_executemany", tell_statement)
    event.listen(engine, "do_execute_no_params", tell_bare_statement)
    _tell_of_executed(engine.dialect, steps)


def _tell_of_executed(dialect: Any, steps: Steps) -> None:
    # Weakly: an engine that is forgotten goes without the garbage collector. The class's own are
    # looked up each time: whoever measures or mocks may replace them later.
    itself, kind = ref(dialect), type(dialect)

    def do_execute(cursor: Any, statement: Any, parameters: Any, context: Any = None) -> None:
        kind.do_execute(itself(), cursor, statement, parameters, context)
        if steps.executed is not None:
            steps.executed(cursor, statement, context)

    def do_execute_no_params(cursor: Any, statement: Any, context: Any = None) -> None:
        kind.do_execute_no_params(itself(), cursor, statement, context)
        if steps.executed is not None:
            steps.executed(cursor, statement, context)

    dialect.do_execute, dialect.do_execute_no_params = do_execute, do_execute_no_params
