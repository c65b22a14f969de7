"""Connections that are given back early, or held on after the request, when the server changes."""

from collections.abc import Callable, Iterable

import pytest
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy import insert, select, text
from sqlalchemy.orm import Session

from pyramid_dbpool import get_engine, stream
from tests.support.full import INSERT, Full
from tests.support.makers import wait_for
from tests.support.servers.failover import MariaDBPair, PostgresPair
from tests.support.webapp import PARTS, Row, app
from tests.web.retry.test_failover import Failover
from tests.web.retry.test_failover_mariadb import Failover as MariaDBFailover
from tests.web.retry.views import number, open_several, settings_for

POOLS: dict[str, dict[str, str]] = {
    "ours": {},
    "queue": {"sqlalchemy.poolclass": "sqlalchemy.pool.QueuePool"},
    "null": {"sqlalchemy.poolclass": "sqlalchemy.pool.NullPool"},
}
pools = pytest.mark.parametrize("pool", POOLS.values(), ids=list(POOLS))


def releasing(fail_over: Callable[[], object]) -> Callable[[Request], str]:
    """Make a view that writes after it has given its connection back."""

    def view(request: Request) -> str:
        request.db.scalar(select(Row.id))
        request.release_db()
        if number(request) == 0:
            fail_over()
        request.db.execute(insert(Row))
        return str(number(request))

    return view


def test_a_standby_that_is_met_after_a_release(postgres_pair: PostgresPair) -> None:
    """The request is run again as a whole, at the primary."""
    failover, attempts = Failover(postgres_pair), list[int]()
    failover.move()

    def view(request: Request) -> None:
        attempts.append(number(request))
        request.db.scalar(select(Row.id))
        request.release_db()
        if number(request) == 0:
            postgres_pair.lead_to(postgres_pair.standby)
            web.pool.dispose()
        try:
            request.db.execute(insert(Row))
        finally:
            failover.move()

    with app(failover.settings, *PARTS, index=view) as web:
        web.client.post("/")
    assert (attempts, failover.count()) == ([0, 1], 1)


@pools
def test_a_server_that_is_demoted_after_a_release(
    mariadb_pair: MariaDBPair, pool: dict[str, str]
) -> None:
    """The request is run again as a whole, at the other one."""
    failover = MariaDBFailover(mariadb_pair, "pymysql")

    def fail_over() -> None:
        failover.demote()
        failover.move()

    with app(failover.settings | pool, *PARTS, index=releasing(fail_over)) as web:
        # Without a pool the next connection leads to the other one at once.
        web.client.post("/")
    assert failover.count() == 1


def test_a_disk_that_is_full_after_a_release(full_database: Full) -> None:
    """The client may come again, and the connection is given back."""
    settings = settings_for(full_database.url)
    full_database.prepare(get_engine(settings))

    def view(request: Request) -> None:
        request.db.execute(text("SELECT 1"))
        request.release_db()
        request.db.execute(INSERT, full_database.row(1))

    with app(settings, *PARTS, index=view) as web:
        assert "Retry-After" in web.client.post("/", status=503).headers
        assert web.checked_out() == 0
        full_database.free()
        web.client.post("/")
    assert full_database.rows() == [1]


@pools
def test_a_stream_is_read_to_its_end_while_its_server_is_demoted(
    mariadb_pair: MariaDBPair, pool: dict[str, str]
) -> None:
    """Its connection is replaced when it comes back, as all others."""
    failover = MariaDBFailover(mariadb_pair, "pymysql")

    def export(request: Request) -> Response:
        def rows(session: Session) -> Iterable[bytes]:
            yield str(session.scalar(text("SELECT @@server_id"))).encode()
            yield str(session.scalar(text("SELECT @@server_id"))).encode()

        return Response(app_iter=stream(request, rows), content_type="text/plain")

    with app(
        failover.settings | pool,
        *PARTS,
        export=export,
        index=lambda r: r.db.execute(insert(Row)) and None,
    ) as web:
        open_several(web)
        body = web.router.invoke_subrequest(Request.blank("/export")).app_iter
        first = next(body)
        failover.demote()
        failover.move()
        web.client.post("/")
        assert next(body) == first == b"1"
        body.close()
        assert web.get("/export").text == "22"
        wait_for(lambda: web.checked_out() == 0)
