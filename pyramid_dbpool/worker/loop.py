"""The loop of a worker: a message, a unit of work, an acknowledgement."""

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from sqlalchemy.exc import StatementError
from sqlalchemy.orm import Session

from ..drivers.driver_errors import error_chain
from ..engines.application_name import take_role
from ..engines.probes import check_at_start
from ..engines.registry import find_engine
from ..engines.transaction_modes import TransactionModes
from ..pool.labels import label_of
from ..sessions.unit_of_work import session_factory as default_session_factory
from ..stopping import Event, Stop, stop_signal, stoppable
from .attempts import Attempts
from .message_names import MessageName
from .sources import SupportsGet, messages_of

__all__ = ["consume"]

log = logging.getLogger(__name__)

M = TypeVar("M")


def consume(
    messages: SupportsGet[M] | Iterable[M | None],
    handle: Callable[[M, Session], object],
    settings: Mapping[str, Any],
    *,
    name: str = "default",
    session_factory: Callable[..., Session] = default_session_factory,
    ack: Callable[[M], object] | None = None,
    on_error: Callable[[M, Exception], object] | None = None,
    stop: Event | None = None,
    stop_on_sigterm: bool = False,
    isolation_level: str | None = None,
    read_only: bool = False,
    deferrable: bool = False,
    idempotent: bool = False,
    max_tries: int = 5,
    identify: Callable[[M], object] | None = None,
) -> None:
    """Handle each message in a unit of work of its own, until there are no more or `stop` is set.

    For each message, `handle(message, session)` is called in a transaction; it is committed,
    then `ack(message)` is called. The session's connection is given back after every message. ::

        def handle(message, session):
            session.add(Note(**json.loads(message.body)))

        consume(queue, handle, settings, ack=lambda message: message.ack(), stop_on_sigterm=True)

    **An error of** `handle` or of its commit is rolled back and logged with the message's
    identity, never with its content (an SQL error shows no parameters; what the database's own
    text quotes stays), and given to `on_error(message, error)`, which rejects the
    message, or stores it away; the loop goes on. Without `on_error` the error is raised and
    the message not acknowledged. So is an error of `ack`, `on_error` or `messages`. A database
    that refuses the login or is not there any more is not the message's fault: then `on_error` is
    not called, the message is not acknowledged, and the loop ends with `DatabaseUnavailable`.

    **A message is tried again,** `max_tries` times in all, when the database went away under it or
    its server is read-only (after a wait for the database, however long that lasts), when no
    connection came free in time, and after a serialization failure, a deadlock or a row that
    another one changed, also where `handle` has raised an error of its own because of that, or has
    swallowed it; as often as it takes, with pauses, when the server can store nothing, as with a
    full disk; but not if it may have stored something (a commit by hand, AUTOCOMMIT, a unit of
    work of its own), unless `idempotent` or `read_only` says that this does no harm. So everything
    but the database that `handle` touches has to bear repetition, and so has what its own threads
    store. When the
    connection was lost during COMMIT, the work may be stored: `CommitUnknown` is an error like
    others, unless `idempotent` or `read_only` says that another try does no harm.

    **A stop** takes effect after the message in hand; within a second while it waits for a
    message or for the database. A message for which the database did not come back before the
    stop is logged and not acknowledged, so that the broker delivers it again. KeyboardInterrupt,
    SystemExit and their like are rolled back and propagate at once; the message is not
    acknowledged.

    :param messages: a queue with ``get(timeout=)`` that raises `queue.Empty`, or an iterable,
        which may yield None where it has nothing yet. If a stop is given, the iterable's
        ``next()`` runs in a second thread, and only when a message is wanted; if it
        is blocked at the stop and delivers a message after it, that message is neither
        handled nor acknowledged.
    :param handle: does the work of a message in the session; it does not commit.
    :param settings: the app's settings, as Pyramid has them (ini strings).
    :param ack: called with each message that is handled, after the commit.
    :param on_error: called with each message that is given up, and its error; see above.
    :param name: the pool of `settings`, if `session_factory` takes more than one.
    :param session_factory: called once, with `settings` (and `name`, unless it is the default).
    :param stop: set by another thread to end the loop.
    :param stop_on_sigterm: let SIGTERM end the loop; in the main thread only.
    :param isolation_level: of each transaction, as are `read_only` and `deferrable`; as
        `unit_of_work` has them.
    :param idempotent: a message may be handled again even if its work may be stored.
    :param max_tries: how often a message is tried in all; at least 1.
    :param identify: returns what names a message in the log; by default its ``message_id``,
        ``id``, ``properties["message_id"]``, ``delivery_tag`` or ``["id"]``, or its number.
    :raises TypeError: an argument that cannot be called, is no source of messages or no event.
    :raises ValueError: `max_tries` below 1, a mode that is unknown or that the database does not
        have, or `stop_on_sigterm` outside the main thread.
    :raises SettingsError: a setting is unknown or wrong.
    :raises DatabaseUnavailable: the database refuses the login, or there is none of its name.
    """
    _check_callable(handle=handle, session_factory=session_factory)
    _check_callable(optional=True, ack=ack, on_error=on_error, identify=identify)
    _check_stop(stop)
    _check_max_tries(max_tries)
    modes = TransactionModes(isolation_level, read_only, deferrable)
    take_role("worker")
    session = session_factory(settings) if name == "default" else session_factory(settings, name)
    _check_modes(modes, session)
    stopper = Stop(stop)
    own_modes = None if modes.are_the_pools else modes
    attempts = Attempts(handle, session, own_modes, stopper, max_tries, idempotent or read_only)
    with contextlib.ExitStack() as stack:
        if stop_on_sigterm:
            stack.enter_context(stop_signal(stopper))
        _check_at_start(session, stopper)
        can_stop = stop_on_sigterm or stop is not None
        source = messages_of(messages, stopper if can_stop else None)
        for number, message in enumerate(stack.enter_context(contextlib.closing(source)), 1):
            named = MessageName(message, number, identify)
            if _settle(attempts, message, named, on_error) and ack is not None:
                _acknowledge(ack, message, named)


