"""A failover: the old primary is back as a standby, and its connections answer every ping."""

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from pyramid.request import Request
from sqlalchemy import create_engine, func, insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from pyramid_dbpool import unit_of_work
from pyramid_dbpool.engines.registry import process_engine
from tests.support.makers import in_thread, wait_for
from tests.support.servers.failover import PostgresPair
from tests.support.servers.pgbouncer import PgBouncer
from tests.support.servers.proxy import Newcomers
from tests.support.webapp import PARTS, TM, Base, Row, TwoPhaseSession, View, app
from tests.web.retry.views import number, open_several, settings_for

NewPair = Callable[..., PostgresPair]
READ_ONLY = "the server is read-only"
TAKES_WRITES = "the server takes writes"


def write(request: Request) -> str:
    request.db.add(Row())
    request.db.flush()
    return str(request.environ.get("retry.attempt", 0))


def write_at_commit(request: Request) -> None:
    request.db.add(Row())


def write_by_core(request: Request) -> None:
    request.db.execute(insert(Row))


def write_as_text(request: Request) -> None:
    request.db.execute(text("INSERT INTO rows DEFAULT VALUES"))


def write_in_savepoint(request: Request) -> None:
    with request.db.begin_nested():
        request.db.add(Row())


def lock_rows(request: Request) -> None:
    request.db.execute(select(Row.id).with_for_update())
    request.db.add(Row())


def write_serializable(request: Request) -> None:
    request.db.execute(text("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"))
    request.db.add(Row())


def swallow(request: Request) -> None:
    with suppress(DBAPIError):
        request.db.execute(insert(Row))
    request.db.execute(text("SELECT 1"))


def swallow_to_the_end(request: Request) -> None:
    with suppress(DBAPIError):
        request.db.execute(insert(Row))


WRITES = (
    write,
    write_at_commit,
    write_by_core,
    write_as_text,
    write_in_savepoint,
    lock_rows,
    write_serializable,
    swallow,
    swallow_to_the_end,
)


class Failover:
    """An app whose server becomes read-only under it: what it has open leads to a standby."""

    def __init__(self, pair: PostgresPair, driver: str = "psycopg") -> None:
        self.pair = pair
        self.settings = settings_for(pair.url(driver))
        with create_engine(pair.primary.url(), poolclass=NullPool).begin() as connection:
            Base.metadata.create_all(connection)
        pair.catch_up()
        # The address leads to a standby before anybody connects, as after a restart of the old
        # primary in that role.
        pair.lead_to(pair.standby)

    def move(self) -> None:
        """Have the address lead to the primary."""
        self.pair.lead_to(self.pair.primary)

    def count(self) -> int:
        """Count the rows at the primary."""
        engine = create_engine(self.pair.primary.url(), poolclass=NullPool)
        with Session(engine) as session:
            return session.scalar(select(func.count()).select_from(Row)) or 0


@pytest.fixture
def failover(postgres_pair: PostgresPair) -> Failover:
    """A pair whose standby the app is at."""
    return Failover(postgres_pair)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
@pytest.mark.parametrize("view", WRITES)
def test_a_write_that_a_standby_refuses_is_tried_again_at_the_primary(
    failover: Failover, view: View, driver: str
) -> None:
    """All connections that were opened before are replaced, and each method is tried again."""
    settings = settings_for(failover.pair.url(driver))
    with app(settings, *PARTS, index=view) as web:
        open_several(web)
        failover.move()
        web.client.post("/")
        assert failover.count() == 1
        wait_for(lambda: web.pool.snapshot().closed.get("retired", 0) >= 2)


def test_a_request_waits_for_the_primary(
    failover: Failover, caplog: pytest.LogCaptureFixture
) -> None:
    """The address moves while it waits, as it would for a server that is away; said once."""
    with app(failover.settings, *PARTS, index=write) as web:
        writes = process_engine(failover.settings).writes
        open_several(web)
        answers: list[Any] = []
        thread = in_thread(lambda: answers.append(web.client.post("/").text))
        wait_for(lambda: writes.since is not None and writes.looks > 1)
        failover.move()
        thread.join()
    assert (answers, failover.count()) == (["1"], 1)
    said = [record.getMessage() for record in caplog.records]
    assert [READ_ONLY in each for each in said].count(True) == 1, said
    assert [TAKES_WRITES in each for each in said].count(True) == 1, said


