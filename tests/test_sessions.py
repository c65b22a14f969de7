"""session_factory and unit_of_work, on real servers."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import transaction
from sqlalchemy import create_engine, event, insert, text
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidRequestError
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from pyramid_dbpool import (
    CommitUnknown,
    SessionInUse,
    TransactionFailed,
    dispose_engine,
    get_engine,
    session_factory,
    unit_of_work,
)
from pyramid_dbpool.sessions import close_session
from tests.webapp import Row, database


@pytest.fixture
def count(any_url: str) -> Iterator[Callable[[], int]]:
    """What counts the rows of the database."""
    with database(any_url) as counter:
        yield counter


@pytest.fixture
def settings(any_url: str, count: Callable[[], int]) -> Iterator[dict[str, Any]]:
    """Settings for every database; at the end nothing is checked out."""
    made = {"sqlalchemy.url": any_url}
    yield made
    pool = get_engine(made).pool
    assert pool.checkedout() == 0  # type: ignore[attr-defined]
    dispose_engine(made)


@pytest.fixture
def pg_settings(postgres_url: str) -> Iterator[dict[str, Any]]:
    """Settings for PostgreSQL; at the end nothing is checked out."""
    made = {"sqlalchemy.url": postgres_url}
    with database(postgres_url):
        yield made
    pool = get_engine(made).pool
    assert pool.checkedout() == 0  # type: ignore[attr-defined]
    dispose_engine(made)


class Broken(Exception):
    """What the tests' work raises."""


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


def test_a_session_is_plain(settings: dict[str, Any]) -> None:
    """A Session, not a maker; joined to no transaction manager."""
    session = session_factory(settings)
    assert type(session) is Session
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