def _check_at_start(session: Session, stopper: Stop) -> None:
    # A session of the caller's own may have no engine, or one that is not ours.
    made = find_engine(session.bind)
    if made is not None:
        check_at_start(made, stopper.wait)


def _check_modes(modes: TransactionModes, session: Session) -> None:
    if session.bind is not None:
        # Here, because each message of the queue would be rejected for it.
        modes.check(session.bind.dialect.name, twophase=session.twophase)


def _check_callable(*, optional: bool = False, **arguments: object) -> None:
    for name, value in arguments.items():
        if not (callable(value) or (optional and value is None)):
            raise TypeError(f"{name} is {type(value).__name__}; it has to be callable.")


def _check_stop(stop: object) -> None:
    if stop is not None and not isinstance(stop, Event):
        raise TypeError(
            f"stop is {type(stop).__name__}; it has to be like threading.Event, with is_set()"
            " and wait(timeout)."
        )


def _check_max_tries(max_tries: object) -> None:
    if not isinstance(max_tries, int) or isinstance(max_tries, bool):
        raise TypeError(f"max_tries is {max_tries!r}; it has to be a whole number.")
    if max_tries < 1:
        raise ValueError(f"max_tries is {max_tries}; it has to be at least 1.")


def _settle(
    attempts: Attempts[M],
    message: M,
    named: MessageName[M],
    on_error: Callable[[M, Exception], object] | None,
) -> bool:
    """Handle a message or hand it on; return whether it was handled."""
    try:
        # A stop does not wait as long as a caller may for a connection.
        with label_of(named), stoppable(attempts.stop.is_set):
            return attempts.run(message, named)
    except Exception as error:
        _hide_parameters(error)
        # A password that was changed would have every message of the queue rejected.
        if refusal := attempts.refusal(error):
            said = str(refusal).partition("\n")[0]
            log.error("consume ends: %s; %s is not acknowledged and will come again.", said, named)
            raise refusal  # noqa: B904 (it is the error itself, or its cause)
        log.exception("%s could not be handled", named)
        if on_error is None:
            raise
        on_error(message, error)
        return False


def _acknowledge(ack: Callable[[M], object], message: M, named: MessageName[M]) -> None:
    try:
        ack(message)
    except Exception as error:
        _hide_parameters(error)
        log.exception("%s is handled, but could not be acknowledged: it may come again", named)
        raise


def _hide_parameters(error: BaseException) -> None:
    # SQLAlchemy's errors print the statement's parameters: the message's content, in the log.
    for each in error_chain(error):
        if isinstance(each, StatementError):
            each.hide_parameters = True
