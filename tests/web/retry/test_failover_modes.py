"""A failover under requests that have two phases, or none: AUTOCOMMIT."""

from collections.abc import Callable
from contextlib import ExitStack

import pytest
from pyramid.request import Request
from sqlalchemy import Connection, create_engine, event, func, insert, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from pyramid_dbpool import get_engine
from pyramid_dbpool.embedded import PrivatePostgres
from tests.support.makers import wait_for
from tests.support.servers.failover import MariaDBPair, PostgresPair
from tests.support.servers.fixtures import need_mysqlclient
from tests.support.webapp import PARTS, Row, TwoPhaseSession, app, database
from tests.web.retry.test_failover import Failover, reads_only
from tests.web.retry.test_failover_mariadb import DRIVERS
from tests.web.retry.test_failover_mariadb import Failover as MariaDBFailover
from tests.web.retry.views import (
    LOSES_RACE,
    TROUBLE_IN_COMMIT,
    NewDatabase,
    at_first,
    backend_ended,
    in_commit,
    number,
    open_several,
    settings_for,
)

pytestmark = pytest.mark.programs

NewPostgres = Callable[..., PrivatePostgres]
TWO_PHASES = {"dbpool.session_class": TwoPhaseSession}
AUTOCOMMIT = {"sqlalchemy.isolation_level": "AUTOCOMMIT"}


class Demoted:
    """A server whose connections are refused writes from `demote` on, and the next one."""

    def __init__(self, request: pytest.FixtureRequest, dialect: str, driver: str) -> None:
        if driver == "mysqldb":
            need_mysqlclient()
        self.failover: Failover | MariaDBFailover
        if dialect == "mysql":
            pair: MariaDBPair = request.getfixturevalue("mariadb_pair")
            self.failover = MariaDBFailover(pair, driver)
            self.demote = self.failover.demote
        else:
            postgres_pair: PostgresPair = request.getfixturevalue("postgres_pair")
            self.failover = Failover(postgres_pair, driver)
            self.demote = lambda: None

    def move(self) -> None:
        """Demote, and have the address lead to the next one."""
        self.demote()
        self.failover.move()


@pytest.fixture(
    params=[("mysql", each) for each in DRIVERS] + [("postgresql", "psycopg")], ids=str
)
def demoted(request: pytest.FixtureRequest) -> Demoted:
    """A server that is demoted, once for each driver of MariaDB's."""
    return Demoted(request, *request.param)


def write(request: Request) -> str:
    request.db.add(Row())
    request.db.flush()
    return str(number(request))


def test_two_phases_fail_over(demoted: Demoted) -> None:
    """How a two-phase transaction begins stores nothing, on MariaDB either."""
    with app(demoted.failover.settings | TWO_PHASES, *PARTS, index=write) as web:
        open_several(web)
        demoted.move()
        assert web.client.post("/").text == "1"
    assert demoted.failover.count() == 1


def test_autocommit_fails_over_without_another_try(mariadb_pair: MariaDBPair) -> None:
    """What came before the write that was refused may be stored."""
    failover, attempts = MariaDBFailover(mariadb_pair, "pymysql"), list[int]()

    def view(request: Request) -> None:
        attempts.append(number(request))
        request.db.scalar(select(func.count()).select_from(Row))
        failover.demote()
        failover.move()
        request.db.execute(insert(Row))

    with app(failover.settings | AUTOCOMMIT, *PARTS, index=view) as web:
        assert "Retry-After" not in web.client.post("/", status=503).headers
    assert attempts == [0]


def test_a_fence_between_the_phases_lets_them_end(postgres_pair: PostgresPair) -> None:
    """A primary that is fenced finishes what was begun before."""
    failover = Failover(postgres_pair)
    failover.move()
    fence = ExitStack()
    with app(failover.settings | TWO_PHASES, *PARTS, index=write) as web, fence:

        @event.listens_for(web.engine, "prepare_twophase")
        def close(connection: Connection, _xid: object) -> None:
            fence.enter_context(postgres_pair.fenced())

        @event.listens_for(web.engine, "commit_twophase")
        def wait(*_: object) -> None:
            wait_for(lambda: reads_only(web))

        assert web.client.post("/").text == "0"
    assert failover.count() == 1


