"""session_factory: a plain session on the process's one engine."""

from typing import Any

import transaction
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from pyramid_dbpool import dispose_engine, get_engine, session_factory
from tests.support.webapp import Row


def test_a_session_works_again_after_close(settings: dict[str, Any]) -> None:
    """The session goes, the engine and its pool stay: one connection serves all rounds."""
    opened: list[object] = []
    event.listen(get_engine(settings), "connect", lambda dbapi, _: opened.append(dbapi))
    session = session_factory(settings)
    for _ in range(3):
        session.execute(text("SELECT 1"))
        session.commit()
        session.close()
    assert len(opened) == 1


def test_a_session_belongs_to_no_manager(settings: dict[str, Any]) -> None:
    """A Session, not a maker; joined to no transaction manager."""
    session = session_factory(settings)
    assert isinstance(session, Session)
    with transaction.manager:
        session.add(Row())
    assert len(session.new) == 1
    session.close()


def test_the_streamers_loop_runs_as_it_stands(pg_settings: dict[str, Any]) -> None:
    """SET TRANSACTION is the first statement of each transaction, after failures too."""
    session = session_factory(pg_settings)
    handled = []
    for message in (1, 0, 2):
        try:
            session.execute(
                text("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE")
            )
            assert session.scalar(text("SHOW transaction_isolation")) == "serializable"
            handled.append(session.scalar(text(f"SELECT 1 / {message} + {message}")))
        except DBAPIError:
            session.rollback()
        else:
            session.commit()
        finally:
            session.close()
    assert handled == [2, 2]


def test_the_class_of_sessions_is_a_setting(sqlite_url: str) -> None:
    """dbpool.session_class, by dotted name."""
    settings = {
        "sqlalchemy.url": sqlite_url,
        "dbpool.session_class": f"{__name__}.OwnSession",
    }
    assert isinstance(session_factory(settings), OwnSession)
    dispose_engine(settings)


class OwnSession(Session):
    """An app's own class."""
