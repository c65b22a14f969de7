"""The sessionmaker of a pool: requests, workers and scripts have their sessions from it."""

import types
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from ..drivers.transactions import is_lost
from ..engines.registry import ProcessEngine
from .closing import log_failed_rollback
from .uncommitted import note_close, note_rollback, taken_by

__all__ = ["SessionMaker", "make_lasting", "new_session_maker", "session_maker"]

# An attribute of a class of sessions: the one whose sessions last.
_LASTING = "_pyramid_dbpool_lasting"

SessionMaker: TypeAlias = sessionmaker[Session]


class _Lasting(Session):
    """A session that a lost connection does not keep from its end.

    A loop that rolls back and goes on would end with the connection. What an end throws away
    although somebody counts on it is noted.
    """

    def rollback(self, *args: Any, **kwargs: Any) -> None:
        """Roll back; the server has done so itself where the connection is lost."""
        if not self.in_transaction():
            super().rollback(*args, **kwargs)
            return
        note_rollback(self)
        self._end(partial(super().rollback, *args, **kwargs))

    # An app's own class may take arguments.
    def close(self, *args: Any, **kwargs: Any) -> None:
        """Close, whatever state the connection is in."""
        if not self.in_transaction():
            super().close(*args, **kwargs)
            return
        note_close(self)
        self._end(partial(super().close, *args, **kwargs))

    def reset(self) -> None:
        """Close, so that the session can be used again."""
        note_close(self)
        self._end(super().reset)

    def invalidate(self) -> None:
        """Close, and have the connections closed too."""
        note_close(self)
        super().invalidate()

    def _end(self, end: Callable[[], None]) -> None:
        begun, how, taken = self.get_transaction(), end, taken_by(self)
        # A time for each connection that is lost, at the most: an error marks it.
        while True:
            try:
                how()
            except Exception as error:
                # An app may raise its driver's errors in the place of SQLAlchemy's.
                lost = any(sent.lost for sent in taken.values())
                if begun is None or not (
                    lost or (isinstance(error, DBAPIError) and is_lost(error))
                ):
                    raise
                log_failed_rollback(error)
                # SQLAlchemy has stopped there: the rest would stay checked out.
                if self.in_transaction():
                    how = end
                elif begun.is_active:
                    how = begun.close
                else:
                    return
            else:
                return


def session_maker(made: ProcessEngine) -> SessionMaker:
    """Return what makes the sessions on an engine: that of the app which was last included.

    So what an app hangs on its ``registry["dbsession_factory"]`` holds for its workers too.
    """
    if made.maker is None:
        made.maker = new_session_maker(made, {})
    return made.maker


def new_session_maker(made: ProcessEngine, info: dict[str, Any]) -> SessionMaker:
    """Make another sessionmaker on an engine; listeners to it hear its own sessions only.

    :param info: what its sessions have in their `info`.
    """
    base = made.settings.options.session_class
    return sessionmaker(made.engine, class_=_lasting_class(base), info=info)


def make_lasting(session: Session) -> None:
    """Have a session of the app's own class end as ours do, until it has that class again.

    What a handler has added and not flushed would be gone at its close(), without a trace.
    """
    if not isinstance(session, _Lasting):
        session.__class__ = _lasting_class(type(session))


def _lasting_class(base: type[Session]) -> type[Session]:
    # On the class, which it refers to: a table of them would keep every class for ever.
    made: type[Session] | None = base.__dict__.get(_LASTING)
    if made is None:
        made = types.new_class(base.__name__, (_Lasting, base))
        setattr(base, _LASTING, made)
    return made