@pytest.mark.slow
def test_a_wait_for_the_primary_is_bounded(failover: Failover) -> None:
    """As long as for a connection; then 503 and Retry-After, and reads go on."""
    settings = failover.settings | {"sqlalchemy.pool_timeout": "2s", "dbpool.outage_grace": "1h"}
    with app(settings, *PARTS, index=write, read=lambda r: r.db.scalar(text("SELECT 1"))) as web:
        answer = web.client.post("/", status=503)
        assert int(answer.headers["Retry-After"]) >= 1
        assert web.get("/read").text == "1"
        assert web.checked_out() == 0


def test_request_timeout_bounds_the_wait_too(failover: Failover) -> None:
    """It bounds all the waits of a request."""
    settings = failover.settings | {
        "dbpool.request_timeout": "300ms",
        "sqlalchemy.pool_timeout": "1h",
    }
    with app(settings, *PARTS, index=write) as web:
        web.client.post("/", status=503)


def test_the_log_names_the_route_of_who_waited_in_vain(
    failover: Failover, caplog: pytest.LogCaptureFixture
) -> None:
    """Its second attempt ends before a route is looked for; a path may have anything in it."""
    settings = failover.settings | {"dbpool.request_timeout": "300ms"}
    with app(settings, *PARTS, index=write) as web:
        web.client.post("/", status=503)
    assert "503 for POST route 'index'" in caplog.text


def test_request_timeout_bounds_a_connect_that_hangs(failover: Failover) -> None:
    """As at an address that is moving: whoever looks at the server does not wait for it."""
    settings = failover.settings | {
        "dbpool.request_timeout": "300ms",
        "dbpool.connect_timeout": "1h",
        "sqlalchemy.pool_timeout": "1h",
    }
    address = failover.pair.address

    def view(request: Request) -> None:
        request.db.connection()
        address.meet(Newcomers.SILENCE)
        write(request)

    with app(settings, *PARTS, index=view) as web:
        web.client.post("/", status=503)
        # Those who look, and who fill the pool, end with it.
        address.meet(Newcomers.PASS)
        address.cut()


def test_nobody_waits_once_it_has_lasted(failover: Failover) -> None:
    """After `outage_grace` a write is refused at once, as in an outage."""
    settings = failover.settings | {"dbpool.outage_grace": "0", "sqlalchemy.pool_timeout": "1h"}
    with app(settings, *PARTS, index=write) as web:
        web.client.post("/", status=503)


def test_a_server_that_stays_read_only_is_not_stormed(failover: Failover) -> None:
    """Each write is refused, and the connections stay."""
    settings = failover.settings | {"dbpool.outage_grace": "0", "dbpool.min_idle": "0"}
    before = failover.pair.address.arrived
    with app(settings, *TM, index=write) as web:
        for _ in range(20):
            web.client.post("/", status=503)
        # The first one has replaced its connection; the others are looks, up to a second apart.
        assert web.pool.snapshot().closed["retired"] == 1
        opened = failover.pair.address.arrived - before
        assert opened <= 2 + process_engine(settings).writes.looks


def test_without_pyramid_retry_it_is_a_503(failover: Failover) -> None:
    """Nothing is stored, and another request may reach the primary."""
    with app(failover.settings, *TM, index=write) as web:
        open_several(web)
        assert "Retry-After" in web.client.post("/", status=503).headers
        failover.move()
        wait_for(lambda: web.client.post("/", status="*").status_int == 200)


def test_in_use_is_replaced_when_it_comes_back(failover: Failover) -> None:
    """Also what was opened before and is in the hands of somebody who reads."""
    with app(failover.settings, *PARTS, index=write) as web:
        open_several(web)
        with web.engine.connect() as reader:
            failover.move()
            web.client.post("/")
            assert reader.scalar(text("SELECT pg_is_in_recovery()"))
            reader.rollback()
        with web.engine.connect() as reader:
            assert not reader.scalar(text("SELECT pg_is_in_recovery()"))


