"""The errors of pyramid_dbpool.

Each one is a `PoolError` and also the SQLAlchemy error that it refines, so
handlers that an application already has go on working.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sqlalchemy import exc as sa_exc

__all__ = [
    "ChangesDiscarded",
    "CommitUnknown",
    "DatabaseUnavailable",
    "ForkedConnectionError",
    "PoolError",
    "PoolLineFull",
    "PoolTimeout",
    "RequestOver",
    "SessionInUse",
    "SettingsError",
    "TransactionFailed",
]


class PoolError(Exception):
    """The root of every error that pyramid_dbpool raises."""


class SettingsError(PoolError, ValueError):
    """A setting is wrong; the message cites its ini key, its value and the remedy."""


class PoolTimeout(PoolError, sa_exc.TimeoutError):
    """No connection came free in time: `pool_timeout`, or an earlier deadline of the caller.

    Its text has the pool's numbers, the longest holders, and the settings to look at. Nothing of
    the caller's has reached the database.

    :ivar pool_name: the pool; None for a `ManagedPool` without a name.
    :ivar fields: what the text says, for a log with fields: `seconds` that the caller has waited,
        connections `in_use`, others `waiting`, and those who wait and hold one
        (`waiting_holders`); who holds most (`holder`), `holder_connections`, and for how long at
        the longest (`holder_seconds`).
    :ivar retry_after: after how many seconds another attempt may succeed, for the ``Retry-After``
        of an exception view of your own (``request.response.retry_after = error.retry_after``);
        None: say none, because a part of the request may be stored.
    :ivar paused: whether the pool is paused (`ManagedPool.pause`).
    """

    pool_name: str | None = None
    fields: Mapping[str, str | float] = MappingProxyType({})
    retry_after: int | None = 1
    paused: bool = False


class PoolLineFull(PoolTimeout):
    """The line for a connection is as long as `dbpool.max_waiting` allows: refused at once."""


class DatabaseUnavailable(PoolError, sa_exc.OperationalError):
    """No connection can be opened: the server is away, or it refuses the login.

    Or the app's own code fails, where that opens connections or says how. Nothing of the caller's
    has reached the database then.

    In a request also where nobody tries it again: its connection was lost, or the server takes no
    writes, because it is read-only or full. Its text says whether a part of it is stored.

    :ivar orig: the driver's error.
    :ivar pool_name: the pool; None for a `ManagedPool` without a name.
    :ivar fields: `seconds`, for how long openings have failed.
    :ivar retry_after: as that of `PoolTimeout`; None also where only a person can help.
    """

    pool_name: str | None = None
    fields: Mapping[str, str | float] = MappingProxyType({})
    retry_after: int | None = 1

    @classmethod
    def saying(
        cls,
        text: str,
        cause: BaseException,
        pool_name: str | None = None,
        *,
        connection_invalidated: bool = False,
    ) -> DatabaseUnavailable:
        """Make one whose whole text is `text`.

        :param connection_invalidated: whether there was a connection, which is lost.
        """
        made = cls(None, None, cause, connection_invalidated=connection_invalidated)
        made.args = (text,)
        # SQLAlchemy's link would be a second line, about operational errors in general.
        made.code = ""
        made.pool_name = pool_name
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        # SQLAlchemy's own forgets the text: what Celery and multiprocessing hand on would not
        # say what is wrong.
        arguments = super().__reduce__()[1]
        return type(self), (*arguments,), {**vars(self), "args": self.args}


class CommitUnknown(PoolError, sa_exc.OperationalError):
    """The connection was lost during COMMIT: the work may or may not be stored.

    :param said: what of the driver's error may be shown: no secret.
    :ivar orig: the driver's error.
    """

    def __init__(self, orig: BaseException | None, said: str = "") -> None:
        super().__init__(None, None, orig or self, connection_invalidated=True)
        self.args = (
            "The connection was lost while COMMIT was on its way: the work may or may not be"
            f" stored. Look before you do it again. ({said or type(orig).__name__})",
        )
        self._said = said
        # SQLAlchemy's link explains operational errors in general.
        self.code = ""

    def __reduce__(self) -> tuple[type, tuple[BaseException | None, str]]:
        return type(self), (self.orig, self._said)


class TransactionFailed(PoolError, sa_exc.InvalidRequestError):
    """COMMIT was refused because the server has already given the transaction up.

    A statement had failed and its error was swallowed; nothing is stored. What may fail belongs
    inside `session.begin_nested()`.
    """


class ChangesDiscarded(PoolError, sa_exc.InvalidRequestError):
    """COMMIT was refused because a part of the work is gone: its session was closed before.

    Whoever wrote it would be told that it is stored. Nothing is committed; leave the session open,
    or call `rollback()` for what shall be lost.
    """


class SessionInUse(PoolError, sa_exc.InvalidRequestError):
    """A session is in a transaction that belongs to somebody else, or that would be lost.

    Raised by `unit_of_work`, by `commit()` on a session that has joined `request.tm`, and by
    `request.release_db()`. Nothing has changed: the session can be used on.
    """


class RequestOver(PoolError, sa_exc.InvalidRequestError):
    """A request's session was used after the request had ended; `stream` is for bodies."""


class ForkedConnectionError(PoolError, sa_exc.InvalidRequestError, sa_exc.DontWrapMixin):
    """A connection was used in a process other than the one that opened it.

    Close the session in the child; its next use takes a connection of the child's own.
    """
