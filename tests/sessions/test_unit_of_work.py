"""unit_of_work: commit on success, roll back on error, close in any case."""

import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import transaction
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from pyramid_dbpool import (
    CommitUnknown,
    SessionInUse,
    TransactionFailed,
    get_engine,
    session_factory,
    unit_of_work,
)
from pyramid_dbpool.engines.stored import current_outcome
from pyramid_dbpool.sessions.closing import close_session
from tests.sessions.work import DIES_AT_COMMIT, Broken, terminate
from tests.support.webapp import Row


def test_success_commits_and_closes(settings: dict[str, Any], count: Callable[[], int]) -> None:
    """Given settings or a session; the session can go on to the next unit."""
    with unit_of_work(settings) as session:
        session.add(Row())
    session = session_factory(settings)
    for _ in range(2):
        with unit_of_work(session) as same:
            assert same is session
            session.add(Row())
        assert not session.in_transaction()
    assert count() == 3


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_error_rolls_back_closes_and_is_raised(
    settings: dict[str, Any], count: Callable[[], int], error: type[BaseException]
) -> None:
    """Whatever kind of error it is."""
    with pytest.raises(error), unit_of_work(settings) as session:
        session.add(Row())
        session.flush()
        raise error
    assert count() == 0


def test_a_unit_that_ends_in_another_context_gives_its_connection_back(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """As in a generator that another thread ends; and what it raises is what the body did."""
    unit = unit_of_work(settings)
    session = contextvars.copy_context().run(unit.__enter__)
    session.add(Row())
    session.flush()
    unit.__exit__(Broken, Broken(), None)
    assert not session.in_transaction()
    assert count() == 0


def test_a_unit_that_is_killed_at_its_beginning_observes_nothing_more(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its thread does later would be taken for a part of it."""

    def killed(_what: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pyramid_dbpool.sessions.unit_of_work.caller_label", killed)
    with pytest.raises(KeyboardInterrupt), unit_of_work(settings):
        pytest.fail("it has begun")
    assert current_outcome() is None


def test_a_scoped_session_is_accepted(settings: dict[str, Any], count: Callable[[], int]) -> None:
    """The thread's session is used."""
    scoped = scoped_session(sessionmaker(get_engine(settings)))
    with unit_of_work(scoped):
        scoped.add(Row())
    assert count() == 1


def test_sessions_of_an_apps_own_leave_nothing_on_their_class(settings: dict[str, Any]) -> None:
    """A worker that makes one for each unit would have each begin slower than the one before."""

    class Own(Session):
        pass

    def listeners() -> int:
        return len(list(Own(get_engine(settings)).dispatch.after_begin))

    with unit_of_work(Own(get_engine(settings))):
        before = listeners()
    with unit_of_work(Own(get_engine(settings))):
        assert listeners() == before


def test_it_decorates_a_function(settings: dict[str, Any], count: Callable[[], int]) -> None:
    """Each call is a unit of its own; one inside of another, too."""
    scoped = scoped_session(sessionmaker(get_engine(settings)))

    @unit_of_work(scoped)
    def work(times: int) -> int:
        scoped.add(Row())
        return times

    assert [work(1), work(2)] == [1, 2]
    assert count() == 2


@pytest.mark.parametrize("inside", [True, False])
def test_one_is_entered_once(
    settings: dict[str, Any], count: Callable[[], int], inside: bool
) -> None:
    """The session of the outer one would be dropped with what it has written, and success said."""
    unit = unit_of_work(settings)
    with pytest.raises(RuntimeError, match="entered once"), unit as session:
        session.add(Row())
        if inside:
            unit.__enter__()
        else:
            session.flush()
            unit.__exit__(None, None, None)
            unit.__enter__()
    assert count() == (0 if inside else 1)


@pytest.mark.parametrize("how", ["next", "close"])
def test_its_generator_may_end_in_another_context(settings: dict[str, Any], how: str) -> None:
    """As that of a generator which a server iterates in one thread, and closes in another."""

    def rows() -> Iterator[str]:
        with unit_of_work(settings) as session:
            session.execute(text("SELECT 1"))
            yield "row"

    body: Any = rows()
    contextvars.copy_context().run(next, body)
    assert get_engine(settings).pool.checkedout() == 1  # type: ignore[attr-defined]
    end = body.close if how == "close" else functools.partial(next, body, None)
    contextvars.copy_context().run(end)
    assert get_engine(settings).pool.checkedout() == 0  # type: ignore[attr-defined]


def test_a_session_in_a_transaction_is_refused(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """Somebody else's work is neither committed nor rolled back."""
    session = session_factory(settings)
    session.add(Row())
    with pytest.raises(SessionInUse), unit_of_work(session):
        pytest.fail("not reached")
    assert len(session.new) == 1
    session.commit()
    session.close()
    assert count() == 1


def test_what_is_no_session_is_refused_by_name() -> None:
    """A sessionmaker, a path, nothing."""
    for wrong in (sessionmaker(), "development.ini", None):
        with pytest.raises(TypeError, match=type(wrong).__name__), unit_of_work(wrong):  # type: ignore[arg-type]
            pytest.fail("not reached")


def test_a_failing_first_statement_leaves_the_session_usable(pg_settings: dict[str, Any]) -> None:
    """The backend is gone when SET TRANSACTION is sent; the next unit works."""
    # With liveness on, the dead connection would not be handed out.
    pg_settings["dbpool.liveness"] = "false"
    session = session_factory(pg_settings)
    with unit_of_work(session, read_only=True):
        pass
    terminate(pg_settings)
    with pytest.raises(DBAPIError), unit_of_work(session, read_only=True):
        pytest.fail("not reached")
    with unit_of_work(session, read_only=True):
        session.execute(text("SELECT 1"))


def test_a_swallowed_error_is_not_committed_in_silence(pg_settings: dict[str, Any]) -> None:
    """The unit raises instead."""
    with pytest.raises(TransactionFailed), unit_of_work(pg_settings) as session:
        session.add(Row())
        session.flush()
        with pytest.raises(DBAPIError):
            session.execute(text("SELECT 1 / 0"))


def test_a_connection_that_is_lost_in_commit_is_an_unknown_outcome(
    pg_settings: dict[str, Any],
) -> None:
    """The backend ends while it commits: nobody knows, and the error says so."""
    with unit_of_work(pg_settings) as session:
        session.execute(text(DIES_AT_COMMIT))
    with (
        pytest.raises(CommitUnknown, match="may or may not") as raised,
        unit_of_work(pg_settings) as session,
    ):
        session.add(Row())
    assert raised.value.orig is not None


@pytest.mark.parametrize("managed", [False, True])
def test_a_connection_that_is_lost_before_commit_is_no_unknown_outcome(
    pg_settings: dict[str, Any], managed: bool
) -> None:
    """The flush fails, and nothing is stored: that is known."""
    manager = transaction.TransactionManager() if managed else None
    with (
        pytest.raises(DBAPIError) as raised,
        unit_of_work(pg_settings, transaction_manager=manager) as session,
    ):
        session.execute(text("SELECT 1"))
        terminate(pg_settings)
        session.add(Row())
    assert not isinstance(raised.value, CommitUnknown)


def test_a_connection_that_is_lost_just_before_commit_is_no_unknown_outcome(
    pg_settings: dict[str, Any],
) -> None:
    """COMMIT is not sent: the error is that of a lost connection, and the pool closes it."""
    with pytest.raises(DBAPIError) as raised, unit_of_work(pg_settings) as session:
        session.execute(text("SELECT 1"))
        terminate(pg_settings)
    assert not isinstance(raised.value, CommitUnknown)
    assert raised.value.connection_invalidated and raised.value.statement == "COMMIT"
    pool: Any = get_engine(pg_settings).pool
    assert pool.snapshot().closed["invalidated"] == 1


def test_a_session_that_cannot_be_closed_gives_its_connection_up(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It is dropped, and said so."""
    session = session_factory(settings)
    session.execute(text("SELECT 1"))
    engine = get_engine(settings)
    event.listen(engine, "rollback", _fail)
    close_session(session)
    event.remove(engine, "rollback", _fail)
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert "rollback of a session failed" in caplog.text


def test_the_error_of_a_unit_is_raised_also_where_its_rollback_fails(
    settings: dict[str, Any],
) -> None:
    """Who calls has to see what went wrong first, not the clean-up."""
    engine = get_engine(settings)
    event.listen(engine, "rollback", _fail)
    with pytest.raises(KeyError), unit_of_work(settings) as session:
        session.execute(text("SELECT 1"))
        raise KeyError
    event.remove(engine, "rollback", _fail)
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def _fail(_connection: object) -> None:
    raise Broken
