"""How the transaction of a unit runs: isolation level, read-only, deferrable."""

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import transaction
from sqlalchemy import Engine, event, insert, select, text
from sqlalchemy.exc import DBAPIError, InvalidRequestError, PendingRollbackError
from sqlalchemy.orm import Session, sessionmaker
from zope.sqlalchemy import register

from pyramid_dbpool import dispose_engine, get_engine, session_factory, unit_of_work
from tests.sessions.work import Broken
from tests.support.webapp import Row, TwoPhaseSession, database


class Routed(Session):
    """A session that has one engine for what it maps, and another one for the rest."""

    def __init__(self, reader: Engine, writer: Engine) -> None:
        super().__init__()
        self.reader, self.writer = reader, writer

    def get_bind(self, mapper: Any = None, **_: Any) -> Engine:
        return self.reader if mapper is None else self.writer


def routed_by_class(reader: Engine, writer: Engine) -> Session:
    """Make a session whose class chooses."""
    return Routed(reader, writer)


def routed_by_binds(reader: Engine, writer: Engine) -> Session:
    """Make a session whose tables choose."""
    return Session(reader, binds={Row: writer})


def unbound(reader: Engine, writer: Engine) -> Session:
    """Make a session that has an engine for each class, and none for the rest."""
    return Session(binds={Row: writer})


def engines(settings: dict[str, Any]) -> tuple[Engine, Engine]:
    """Return two engines on the same database; an autouse fixture looks after both."""
    return get_engine(settings), get_engine({**settings, "sqlalchemy.pool_size": "2"})


def test_modes_hold_for_one_transaction(settings: dict[str, Any]) -> None:
    """A read-only unit refuses writes, the next one on the same connection does not."""
    with pytest.raises(DBAPIError), unit_of_work(settings, read_only=True) as session:
        session.add(Row())
        session.flush()
    with unit_of_work(settings, read_only=True, isolation_level="serializable"):
        pass
    with unit_of_work(settings) as session:
        session.add(Row())