class TestUnitOfWork:
    """unit_of_work."""

    def test_success_commits_and_closes(
        self, settings: dict[str, Any], count: Callable[[], int]
    ) -> None:
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
        self, settings: dict[str, Any], count: Callable[[], int], error: type[BaseException]
    ) -> None:
        """Whatever kind of error it is."""
        with pytest.raises(error), unit_of_work(settings) as session:
            session.add(Row())
            session.flush()
            raise error
        assert count() == 0

    def test_a_scoped_session_is_accepted(
        self, settings: dict[str, Any], count: Callable[[], int]
    ) -> None:
        """The thread's session is used."""
        scoped = scoped_session(sessionmaker(get_engine(settings)))
        with unit_of_work(scoped):
            scoped.add(Row())
        assert count() == 1

    def test_a_session_in_a_transaction_is_refused(
        self, settings: dict[str, Any], count: Callable[[], int]
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

    def test_modes_hold_for_one_transaction(self, settings: dict[str, Any]) -> None:
        """A read-only unit refuses writes, the next one on the same connection does not."""
        with pytest.raises(DBAPIError), unit_of_work(settings, read_only=True) as session:
            session.add(Row())
            session.flush()
        with unit_of_work(settings, read_only=True, isolation_level="serializable"):
            pass
        with unit_of_work(settings) as session:
            session.add(Row())

    def test_a_read_only_unit_refuses_what_commit_would_flush(
        self, settings: dict[str, Any], count: Callable[[], int]
    ) -> None:
        """Also where nothing was flushed before the end of the unit."""
        with pytest.raises(DBAPIError), unit_of_work(settings, read_only=True) as session:
            session.add(Row())
        assert count() == 0

    def test_a_read_only_unit_leaves_a_read_only_pool_read_only(self, any_url: str) -> None:
        """What it found is what it puts back."""
        settings = {"sqlalchemy.url": any_url, "dbpool.read_only": "true"}
        with database(any_url):
            with unit_of_work(settings, read_only=True) as session:
                session.execute(text("SELECT 1"))
            with pytest.raises(DBAPIError), unit_of_work(settings) as session:
                session.add(Row())
        dispose_engine(settings)

    def test_a_read_only_pool_has_no_two_phase_transactions(self, postgres_url: str) -> None:
        """They would not be read-only."""
        settings = {"sqlalchemy.url": postgres_url, "dbpool.read_only": "true"}
        with (
            pytest.raises(InvalidRequestError, match="two-phase"),
            get_engine(settings).connect() as connection,
        ):
            connection.begin_twophase()
        dispose_engine(settings)

    def test_a_manager_with_hooks_or_doom_is_refused(self, settings: dict[str, Any]) -> None:
        """To begin it again would drop them."""
        hooked, doomed = transaction.TransactionManager(), transaction.TransactionManager()
        hooked.get().addAfterCommitHook(lambda ok: None)
        doomed.get().doom()
        for manager in (hooked, doomed):
            with (
                pytest.raises(SessionInUse),
                unit_of_work(settings, transaction_manager=manager),
            ):
                pytest.fail("not reached")
            manager.abort()

    def test_modes_are_refused_in_autocommit(self, pg_settings: dict[str, Any]) -> None:
        """There is no transaction that could have them."""
        settings = {**pg_settings, "sqlalchemy.isolation_level": "AUTOCOMMIT"}
        with pytest.raises(ValueError, match="AUTOCOMMIT"), unit_of_work(settings, read_only=True):
            pytest.fail("not reached")
        dispose_engine(settings)

    def test_what_is_no_session_is_refused_by_name(self) -> None:
        """A sessionmaker, a path, nothing."""
        for wrong in (sessionmaker(), "development.ini", None):
            with pytest.raises(TypeError, match=type(wrong).__name__), unit_of_work(wrong):  # type: ignore[arg-type]
                pytest.fail("not reached")

    def test_isolation_read_only_and_deferrable_reach_postgresql(
        self, pg_settings: dict[str, Any]
    ) -> None:
        """And are gone with the transaction."""

        def modes(session: Session) -> list[str]:
            names = ("isolation", "read_only", "deferrable")
            return [str(session.scalar(text(f"SHOW transaction_{name}"))) for name in names]

        with unit_of_work(
            pg_settings, isolation_level="SERIALIZABLE", read_only=True, deferrable=True
        ) as session:
            assert modes(session) == ["serializable", "on", "on"]
        with unit_of_work(pg_settings) as session:
            assert modes(session) == ["read committed", "off", "off"]

    def test_a_mode_that_does_not_exist_is_refused(
        self, settings: dict[str, Any], sqlite_url: str
    ) -> None:
        """Before anything is sent, or with the database's name."""
        with (
            pytest.raises(ValueError, match="SERIALIZABLE"),
            unit_of_work(settings, isolation_level="CHAOS"),
        ):
            pytest.fail("not reached")
        lite = {"sqlalchemy.url": sqlite_url}
        with pytest.raises(ValueError, match="SQLite"), unit_of_work(lite, deferrable=True):
            pytest.fail("not reached")
        dispose_engine(lite)

    def test_a_failing_first_statement_leaves_the_session_usable(
        self, pg_settings: dict[str, Any]
    ) -> None:
        """The backend is gone when SET TRANSACTION is sent; the next unit works."""
        # With liveness on, the dead connection would not be handed out.
        pg_settings["dbpool.liveness"] = "false"
        session = session_factory(pg_settings)
        with unit_of_work(session, read_only=True):
            pass
        _terminate(pg_settings)
        with pytest.raises(DBAPIError), unit_of_work(session, read_only=True):
            pytest.fail("not reached")
        with unit_of_work(session, read_only=True):
            session.execute(text("SELECT 1"))

    def test_a_swallowed_error_is_not_committed_in_silence(
        self, pg_settings: dict[str, Any]
    ) -> None:
        """The unit raises instead."""
        with pytest.raises(TransactionFailed), unit_of_work(pg_settings) as session:
            session.add(Row())
            session.flush()
            with pytest.raises(DBAPIError):
                session.execute(text("SELECT 1 / 0"))

    def test_a_connection_that_is_lost_in_commit_is_an_unknown_outcome(
        self, pg_settings: dict[str, Any]
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

    @pytest.mark.parametrize("explicit", [False, True])
    def test_a_transaction_manager_commits_the_unit(
        self, settings: dict[str, Any], count: Callable[[], int], explicit: bool
    ) -> None:
        """The session joins, the manager commits or aborts, and is free afterwards."""
        manager = transaction.TransactionManager(explicit=explicit)
        for _ in range(2):
            with unit_of_work(settings, transaction_manager=manager) as session:
                session.connection().execute(insert(Row))
        with pytest.raises(Broken), unit_of_work(settings, transaction_manager=manager) as session:
            session.add(Row())
            session.flush()
            raise Broken
        with unit_of_work(settings, transaction_manager=manager) as session:
            session.add(Row())
        assert count() == 3

    def test_a_manager_is_free_after_a_failed_commit(self, pg_settings: dict[str, Any]) -> None:
        """An explicit one would refuse to begin anything else."""
        manager = transaction.TransactionManager(explicit=True)
        with unit_of_work(pg_settings) as session:
            session.execute(text("CREATE TABLE o (i int UNIQUE DEFERRABLE INITIALLY DEFERRED)"))
        for _ in range(2):
            with (
                pytest.raises(IntegrityError),
                unit_of_work(pg_settings, transaction_manager=manager) as session,
            ):
                session.execute(text("INSERT INTO o VALUES (1), (1)"))

    @pytest.mark.parametrize("managed", [False, True])
    def test_a_connection_that_is_lost_before_commit_is_no_unknown_outcome(
        self, pg_settings: dict[str, Any], managed: bool
    ) -> None:
        """The flush fails, and nothing is stored: that is known."""
        manager = transaction.TransactionManager() if managed else None
        with (
            pytest.raises(DBAPIError) as raised,
            unit_of_work(pg_settings, transaction_manager=manager) as session,
        ):
            session.execute(text("SELECT 1"))
            _terminate(pg_settings)
            session.add(Row())
        assert not isinstance(raised.value, CommitUnknown)

    def test_a_connection_that_is_lost_just_before_commit_is_no_unknown_outcome(
        self, pg_settings: dict[str, Any]
    ) -> None:
        """COMMIT is not sent: the error is that of a lost connection, and the pool closes it."""
        with pytest.raises(DBAPIError) as raised, unit_of_work(pg_settings) as session:
            session.execute(text("SELECT 1"))
            _terminate(pg_settings)
        assert not isinstance(raised.value, CommitUnknown)
        assert raised.value.connection_invalidated and raised.value.statement == "COMMIT"
        pool: Any = get_engine(pg_settings).pool
        assert pool.snapshot().closed["invalidated"] == 1

    def test_a_session_that_cannot_be_closed_gives_its_connection_up(
        self, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
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

    @pytest.mark.parametrize("explicit", [False, True])
    def test_a_manager_that_is_at_work_is_refused(
        self, settings: dict[str, Any], count: Callable[[], int], explicit: bool
    ) -> None:
        """What somebody else began on it is neither aborted nor committed."""
        manager = transaction.TransactionManager(explicit=explicit)
        outer = unit_of_work(settings, transaction_manager=manager)
        with outer as session:
            session.add(Row())
            with pytest.raises(SessionInUse), unit_of_work(settings, transaction_manager=manager):
                pytest.fail("not reached")
        assert count() == 1


DIES_AT_COMMIT = """
CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER dies AFTER INSERT ON rows DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION die();
"""


def _fail(_connection: object) -> None:
    raise Broken


def _terminate(settings: dict[str, Any]) -> None:
    """End every backend of the database."""
    engine = create_engine(settings["sqlalchemy.url"], poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