def test_a_refused_second_phase_is_not_begun_anew(mariadb_pair: MariaDBPair) -> None:
    """MariaDB prepares while it is read-only, and lets nobody commit: somebody has to look."""
    failover, attempts = MariaDBFailover(mariadb_pair, "pymysql"), list[int]()

    def view(request: Request) -> None:
        attempts.append(number(request))
        write(request)
        failover.demote()

    url = mariadb_pair.primary.url("pymysql", "test")
    with app(failover.settings | TWO_PHASES, *PARTS, index=view) as web:
        assert "Retry-After" not in web.client.post("/", status=503).headers
    failover.pair.primary.execute("SET GLOBAL read_only = 0")
    # A transaction that is prepared keeps its locks for ever.
    outside = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with outside.connect() as other:
        prepared = outside.dialect.do_recover_twophase(other)
        for xid in prepared:
            outside.dialect.do_rollback_twophase(other, xid, recover=True)
    assert (attempts, len(prepared)) == ([0], 1)


@pytest.mark.parametrize("driver", ["pymysql", "mysqldb"])
def test_a_lost_connection_of_two_phases_is_tried_again(
    new_database: NewDatabase, driver: str
) -> None:
    """Before they are prepared, on MariaDB too."""
    url = new_database(f"mysql+{driver}")
    outside = create_engine(url, poolclass=NullPool)
    view = at_first(lambda request: backend_ended(request.db.connection(), outside))
    with database(url) as count, app(settings_for(url) | TWO_PHASES, *PARTS, index=view) as web:
        assert web.client.post("/").text == "1"
        assert count() == 1


def test_what_could_not_be_prepared_is_tried_again(new_postgres: NewPostgres) -> None:
    """The server has rolled it back; psycopg takes it for prepared."""
    url = new_postgres({"max_prepared_transactions": 5}).url("psycopg2")
    outside = create_engine(url, poolclass=NullPool)
    with (
        database(url) as count,
        app(settings_for(url) | TWO_PHASES, *PARTS, index=in_commit(-2)) as web,
    ):
        with outside.begin() as connection:
            connection.exec_driver_sql(TROUBLE_IN_COMMIT)
        assert web.client.post("/").text == "1"
        assert count() == 1


def test_what_another_database_has_prepared_is_not_prepared_twice(
    new_postgres: NewPostgres, postgres_pair: PostgresPair
) -> None:
    """Only if the first one could not prepare is nothing left of it; which that is, varies."""
    url = new_postgres({"max_prepared_transactions": 5}).url("psycopg2")
    settings = settings_for(url) | TWO_PHASES
    settings |= {f"dbpool.other.{key[7:]}": value for key, value in TWO_PHASES.items()}
    settings["sqlalchemy.other.url"] = postgres_pair.url("psycopg2")
    Failover(postgres_pair).move()
    first: list[str] = []

    def view(request: Request) -> None:
        first.append("")
        request.db.add(Row(id=LOSES_RACE))
        request.db_other.add(Row(id=LOSES_RACE))

    def note(name: str) -> None:
        first[-1] = first[-1] or name

    with database(url), app(settings, *PARTS, index=view) as web:
        with web.engine.begin() as connection:
            connection.exec_driver_sql(TROUBLE_IN_COMMIT)
        event.listen(web.engine, "prepare_twophase", lambda *_: note("losing"))
        other = get_engine(settings, "other")
        event.listen(other, "prepare_twophase", lambda *_: note("other"))
        with pytest.raises(DBAPIError):
            web.client.post("/")
    assert first[:-1] == ["losing"] * (len(first) - 1)
    assert first[-1] == "other" or len(first) == 3
