"""Units whose session is closed or rolled back by what they run, and sessions that outlive it."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import transaction
from sqlalchemy import Connection, ExceptionContext, event, insert, text
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from pyramid_dbpool import ChangesDiscarded, get_engine, session_factory, unit_of_work
from tests.sessions.work import Broken, terminate
from tests.support.webapp import Row


def own_class(settings: dict[str, Any]) -> Any:
    """Make a session of the app's own class."""
    return type("Own", (Session,), {})(get_engine(settings))


def scoped(settings: dict[str, Any]) -> Any:
    """Make a registry of sessions, of a maker of the app's own."""
    return scoped_session(sessionmaker(get_engine(settings)))


SOURCES = pytest.mark.parametrize(
    "source", [lambda settings: settings, session_factory, own_class, scoped]
)


@SOURCES
@pytest.mark.parametrize("managed", [False, True])
def test_a_unit_that_closes_its_session_is_an_error(
    settings: dict[str, Any],
    count: Callable[[], int],
    source: Callable[[dict[str, Any]], Any],
    managed: bool,
) -> None:
    """Whoever runs it would believe that its work is stored."""
    manager = transaction.TransactionManager() if managed else None
    unit = unit_of_work(source(settings), transaction_manager=manager)
    with pytest.raises(ChangesDiscarded, match="test_a_unit_that_closes"), unit as session:
        session.connection().execute(insert(Row).values(id=1))
        session.close()
        session.add(Row(id=2))
    assert count() == 0


@SOURCES
def test_a_unit_that_rolls_back_is_warned_once(
    settings: dict[str, Any],
    count: Callable[[], int],
    source: Callable[[dict[str, Any]], Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is its right; the warning names where."""
    caplog.clear()
    with unit_of_work(source(settings)) as session:
        session.execute(insert(Row).values(id=1))
        session.rollback()
        session.add(Row(id=2))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "test_a_unit_that_rolls_back_is_warned_once" in record.getMessage()
    assert count() == 1


@SOURCES
def test_a_unit_that_commits_and_closes_by_itself_is_not_told_anything(
    settings: dict[str, Any],
    count: Callable[[], int],
    source: Callable[[dict[str, Any]], Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing is lost. What one unit has lost, the next one is not told."""
    caplog.clear()
    given = source(settings)
    with pytest.raises(Broken), unit_of_work(given) as session:
        session.execute(insert(Row).values(id=1))
        session.close()
        raise Broken
    with unit_of_work(given) as session:
        session.execute(insert(Row).values(id=1))
        session.commit()
        session.close()
        session.connection()
        session.close()
    assert count() == 1
    assert not caplog.records


def test_a_loop_of_ones_own_may_throw_away(
    settings: dict[str, Any], count: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody but its author has promised anything."""
    caplog.clear()
    session = session_factory(settings)
    for end in (session.rollback, session.close):
        session.execute(insert(Row).values(id=1))
        end()
    assert count() == 0
    assert not caplog.records


@pytest.mark.parametrize("end", ["rollback", "close", "reset"])
def test_a_loop_goes_on_when_its_connection_is_lost(
    pg_settings: dict[str, Any], end: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The handler fails for a reason of its own, and the rollback finds a dead connection."""
    session = session_factory(pg_settings)
    for attempt in range(3):
        try:
            session.execute(text("SELECT 1"))
            if attempt == 1:
                terminate(pg_settings)
            if attempt < 2:
                raise Broken
            session.commit()
        except Broken:
            getattr(session, end)()
        finally:
            session.close()
    assert get_engine(pg_settings).pool.checkedout() == 0  # type: ignore[attr-defined]
    assert "connection is closed" in caplog.text


def test_a_rollback_that_fails_for_another_reason_is_told(settings: dict[str, Any]) -> None:
    """Only the loss of the connection is a rollback by itself."""
    session = session_factory(settings)
    session.connection()

    def fail(_connection: Connection) -> None:
        raise Broken

    event.listen(get_engine(settings), "rollback", fail)
    with pytest.raises(Broken):
        session.rollback()
    session.close()


@SOURCES
@pytest.mark.parametrize("flush", [False, True])
def test_what_is_added_and_closed_is_an_error(
    settings: dict[str, Any],
    count: Callable[[], int],
    source: Callable[[dict[str, Any]], Any],
    flush: bool,
) -> None:
    """Also what was not flushed, and in a session of the app's own."""
    with pytest.raises(ChangesDiscarded), unit_of_work(source(settings)) as session:
        session.add(Row(id=1))
        if flush:
            session.flush()
        session.close()
    assert count() == 0


def test_a_session_of_the_apps_own_class_is_of_it_again_after_a_unit(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """What a unit needs of it is borrowed."""
    session = own_class(settings)
    kind = type(session)
    with unit_of_work(session):
        assert isinstance(session, kind)
    assert type(session) is kind


def test_a_loop_goes_on_under_a_listener_that_raises_the_drivers_error(
    pg_settings: dict[str, Any],
) -> None:
    """Its errors are none of SQLAlchemy's then."""

    def raise_drivers(context: ExceptionContext) -> None:
        raise context.original_exception

    event.listen(get_engine(pg_settings), "handle_error", raise_drivers)
    session = session_factory(pg_settings)
    for end in (session.rollback, session.close, session.reset):
        session.execute(text("SELECT 1"))
        terminate(pg_settings)
        end()
    assert session.scalar(text("SELECT 1")) == 1
    session.close()


def test_an_attribute_that_is_set_to_its_own_value_is_no_change(
    settings: dict[str, Any], count: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing would be sent for it."""
    with unit_of_work(settings) as session:
        session.add(Row(id=1))
    caplog.clear()
    with unit_of_work(settings) as session:
        row = session.get_one(Row, 1)
        row.id = 1
        session.close()
    assert not caplog.records
    with pytest.raises(ChangesDiscarded), unit_of_work(settings) as session:
        row = session.get_one(Row, 1)
        row.id = 2
        session.close()
    assert count() == 1
