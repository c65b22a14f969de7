"""Has an app's engines and sessions write down what requests do with them.

By a class around the pool's own, which says how long its callers wait; by `engines.steps`, and by
those of SQLAlchemy's events that cost a checkout nothing. Its `checkin` has the pool return
connections in SQLAlchemy's slower way: only where the toolbar is.
"""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Mapping
from typing import Any, NamedTuple
from weakref import WeakSet

from pyramid.registry import Registry
from sqlalchemy import Connection, Engine, ExceptionContext, event
from sqlalchemy import exc as sa_exc
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.pool import ConnectionPoolEntry, Pool, PoolProxiedConnection

from ..clock import monotonic
from ..drivers.server_pids import server_pid
from ..engines.registry import ProcessEngine, process_engine
from ..engines.steps import steps_of
from ..engines.stored import current_outcome
from ..errors import CommitUnknown, DatabaseUnavailable
from ..settings import load_app
from ..web.requests import request_name
from ..web.retry import REQUEST_TIMEOUT
from .recording import (
    COMMITTED,
    FAILED,
    LEFT,
    LOST,
    PREPARED,
    ROLLED_BACK,
    UNKNOWN,
    Checkout,
    Recording,
    places,
)

__all__ = ["RECORDING", "WatchedPool", "watched_pools"]

# A key of the registry, and of a request's `__dict__`.
_POOLS = "pyramid_dbpool.debugtoolbar.pools"
RECORDING = "_pyramid_dbpool_recording"
# Keys of what SQLAlchemy keeps beside a connection and with a session.
_TAKEN = "pyramid_dbpool.debugtoolbar.checkout"
_POOL = "pyramid_dbpool.pool"

# Guards `_engines`: two requests may be the first ones.
_lock = threading.Lock()
_engines: WeakSet[Engine] = WeakSet()


class WatchedPool(NamedTuple):
    """A pool of the app: its name, its engine, and what the request's session on it is called."""

    name: str
    made: ProcessEngine
    attribute: str


def _watched_class(kind: type[Pool], name: str) -> type[Pool]:
    """Make a class of pools that write their callers down, to take the place of `kind`."""

    def connect(self: Pool) -> PoolProxiedConnection:
        """Check a connection out, and write down how long that took."""
        checkout, recording = Checkout(name, monotonic()), Recording.current()
        try:
            connection = kind.connect(self)
        except BaseException as error:
            if recording is not None:
                checkout.taken, checkout.refusal = monotonic(), _said(error)
                recording.note(checkout, sys._getframe())
            raise
        checkout.is_taken()
        checkout.server_pid = server_pid(connection.dbapi_connection)
        info = connection.record_info
        if info is not None:
            info[_TAKEN] = checkout
        if recording is not None:
            recording.note(checkout, sys._getframe())
        return connection

    # With one base: only such a class may take the place of another one.
    return types.new_class(
        kind.__name__,
        (kind,),
        exec_body=lambda body: body.update(
            {"connect": connect, "__module__": kind.__module__, "__doc__": kind.__doc__}
        ),
    )


def watched_pools(registry: Registry) -> list[WatchedPool]:
    """Return the pools of an app, which from now on are watched; none if it has none of ours."""
    if REQUEST_TIMEOUT not in registry:
        return []
    settings = registry.settings
    if _POOLS not in registry:
        app = load_app(settings)
        registry[_POOLS] = {
            name: app.request_attr + ("" if name == "default" else f"_{name}")
            for name in app.pools
        }
    names: Mapping[str, str] = registry[_POOLS]
    pools = [
        WatchedPool(name, process_engine(settings, name), attribute)
        for name, attribute in names.items()
    ]
    for each in pools:
        _watch(each)
    return pools


def _watch(pool: WatchedPool) -> None:
    maker = pool.made.maker
    with _lock:
        if pool.made.engine not in _engines:
            _engines.add(pool.made.engine)
            _watch_engine(pool.made.engine, pool.name)
        # Another app on the same engine has a maker of its own.
        if maker is not None and not event.contains(maker, "after_begin", _name_session):
            event.listen(maker, "after_begin", _name_session)


