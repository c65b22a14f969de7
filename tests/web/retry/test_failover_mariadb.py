"""A failover on MariaDB: the primary becomes read-only, and its connections stay and answer."""

from typing import Any

import pytest
from pyramid.request import Request
from sqlalchemy import Engine, create_engine, func, insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from pyramid_dbpool.engines.registry import process_engine
from pyramid_dbpool.events import Kind
from tests.support.happened import Happened
from tests.support.makers import in_thread, wait_for
from tests.support.servers.failover import MariaDBPair
from tests.support.servers.fixtures import need_mysqlclient
from tests.support.webapp import PARTS, TM, Base, Row, View, app
from tests.web.retry.views import number, open_several, settings_for

DRIVERS = ["pymysql", "mysqlconnector", "mysqldb"]


class Failover:
    """An app at the one of two servers that becomes read-only."""

    def __init__(self, pair: MariaDBPair, driver: str) -> None:
        self.pair = pair
        self.settings = settings_for(pair.url(driver))
        for server in (pair.primary, pair.standby):
            server.execute("SET GLOBAL read_only = 0")
            with self.outside(server.url("pymysql", "test")).begin() as connection:
                Base.metadata.drop_all(connection)
                Base.metadata.create_all(connection)
        pair.lead_to(pair.primary)

    @staticmethod
    def outside(url: str) -> Engine:
        """Return an engine that is nobody's."""
        return create_engine(url, poolclass=NullPool)

    def demote(self) -> None:
        """Make the primary read-only."""
        self.pair.primary.execute("SET GLOBAL read_only = 1")

    def move(self) -> None:
        """Have the address lead to the other one."""
        self.pair.lead_to(self.pair.standby)

    def count(self) -> int:
        """Count the rows at the other one."""
        with Session(self.outside(self.pair.standby.url("pymysql", "test"))) as session:
            return session.scalar(select(func.count()).select_from(Row)) or 0


@pytest.fixture(params=DRIVERS)
def failover(request: pytest.FixtureRequest, mariadb_pair: MariaDBPair) -> Failover:
    """A pair whose primary the app is at, once for each driver."""
    if request.param == "mysqldb":
        need_mysqlclient()
    return Failover(mariadb_pair, request.param)


@pytest.fixture
def by_pymysql(mariadb_pair: MariaDBPair) -> Failover:
    """A pair whose primary the app is at."""
    return Failover(mariadb_pair, "pymysql")


def write(request: Request) -> str:
    request.db.add(Row())
    request.db.flush()
    return str(number(request))


def test_a_write_that_a_server_refuses_is_tried_again_at_the_other(failover: Failover) -> None:
    """All connections that were opened before are replaced."""
    with app(failover.settings, *PARTS, index=write) as web:
        open_several(web)
        failover.demote()
        failover.move()
        assert web.client.post("/").text == "1"
        assert failover.count() == 1
        wait_for(lambda: web.pool.snapshot().closed.get("retired", 0) >= 2)


def test_a_commit_that_is_refused_is_tried_again(failover: Failover) -> None:
    """The server has become read-only between the statement and COMMIT, and rolls back."""

    def view(request: Request) -> str:
        request.db.add(Row())
        request.db.flush()
        if number(request) == 0:
            failover.demote()
            failover.move()
        return str(number(request))

    with app(failover.settings, *PARTS, index=view) as web:
        assert web.client.post("/").text == "1"
    assert failover.count() == 1


def test_a_write_waits_until_the_server_takes_writes_again(
    by_pymysql: Failover, happened: Happened
) -> None:
    """It may be the same one, after a maintenance."""
    with app(by_pymysql.settings, *PARTS, index=write) as web:
        open_several(web)
        by_pymysql.demote()
        writes, answers = process_engine(by_pymysql.settings).writes, list[str]()
        thread = in_thread(lambda: answers.append(web.client.post("/").text))
        wait_for(lambda: writes.since is not None and writes.looks > 1)
        by_pymysql.pair.primary.execute("SET GLOBAL read_only = 0")
        thread.join()
    assert answers == ["1"]
    began, over = happened(Kind.READ_ONLY, Kind.WRITABLE)
    assert (began.kind, over.kind) == (Kind.READ_ONLY, Kind.WRITABLE)
    assert over.text.endswith(f"takes writes after {over.fields['seconds']:.1f} s.")


@pytest.mark.parametrize("pool", ["QueuePool", "NullPool"])
def test_a_pool_of_sqlalchemys_is_emptied_when_it_is_over(
    by_pymysql: Failover, caplog: pytest.LogCaptureFixture, pool: str
) -> None:
    """What was opened meanwhile leads to the old one; and the app is ready at once."""
    settings = by_pymysql.settings | {
        "sqlalchemy.poolclass": f"sqlalchemy.pool.{pool}",
        "dbpool.readiness_route": "/ready",
    }
    with app(settings, *PARTS, index=write, read=lambda r: r.db.scalar(text("SELECT 1"))) as web:
        writes, answers = process_engine(settings).writes, list[Any]()
        open_several(web)
        by_pymysql.demote()
        thread = in_thread(lambda: answers.append(web.client.post("/", status="*").text))
        wait_for(lambda: writes.looks > 1)
        web.get("/ready", status=503)
        web.get("/read")
        by_pymysql.move()
        thread.join()
        web.get("/ready", status=200)
    assert (answers, by_pymysql.count()) == (["1"], 1)
    said = [record.getMessage() for record in caplog.records]
    assert ["is read-only" in each for each in said].count(True) == 1, said


def test_without_pyramid_retry_it_is_a_503(by_pymysql: Failover) -> None:
    """Nothing is stored, and another request may reach the other server."""
    with app(by_pymysql.settings, *TM, index=lambda r: r.db.execute(insert(Row)) and None) as web:
        open_several(web)
        by_pymysql.demote()
        assert "Retry-After" in web.client.post("/", status=503).headers
        by_pymysql.move()
        wait_for(lambda: web.client.post("/", status="*").status_int == 200)


def in_read_only_transaction(request: Request) -> None:
    request.db.execute(text("SELECT 1"))
    request.db.connection().exec_driver_sql("START TRANSACTION READ ONLY")
    request.db.execute(insert(Row))


def prevented_by_another_option(request: Request) -> None:
    request.db.execute(text("SELECT * FROM rows INTO OUTFILE '/elsewhere'"))


@pytest.mark.parametrize("view", [in_read_only_transaction, prevented_by_another_option])
def test_what_is_no_failover_is_not_tried_again(failover: Failover, view: View) -> None:
    """Another server would refuse it too."""
    attempts: list[int] = []

    def counted(request: Request) -> Any:
        attempts.append(number(request))
        return view(request)

    with app(failover.settings, *PARTS, index=counted) as web, pytest.raises(DBAPIError):
        web.client.post("/")
    assert attempts == [0]
    assert process_engine(failover.settings).writes.since is None
