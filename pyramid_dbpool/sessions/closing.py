"""The end of a session's transaction, whatever state its connection is in."""

import logging

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from ..drivers.driver_errors import driver_text

__all__ = ["close_session", "log_failed_rollback", "roll_back"]

log = logging.getLogger(__name__)


def close_session(session: Session) -> None:
    """Close `session` and give its connections back, whatever state they are in."""
    try:
        # A failure in close() would leave the connection checked out; after this,
        # close() has nothing more to roll back.
        if session.in_transaction():
            roll_back(session)
    finally:
        session.close()


def roll_back(session: Session) -> None:
    """Roll back, and give the connection back; the objects stay, and are loaded anew.

    SQLAlchemy lets go of the connection also where that fails, which is logged.
    """
    try:
        session.rollback()
    except Exception as error:
        log_failed_rollback(error)


def log_failed_rollback(error: Exception) -> None:
    """Say that a rollback has failed, which the server then does by itself."""
    # A connection that is gone has been told of already, by what failed before.
    gone = isinstance(error, DBAPIError) and error.connection_invalidated
    log.warning(
        "The rollback of a session failed; its connection is closed: %s",
        driver_text(error),
        exc_info=not gone,
    )