def test_a_read_only_unit_refuses_what_commit_would_flush(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """Also where nothing was flushed before the end of the unit."""
    with pytest.raises(DBAPIError), unit_of_work(settings, read_only=True) as session:
        session.add(Row())
    assert count() == 0


def test_a_read_only_unit_leaves_a_read_only_pool_read_only(any_url: str) -> None:
    """What it found is what it puts back."""
    settings = {"sqlalchemy.url": any_url, "dbpool.read_only": "true"}
    with database(any_url):
        with unit_of_work(settings, read_only=True) as session:
            session.execute(text("SELECT 1"))
        with pytest.raises(DBAPIError), unit_of_work(settings) as session:
            session.add(Row())
    dispose_engine(settings)


def test_a_read_only_pool_has_no_two_phase_transactions(postgres_url: str) -> None:
    """They would not be read-only."""
    settings = {"sqlalchemy.url": postgres_url, "dbpool.read_only": "true"}
    with (
        pytest.raises(InvalidRequestError, match="two-phase"),
        get_engine(settings).connect() as connection,
    ):
        connection.begin_twophase()
    dispose_engine(settings)


def test_modes_are_refused_in_autocommit(pg_settings: dict[str, Any]) -> None:
    """There is no transaction that could have them."""
    settings = {**pg_settings, "sqlalchemy.isolation_level": "AUTOCOMMIT"}
    with pytest.raises(ValueError, match="AUTOCOMMIT"), unit_of_work(settings, read_only=True):
        pytest.fail("not reached")
    dispose_engine(settings)


def test_isolation_read_only_and_deferrable_reach_postgresql(pg_settings: dict[str, Any]) -> None:
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


def test_a_mode_that_does_not_exist_is_refused(settings: dict[str, Any], sqlite_url: str) -> None:
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


@pytest.mark.parametrize("routed", [routed_by_class, routed_by_binds, unbound])
def test_modes_hold_on_every_connection_that_the_unit_takes(
    settings: dict[str, Any],
    count: Callable[[], int],
    routed: Callable[[Engine, Engine], Session],
) -> None:
    """The session reads on one and writes on another; afterwards both have none."""
    session = routed(*engines(settings))
    with pytest.raises(DBAPIError), unit_of_work(session, read_only=True):
        if routed is not unbound:
            session.execute(text("SELECT 1"))
        session.add(Row())
    assert count() == 0
    with unit_of_work(session):
        if routed is not unbound:
            session.execute(text("SELECT 1"))
        session.add(Row())
    assert count() == 1


@pytest.mark.parametrize("routed", [routed_by_class, routed_by_binds])
def test_a_savepoint_has_the_modes_of_its_transaction(
    settings: dict[str, Any],
    count: Callable[[], int],
    routed: Callable[[Engine, Engine], Session],
) -> None:
    """SET TRANSACTION would be refused in one, and is said before, also for a new connection."""
    session, read = routed(*engines(settings)), []
    with pytest.raises(DBAPIError), unit_of_work(session, read_only=True):
        for _ in range(2):
            with session.begin_nested():
                read.append(session.scalars(select(Row)).all())
        session.add(Row())
    assert (len(read), count()) == (2, 0)


def test_modes_hold_after_a_commit_by_hand(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """What begins then is still in the unit."""
    with pytest.raises(DBAPIError), unit_of_work(settings, read_only=True) as session:
        for end in (session.commit, session.rollback, session.close):
            session.scalars(select(Row)).all()
            end()
        session.add(Row())
    assert count() == 0
    with unit_of_work(settings) as session:
        session.add(Row())
    assert count() == 1


def test_a_unit_of_many_commits_keeps_none_of_their_connections(sqlite_url: str) -> None:
    """A loop that commits by hand would fill the memory."""
    settings = {"sqlalchemy.url": sqlite_url}
    with unit_of_work(settings, read_only=True) as session:
        first = weakref.ref(session.connection())
        session.commit()
        session.connection()
        gc.collect()
        assert first() is None
    dispose_engine(settings)


def test_the_end_of_a_unit_leaves_the_others_alone(sqlite_url: str) -> None:
    """Its connection went back at a commit by hand, and another read-only unit has it now."""
    settings = {"sqlalchemy.url": sqlite_url}
    with database(sqlite_url) as count:
        with pytest.raises(DBAPIError), ExitStack() as others:
            unit = ExitStack()
            session = unit.enter_context(unit_of_work(settings, read_only=True))
            session.commit()
            other = others.enter_context(unit_of_work(settings, read_only=True))
            unit.close()
            other.add(Row())
        assert count() == 0
    dispose_engine(settings)


@pytest.mark.parametrize("managed", [False, True])
def test_what_a_hook_writes_before_commit_is_refused_in_a_read_only_unit(
    settings: dict[str, Any], count: Callable[[], int], managed: bool
) -> None:
    """The unit lasts until its COMMIT, and takes connections until then."""
    manager = transaction.TransactionManager() if managed else None
    session = Routed(*engines(settings))
    event.listen(session, "before_commit", lambda session: session.execute(insert(Row)))
    with (
        pytest.raises(DBAPIError),
        unit_of_work(session, read_only=True, transaction_manager=manager),
    ):
        session.execute(text("SELECT 1"))
    assert count() == 0


def test_modes_come_before_what_an_app_does_as_a_transaction_begins(
    pg_settings: dict[str, Any],
) -> None:
    """SET TRANSACTION has to be the first statement."""
    maker = sessionmaker(get_engine(pg_settings))
    event.listen(maker, "after_begin", lambda *args: args[2].execute(select(1)))
    with unit_of_work(maker(), isolation_level="SERIALIZABLE") as session:
        assert session.scalar(text("SHOW transaction_isolation")) == "serializable"


EARLIER_LISTENER = """
import sys
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

sql = text("CREATE TABLE audit (id INTEGER)")
event.listen(Session, "after_begin", lambda session, begun, connection: connection.execute(sql))

from pyramid_dbpool import unit_of_work

try:
    with unit_of_work({"sqlalchemy.url": sys.argv[1]}, read_only=True):
        pass
except OperationalError as error:
    print(error.orig)
"""


def test_modes_come_before_a_listener_that_was_there_first(sqlite_url: str) -> None:
    """An app may listen to all sessions before it imports this package."""
    ran = subprocess.run(
        [sys.executable, "-c", EARLIER_LISTENER, sqlite_url],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "attempt to write a readonly database\n"


def test_a_session_that_chooses_is_asked_for_no_connection(sqlite_url: str) -> None:
    """It may not know one before the work begins."""

    engine = get_engine({"sqlalchemy.url": sqlite_url})

    class Choosy(Session):
        def get_bind(self, mapper: Any = None, **_: Any) -> Engine:
            assert mapper is not None
            return engine

    with database(sqlite_url):
        for session in (Choosy(), Choosy(engine)):
            with unit_of_work(session, read_only=True):
                assert session.in_transaction()
                assert session.scalars(select(Row)).all() == []
    dispose_engine({"sqlalchemy.url": sqlite_url})


def test_a_mode_that_a_later_connection_does_not_have_stops_the_unit(
    sqlite_url: str,
) -> None:
    """Also if the error is swallowed: nothing is sent without the mode."""
    engine = get_engine({"sqlalchemy.url": sqlite_url})
    with database(sqlite_url) as count:
        with (
            pytest.raises(PendingRollbackError),
            unit_of_work(Routed(engine, engine), isolation_level="READ COMMITTED") as session,
        ):
            with pytest.raises(ValueError, match="SQLite"):
                session.execute(text("SELECT 1"))
            session.add(Row())
        assert count() == 0
    dispose_engine({"sqlalchemy.url": sqlite_url})


def test_a_refused_set_transaction_stops_the_unit(mariadb_url: str) -> None:
    """Also if the error is swallowed: MariaDB itself would go on without the modes."""
    settings = {"sqlalchemy.url": mariadb_url}
    engine = get_engine(settings)
    # Inside of a transaction SET TRANSACTION is refused.
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    with database(mariadb_url) as count:
        with (
            pytest.raises(PendingRollbackError),
            unit_of_work(Routed(engine, engine), read_only=True) as session,
        ):
            with pytest.raises(DBAPIError, match="1568"):
                session.execute(text("SELECT 1"))
            session.add(Row())
        assert count() == 0
    dispose_engine(settings)


def test_somebodys_own_connection_is_left_as_it_was(settings: dict[str, Any]) -> None:
    """The session was bound to it, and it lives on."""
    with get_engine(settings).connect() as connection:
        listeners = len(list(connection.dispatch.commit))
        for _ in range(2):
            with unit_of_work(Session(connection), read_only=True) as session:
                session.execute(text("SELECT 1"))
        assert len(list(connection.dispatch.commit)) == listeners
        connection.execute(insert(Row))


def test_somebodys_own_connection_outlives_a_refusal(pg_settings: dict[str, Any]) -> None:
    """After a query PostgreSQL refuses the mode, in a transaction that is not the unit's."""
    with get_engine(pg_settings).connect() as connection:
        connection.execute(select(1))
        with (
            pytest.raises(DBAPIError, match="before any query"),
            unit_of_work(Session(connection), isolation_level="SERIALIZABLE"),
        ):
            pytest.fail("not reached")
        assert not connection.invalidated


def test_somebodys_own_transaction_is_left_writable(sqlite_url: str) -> None:
    """The unit's end does not end that, and takes back what it has set."""
    with database(sqlite_url), get_engine({"sqlalchemy.url": sqlite_url}).begin() as connection:
        with unit_of_work(Session(connection), read_only=True) as session:
            session.execute(text("SELECT 1"))
        connection.execute(insert(Row))
    dispose_engine({"sqlalchemy.url": sqlite_url})


def test_a_unit_in_modes_keeps_the_session_to_itself(settings: dict[str, Any]) -> None:
    """A unit inside of it on the same session would be in modes that it did not ask for."""
    session = Routed(*engines(settings))
    with (
        unit_of_work(session, read_only=True),
        pytest.raises(InvalidRequestError, match="already in a transaction"),
        unit_of_work(session),
    ):
        pytest.fail("not reached")


def test_a_session_that_joins_by_itself_has_the_modes(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """It joins the manager of the unit as it begins."""
    manager = transaction.TransactionManager(explicit=True)
    session = session_factory(settings)
    register(session, transaction_manager=manager)
    for _ in range(2):
        with (
            pytest.raises(DBAPIError),
            unit_of_work(session, read_only=True, transaction_manager=manager),
        ):
            session.add(Row())
    assert count() == 0


def test_two_phases_have_modes_on_postgresql(postgres_url: str) -> None:
    """SET TRANSACTION is the first statement of what would be prepared."""
    settings = {"sqlalchemy.url": postgres_url, "dbpool.session_class": TwoPhaseSession}
    with pytest.raises(Broken), unit_of_work(settings, isolation_level="SERIALIZABLE") as session:
        assert session.scalar(text("SHOW transaction_isolation")) == "serializable"
        # The tests' server has no prepared transactions.
        raise Broken
    dispose_engine(settings)


def test_two_phases_have_no_modes_on_mariadb(mariadb_url: str) -> None:
    """XA START begins the transaction, and SET TRANSACTION would come too late."""
    settings = {"sqlalchemy.url": mariadb_url, "dbpool.session_class": TwoPhaseSession}
    with pytest.raises(ValueError, match="two-phase"), unit_of_work(settings, read_only=True):
        pytest.fail("not reached")
    dispose_engine(settings)