ASKED = {
    "transaction": "SET TRANSACTION READ ONLY",
    "local": "SET LOCAL transaction_read_only = on",
    "setting": "SET transaction_read_only = on",
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=list(ASKED))
def test_who_asked_for_it_is_refused_once(
    failover: Failover, asked: str, caplog: pytest.LogCaptureFixture
) -> None:
    """At the primary a transaction that is read-only says the same, and is no failover."""
    attempts: list[int] = []

    def view(request: Request) -> None:
        attempts.append(number(request))
        request.db.execute(text(asked))
        request.db.execute(insert(Row))

    failover.move()
    with app(failover.settings, *PARTS, index=view) as web:
        with pytest.raises(DBAPIError):
            web.client.post("/")
        assert web.pool.snapshot().closed.get("retired", 0) == 0
    assert attempts == [0]
    assert READ_ONLY not in caplog.text


def test_who_has_made_his_session_read_only_is_refused_once(
    failover: Failover, caplog: pytest.LogCaptureFixture
) -> None:
    """It says of itself what each session of a fenced primary says; a new one does not."""
    attempts: list[int] = []

    def view(request: Request) -> None:
        attempts.append(number(request))
        with request.registry["sqlalchemy.engine"].connect() as connection:
            connection.execute(text("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"))
            connection.commit()
            connection.execute(insert(Row))

    failover.move()
    with app(failover.settings, *PARTS, index=view) as web:
        with pytest.raises(DBAPIError):
            web.get("/")
        assert web.pool.snapshot().closed.get("retired", 0) == 0
    assert attempts == [0]
    assert READ_ONLY not in caplog.text


def test_a_session_that_was_made_read_only_is_no_failover(failover: Failover) -> None:
    """Whoever has put it into the settings did not want writes."""
    arguments = {"options": "-c default_transaction_read_only=on"}
    settings = failover.settings | {"sqlalchemy.connect_args": json.dumps(arguments)}
    failover.move()
    with app(settings, *PARTS, index=write) as web:
        with pytest.raises(DBAPIError):
            web.client.post("/")
        assert web.pool.snapshot().closed.get("retired", 0) == 0


@pytest.mark.parametrize("whose", ["ROLE postgres", "DATABASE postgres"])
def test_a_role_or_database_that_is_read_only_is_no_failover(
    failover: Failover, whose: str
) -> None:
    """Somebody has set `default_transaction_read_only`, for good."""
    failover.move()
    failover.pair.execute(f"ALTER {whose} SET default_transaction_read_only = on")
    try:
        with app(failover.settings, *PARTS, index=write) as web:
            with pytest.raises(DBAPIError):
                web.client.post("/")
            assert web.pool.snapshot().closed.get("retired", 0) == 0
    finally:
        failover.pair.execute(f"ALTER {whose} RESET default_transaction_read_only")


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_primary_that_is_fenced_is_waited_for(failover: Failover, driver: str) -> None:
    """It refuses to write before it is switched off, on new connections too."""
    failover.move()
    settings, answers = settings_for(failover.pair.url(driver)), list[Any]()
    with app(settings, *PARTS, index=write) as web:
        writes = process_engine(settings).writes
        open_several(web)
        with failover.pair.fenced():
            wait_for(lambda: reads_only(web))
            thread = in_thread(lambda: answers.append(web.client.post("/").text))
            wait_for(lambda: writes.since is not None and writes.looks > 1)
        thread.join()
    assert (answers, failover.count()) == (["1"], 1)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_write_behind_pgbouncer_waits_for_the_primary(
    failover: Failover, pgbouncer_of_pair: PgBouncer, driver: str
) -> None:
    """Of the server's role it says what was so when it was reached first."""
    pair, settings = failover.pair, settings_for(pgbouncer_of_pair.url(driver))
    if driver == "psycopg":
        settings["sqlalchemy.connect_args"] = json.dumps({"prepare_threshold": None})
    failover.move()
    answers = list[Any]()
    with app(settings, *PARTS, index=write) as web:
        writes = process_engine(settings).writes
        web.client.post("/")
        pair.catch_up()
        pair.lead_to(pair.standby)
        pair.address.cut()
        thread = in_thread(lambda: answers.append(web.client.post("/", status="*").status_int))
        wait_for(lambda: writes.since is not None and writes.looks > 1)
        failover.move()
        pair.address.cut()
        thread.join()
    assert (answers, failover.count()) == ([200], 2)


