"""A loop of its own over messages, with one session on the process's engine."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

log = logging.getLogger(__name__)

READ_ONLY = text("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE")


@contextmanager
def read_only_transaction(session: Session) -> Iterator[None]:
    """Look at a message in a transaction of its own; its failure is logged."""
    try:
        session.execute(READ_ONLY)
        yield
    except (KeyboardInterrupt, SystemExit):
        session.rollback()
        raise
    except Exception as error:
        log.warning("a message failed", exc_info=error)
        session.rollback()
    else:
        session.commit()
    finally:
        session.close()


def process_work_queue(
    settings: dict[str, Any],
    queue: Iterable[Any],
    session_factory: Callable[[dict[str, Any]], Session],
    handle: Callable[[Any, Session], object],
) -> None:
    """Handle the messages, each in a transaction, until there are no more."""
    session = session_factory(settings)
    for message in queue:
        with read_only_transaction(session):
            handle(message, session)
