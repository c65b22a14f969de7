"""The sessionmaker of a pool: requests, workers and scripts have their sessions from it."""

import types
from collections.abc import Callable
from typing import Any, TypeAlias

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from ..drivers.transactions import is_lost
from ..engines.registry import ProcessEngine
from .closing import log_failed_rollback
from .uncommitted import note_close, note_rollback

__all__ = ["SessionMaker", "new_session_maker", "session_maker"]

SessionMaker: TypeAlias = sessionmaker[Session]


class _Lasting(Session):
    """A session that a lost connection does not keep from its end.

    A loop that rolls back and goes on would end with the connection. What an end throws away
    although somebody counts on it is noted.
    """

    def rollback(self) -> None:
        """Roll back; the server has done so itself where the connection is lost."""
        note_rollback(self)
        self._end(super().rollback)

    def close(self) -> None:
        """Close, whatever state the connection is in."""
        note_close(self)
        self._end(super().close)

    def reset(self) -> None:
        """Close, so that the session can be used again."""
        note_close(self)
        self._end(super().reset)

    def invalidate(self) -> None:
        """Close, and have the connections closed too."""
        note_close(self)
        super().invalidate()

    def _end(self, end: Callable[[], None]) -> None:
        begun, how = self.get_transaction(), end
        # A time for each connection that is lost, at the most: an error marks it.
        while True:
            try:
                how()
            except DBAPIError as error:
                if begun is None or not is_lost(error):
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
    lasting = types.new_class(base.__name__, (_Lasting, base))
    return sessionmaker(made.engine, class_=lasting, info=info)