@pytest.mark.parametrize("asked", ASKED.values(), ids=list(ASKED))
def test_who_asked_for_it_behind_pgbouncer_is_refused_once(
    failover: Failover, pgbouncer_of_pair: PgBouncer, asked: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The server takes writes."""
    settings = settings_for(pgbouncer_of_pair.url("psycopg2"))

    def view(request: Request) -> None:
        request.db.execute(text(asked))
        request.db.execute(insert(Row))

    failover.move()
    with app(settings, *PARTS, index=view) as web, pytest.raises(DBAPIError):
        web.client.post("/")
    assert READ_ONLY not in caplog.text


def reads_only(web: Any) -> bool:
    """Tell whether the server has read its configuration."""
    with web.engine.connect() as connection:
        return bool(connection.scalar(text("SHOW default_transaction_read_only")) == "on")


@pytest.mark.parametrize("marked", [True, False])
def test_a_replica_pool_that_is_written_to_is_no_failover(
    failover: Failover, caplog: pytest.LogCaptureFixture, *, marked: bool
) -> None:
    """Whether it says that it is read-only or has only ever been at a standby."""

    def view(request: Request) -> None:
        request.db_replica.execute(insert(Row))

    settings = failover.settings | {
        "sqlalchemy.url": failover.pair.primary.url(),
        "sqlalchemy.replica.url": failover.pair.standby.url(),
        "dbpool.replica.read_only": str(marked).lower(),
    }
    with app(settings, *PARTS, index=view) as web, pytest.raises(DBAPIError):
        web.client.post("/")
    assert process_engine(settings, "replica").writes.since is None
    assert READ_ONLY not in caplog.text


def test_a_named_pool_that_was_at_a_primary_has_failed_over(failover: Failover) -> None:
    """It is no replica's."""

    def view(request: Request) -> None:
        request.db_other.execute(insert(Row))

    settings = failover.settings | {"sqlalchemy.other.url": failover.pair.url()}
    failover.move()
    with app(settings, *PARTS, index=view) as web:
        web.client.post("/")
        process_engine(settings, "other").engine.pool.dispose()
        failover.pair.catch_up()
        failover.pair.lead_to(failover.pair.standby)
        answers: list[Any] = []
        thread = in_thread(lambda: answers.append(web.client.post("/").status_int))
        wait_for(lambda: process_engine(settings, "other").writes.since is not None)
        failover.move()
        thread.join()
    assert (answers, failover.count()) == ([200], 2)


def test_what_may_be_stored_is_not_written_twice(failover: Failover) -> None:
    """A POST that has committed something elsewhere is not run again."""
    attempts: list[int] = []
    settings = failover.settings | {"sqlalchemy.other.url": failover.pair.primary.url()}

    def view(request: Request) -> None:
        attempts.append(number(request))
        with request.registry["sqlalchemy.engine.other"].begin() as connection:
            connection.execute(insert(Row))
        request.db.execute(insert(Row))

    with app(settings, *PARTS, index=view) as web:
        answer = web.client.post("/", status=503)
        assert "Retry-After" not in answer.headers
    assert (attempts, failover.count()) == ([0], 1)


@pytest.mark.parametrize(
    "pool", ["sqlalchemy.pool.QueuePool", "sqlalchemy.pool.NullPool"], ids=["queue", "null"]
)
def test_a_pool_of_sqlalchemys_fails_over_too(failover: Failover, pool: str) -> None:
    """Its connections are replaced as ours are."""
    settings = failover.settings | {"sqlalchemy.poolclass": pool}
    with app(settings, *PARTS, index=write) as web:
        open_several(web)
        failover.move()
        web.client.post("/")
        assert failover.count() == 1


def answer_of_who_waits(failover: Failover, settings: dict[str, Any], web: Any) -> Any:
    """Have a request wait for the primary; return its answer."""
    writes, answers = process_engine(settings).writes, list[Any]()
    thread = in_thread(lambda: answers.append(web.client.post("/", status="*")))
    wait_for(lambda: writes.looks > 1)
    failover.move()
    thread.join()
    return answers[0]


@pytest.mark.parametrize(
    "pool", ["sqlalchemy.pool.QueuePool", "sqlalchemy.pool.NullPool"], ids=["queue", "null"]
)
def test_what_a_view_swallowed_waits_for_the_primary_on_a_pool_of_sqlalchemys(
    failover: Failover, pool: str
) -> None:
    """The connection was given up, and so is the one of the next attempt: no attempt is left."""
    settings = failover.settings | {"sqlalchemy.poolclass": pool, "retry.attempts": "2"}
    with app(settings, *PARTS, index=swallow_to_the_end) as web:
        answer = answer_of_who_waits(failover, settings, web)
    assert (answer.status_int, failover.count()) == (200, 1)


def test_a_pool_without_a_line_waits_for_the_primary_too(failover: Failover) -> None:
    """It has no `pool_timeout`; its requests wait as long as those of other pools."""
    settings = failover.settings | {"sqlalchemy.poolclass": "sqlalchemy.pool.NullPool"}
    with app(settings, *PARTS, index=write) as web:
        answer = answer_of_who_waits(failover, settings, web)
    assert (answer.text, failover.count()) == ("1", 1)


def test_a_two_phase_session_fails_over(failover: Failover) -> None:
    """Nothing was prepared when the standby refused the write."""
    settings = failover.settings | {"dbpool.session_class": TwoPhaseSession}
    with app(settings, *PARTS, index=write) as web:
        open_several(web)
        failover.move()
        assert web.client.post("/").text == "1"
    assert failover.count() == 1


def test_a_unit_of_work_in_a_request_fails_over(failover: Failover) -> None:
    """Whatever writes in it, the request is run again."""

    def view(request: Request) -> str:
        request.db.execute(text("SELECT 1"))
        request.release_db()
        with unit_of_work(request.registry.settings) as session:
            session.add(Row())
        return str(number(request))

    with app(failover.settings, *PARTS, index=view) as web:
        open_several(web)
        failover.move()
        assert web.client.post("/").text == "1"
    assert failover.count() == 1


def test_a_driver_that_looks_for_the_primary_itself_finds_it(failover: Failover) -> None:
    """With `target_session_attrs` a standby is no server to connect to; it is waited out."""
    settings = failover.settings
    settings["sqlalchemy.url"] += "?target_session_attrs=read-write"
    with app(settings, *PARTS, index=write) as web:
        answers: list[str] = []
        thread = in_thread(lambda: answers.append(web.client.post("/").text))
        wait_for(lambda: web.pool.outage is not None)
        failover.move()
        thread.join()
    assert (answers, failover.count()) == (["0"], 1)


def test_a_real_failover(new_postgres_pair: NewPair) -> None:
    """The primary crashes, its standby is promoted, and the old one is back before the address
    moves: no write fails but at most those under way, and none is lost or doubled."""
    pair = new_postgres_pair(synchronous=True)
    failover = Failover(pair)
    failover.move()
    settings = failover.settings | {"sqlalchemy.pool_timeout": "1m", "dbpool.outage_grace": "1m"}
    with app(settings, *PARTS, index=write) as web:
        open_several(web)
        web.client.post("/")
        pair.primary.kill()
        old = pair.promote()
        answers: list[int] = []
        threads = [
            in_thread(lambda: answers.append(web.client.post("/").status_int)) for _ in range(5)
        ]
        pair.rejoin(old)
        writes = process_engine(settings).writes
        wait_for(lambda: writes.since is not None)
        failover.move()
        for thread in threads:
            thread.join()
        assert (answers, failover.count()) == ([200] * 5, 6)