def _watch_engine(engine: Engine, name: str) -> None:
    # On the pool itself: what `recreate` makes of it is of the same class.
    engine.pool.__class__ = _watched_class(type(engine.pool), name)
    event.listen(engine, "checkin", _note_return)
    event.listen(engine, "detach", _note_detached)
    event.listen(engine, "handle_error", _note_error)
    # The toolbar's own panel listens to it on every engine.
    event.listen(engine, "after_cursor_execute", _note_executed)
    steps = steps_of(engine)
    steps.begin.append(_note_begin)
    steps.statement.append(_note_statement)
    for step, how in (
        (steps.commit, COMMITTED),
        (steps.commit_prepared, COMMITTED),
        (steps.rollback, ROLLED_BACK),
        (steps.rollback_prepared, ROLLED_BACK),
    ):
        step.append(_Ending(how))
    steps.prepare.append(_note_prepare)


def checkout_of(connection: Connection) -> Checkout | None:
    """Return what is written down of a connection, if it has one still."""
    if connection.closed or connection.invalidated:
        return None
    info = connection.connection.record_info
    return None if info is None else info.get(_TAKEN)


class _Ending:
    """Notes how a transaction ends, as far as nothing goes wrong now."""

    def __init__(self, how: str) -> None:
        self._how = how

    def __call__(self, connection: Connection) -> None:
        checkout = checkout_of(connection)
        if checkout is None:
            return
        # Until it comes back, or something else is asked of it.
        checkout.is_asked()
        if checkout.transactions and checkout.transactions[-1].end == PREPARED:
            checkout.end_otherwise(self._how)
        checkout.end(self._how)


def _note_begin(connection: Connection) -> None:
    if (checkout := checkout_of(connection)) is not None:
        checkout.begin()


def _note_prepare(connection: Connection) -> None:
    if (checkout := checkout_of(connection)) is not None:
        checkout.end(PREPARED)


def _note_statement(connection: Connection, _statement: str, _context: Any) -> None:
    if (checkout := checkout_of(connection)) is not None:
        checkout.is_sent(places(sys._getframe()))


def _note_executed(
    connection: Connection, _cursor: object, _statement: str, *_others: object
) -> None:
    if (checkout := checkout_of(connection)) is not None:
        checkout.is_answered()


def _note_error(context: ExceptionContext) -> None:
    checkout = None if context.connection is None else checkout_of(context.connection)
    if checkout is None:
        return
    checkout.is_answered()
    if not checkout.transactions:
        return
    if checkout.transactions[-1].end not in (COMMITTED, PREPARED):
        if context.is_disconnect:
            checkout.end(LOST)
        return
    # What comes after a COMMIT and before the next BEGIN is that COMMIT's.
    # It has none where no listener has put another error in its place.
    said = getattr(context, "chained_exception", None)
    unknown = isinstance(said, CommitUnknown) or (
        # Nobody there has judged it.
        current_outcome() is None and context.is_disconnect
    )
    checkout.end_otherwise(UNKNOWN if unknown else FAILED)


def _note_return(_connection: object, record: ConnectionPoolEntry) -> None:
    if (checkout := _taken_off(record)) is None:
        return
    checkout.end(LEFT)
    checkout.is_returned(places(sys._getframe()))


def _note_detached(_connection: object, record: ConnectionPoolEntry) -> None:
    if (checkout := _taken_off(record)) is not None:
        checkout.was_detached = True
        checkout.is_returned()


def _taken_off(record: ConnectionPoolEntry) -> Checkout | None:
    info = record.record_info
    return None if info is None else info.pop(_TAKEN, None)


def _name_session(session: Session, _begun: SessionTransaction, connection: Connection) -> None:
    """Say which session has taken a connection, and for which request.

    The latter for a thread of the app's own, which knows of no request but by the session.
    """
    checkout, request = checkout_of(connection), session.info.get("request")
    if checkout is None or request is None:
        return
    recording: Recording | None = request.__dict__.get(RECORDING)
    if recording is not None and not checkout.is_noted:
        recording.note(checkout, sys._getframe())
    names: Mapping[str, str] = request.registry.get(_POOLS, {})
    attribute = names.get(session.info.get(_POOL, ""))
    if attribute is not None:
        # A subrequest without tweens has no panel: it is a part of the one around it.
        of_another = "" if recording is not None else f" of {request_name(request)}"
        checkout.by = f"request.{attribute}{of_another}"


def _said(error: BaseException) -> str:
    """Say why there is no connection; in our own words, or by the name of the error."""
    if isinstance(error, DatabaseUnavailable | sa_exc.TimeoutError) and error.args:
        return " ".join(str(error.args[0]).split())
    return type(error).__name__
