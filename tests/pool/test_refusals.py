"""Why a caller gets no connection: counted, and told without the pool's lock."""

import pickle
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, NullPool, create_engine, make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import PoolProxiedConnection

from pyramid_dbpool import (
    DatabaseUnavailable,
    PoolLineFull,
    PoolTimeout,
    deadline,
    dispose_engine,
    get_engine,
)
from pyramid_dbpool.drivers.tls import tls_options
from pyramid_dbpool.embedded import PrivatePostgres
from pyramid_dbpool.pool.labels import holder_label
from pyramid_dbpool.pool.managed import ManagedPool
from pyramid_dbpool.pool.refusals import Refusals
from tests.conformance.adapters.queue import make_engine
from tests.conformance.stub import StubServer
from tests.conformance.stub_driver import StubConnection
from tests.support.makers import PATIENCE, Maker, in_thread, wait_for
from tests.support.servers.ports import deaf_port


def test_a_full_pool_and_a_full_line_are_counted(maker: Maker) -> None:
    """Each by its own name."""
    pool = ManagedPool(maker, 1, 0, timeout=0.0)
    with closing(pool.connect()), pytest.raises(PoolTimeout):
        pool.connect()
    assert pool.snapshot().refused == {"timeout": 1}
    strict = ManagedPool(maker, 1, 0, max_waiting=0)
    with closing(strict.connect()), pytest.raises(PoolLineFull):
        strict.connect()
    assert strict.snapshot().refused == {"line_full": 1}


def test_callers_who_meet_an_outage_are_counted(
    maker: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    """Those who waited too; the log's last line has their number."""
    maker.error = ConnectionRefusedError("nobody listens")
    pool = ManagedPool(maker, 1, 0, timeout=5.0, background=True, outage_grace=0.0)
    for _ in range(3):
        with pytest.raises(DatabaseUnavailable):
            pool.connect()
    assert pool.snapshot().refused == {"outage": 3}
    maker.error = None
    wait_for(lambda: pool.outage is None)
    wait_for(lambda: "3 callers got no connection meanwhile" in caplog.text)
    pool.dispose()


@pytest.mark.parametrize("max_waiting", [None, 0])
def test_holders_are_named_without_the_lock(maker: Maker, max_waiting: int | None) -> None:
    """A label may be an object of the app's, whose text is made by its own code."""
    free: list[bool] = []

    class Label:
        def __str__(self) -> str:
            taken = threading.Event()
            threading.Thread(target=lambda: (pool.checkedout(), taken.set())).start()
            free.append(taken.wait(PATIENCE))
            return "GET /"

    pool = ManagedPool(maker, 1, 0, timeout=0.02, max_waiting=max_waiting)
    refused = pytest.raises(PoolTimeout, match="Longest holders: GET / for ")
    with holder_label(Label()), closing(pool.connect()), refused:
        pool.connect()
    assert free == [True]


def test_what_is_being_tried_is_not_open() -> None:
    """A server that is full is asked again and again, also when the time is over."""
    over = threading.Event()

    class Full(StubServer):
        def connect(self) -> StubConnection:
            if self.attempts == 2:
                over.wait(PATIENCE)
            return super().connect()

    server = Full(limit=1)
    pool = make_engine(server, ManagedPool, pool_size=2, max_overflow=0, background=True).pool
    refused = pytest.raises(PoolTimeout, match="this pool has 1 open")
    with closing(pool.connect()), refused, deadline(1):
        pool.connect()
    over.set()
    pool.dispose()


def test_a_server_that_admits_no_more_is_said_so(
    new_postgres: Callable[..., PrivatePostgres],
) -> None:
    """Neither the pool is too small nor the server away; the server's words are the cause."""
    server = new_postgres({"max_connections": 2, "superuser_reserved_connections": 0})
    settings = {"sqlalchemy.url": server.url("psycopg"), "sqlalchemy.pool_timeout": "30"}
    others = create_engine(server.url("psycopg"), poolclass=NullPool)
    engine = get_engine(settings)
    refused = pytest.raises(PoolTimeout)
    with others.connect(), engine.connect(), refused as caught, deadline(1):
        engine.connect()
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)
    assert "because the server admits no more (" in str(caught.value)
    # The caller's own, here.
    said = (
        "this pool has 1 open; 1 of those who wait holds a connection already. Longest holders: "
    )
    assert said in str(caught.value)
    dispose_engine(settings)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ('ВАЖНО:  база данных "nowhere" не существует', DatabaseUnavailable),
        ("ВАЖНО:  извините, уже слишком много клиентов", PoolTimeout),
    ],
)
def test_a_refusal_that_psycopg2_cannot_decode_is_told_as_one(
    said: str, error: type[Exception]
) -> None:
    """A server on Windows writes its own encoding; the driver's error is of no use to anybody."""

    def refuse() -> None:
        f"connection to server failed: {said}".encode("cp1251").decode()

    settings = {"sqlalchemy.url": "postgresql+psycopg2://", "sqlalchemy.creator": refuse}
    settings["sqlalchemy.pool_timeout"] = "0.2"
    with pytest.raises(error, match="connection to server failed: \N{REPLACEMENT CHARACTER}"):
        get_engine(settings).connect()
    dispose_engine(settings)


@pytest.mark.parametrize(
    ("changes", "suspect"),
    [
        ({"database": "ssl_notes"}, "sqlalchemy.url"),
        ({"username": "certificates", "password": "wrong"}, "sqlalchemy.url"),
        ({"query": {"sslmod": "require"}}, "sqlalchemy.url and sqlalchemy.connect_args"),
        ({"query": {"passwrd": "x"}}, "sqlalchemy.url and sqlalchemy.connect_args"),
    ],
)
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_name_that_sounds_like_tls_is_not_taken_for_it(
    postgres: PrivatePostgres, driver: str, changes: dict[str, Any], suspect: str
) -> None:
    """Nobody has to look at certificates because a database, a role or an option is misspelt."""
    settings = {"sqlalchemy.url": make_url(postgres.url(driver)).set(**changes)}
    with pytest.raises(DatabaseUnavailable) as caught:
        get_engine(settings).connect()
    dispose_engine(settings)
    assert f"no connection can be opened with this configuration; check {suspect} (" in str(
        caught.value
    )


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_what_a_server_says_twice_is_told_once(driver: str) -> None:
    """With TLS and without it libpq gets the same answer."""

    def refuse() -> None:
        refusal = 'connection to server at "db", port 5432 failed: FATAL:  password wrong'
        raise sys.modules[driver].OperationalError(f"{refusal}\n{refusal}\n")

    settings = {"sqlalchemy.url": f"postgresql+{driver}://", "sqlalchemy.creator": refuse}
    settings |= {"sqlalchemy.pool_timeout": "0"}
    with pytest.raises(DatabaseUnavailable) as caught:
        get_engine(settings).connect()
    dispose_engine(settings)
    assert str(caught.value).count("password wrong") == 1


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_each_address_of_several_is_told_once(driver: str) -> None:
    """The last one too, which psycopg tells first; an address stands in what libpq says of it."""
    first, last = deaf_port(), deaf_port()
    hosts = {"host": (f"127.0.0.1:{first}", f"127.0.0.1:{last}")}
    url = URL.create(f"postgresql+{driver}", "web", database="notes", query=hosts)
    settings = {"sqlalchemy.url": url, "sqlalchemy.pool_timeout": "0"}
    with pytest.raises(DatabaseUnavailable) as caught:
        get_engine(settings).connect()
    dispose_engine(settings)
    with pytest.raises(OperationalError) as plain:
        create_engine(url, poolclass=NullPool).connect()
    said = str(caught.value).partition(" (")[2]
    refused = 'connection to server at "127.0.0.1", port {} failed: Connection refused'
    # Older releases of psycopg tell of the last one only.
    told = [refused.format(port) in str(plain.value) for port in (first, last)]
    assert [said.count(refused.format(port)) for port in (first, last)] == told
    assert told == [True, True] or psycopg.__version__.startswith("3.2.")
    for both in (refused.format(first), refused.format(last), "connection failed: ", "; ", ")"):
        said = said.replace(both, "")
    assert said == ""


def test_a_client_that_the_server_knows_neither_way_is_not_told_to_look_at_tls() -> None:
    """Its access file has no entry for it; where only TLS was not tried, that may help."""
    entry = 'FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "web", database "notes", '
    without = psycopg.OperationalError(f"{entry}no encryption")
    both = psycopg.OperationalError(f"{entry}SSL encryption\n{entry}no encryption")
    assert (tls_options(without) is not None, tls_options(both)) == (True, None)


def test_no_limit_is_reached_where_fewer_are_open(maker: Maker) -> None:
    """Returns were expected before a connection could be opened, and the caller had no time."""
    pool = ManagedPool(maker, 5, 10, background=True)
    for _ in range(9):
        pool.connect().close()
    # As to a server far away; the holds were short.
    pool._core.stats.connect_time = 9.0
    refused = pytest.raises(PoolTimeout)
    with closing(pool.connect()), refused as caught, deadline(0):
        pool.connect()
    text = str(caught.value)
    assert "(1 of 15 open, 1 checked out, 0 others waiting). Longest holders: " in text
    assert "Give connections back sooner, or allow a longer deadline." in text
    assert "limit" not in text
    pool.dispose()


@pytest.mark.parametrize(("size", "overflow"), [(0, 10), (2, -1), (5, 10)])
def test_a_pool_that_may_open_more_reaches_no_limit(
    maker: Maker, size: int, overflow: int
) -> None:
    """Some are checked out and another one takes its time: that is what was waited for."""
    pool = ManagedPool(maker, size, overflow, background=True)
    leases = [pool.connect() for _ in range(3)]
    over = threading.Event()
    maker.before = lambda: over.wait(PATIENCE)
    refused = pytest.raises(PoolTimeout, match="1 connection is still being opened")
    with refused as caught, deadline(0.02):
        pool.connect()
    assert "limit" not in str(caught.value)
    over.set()
    for lease in leases:
        lease.close()
    pool.dispose()


def test_a_line_that_was_full_is_told_as_full(maker: Maker) -> None:
    """Also to a caller who hears of it when everybody has left."""
    pool = ManagedPool(maker, 1, 0, max_waiting=3)
    said = str(Refusals(pool._core.shared).line_full())
    assert "3 callers wait already for its only connection, as many as max_waiting" in said


def test_a_new_pool_has_no_overflow(maker: Maker) -> None:
    """Where QueuePool says -5, which is how many there may be before one is."""
    pool = ManagedPool(maker, 5, 10)
    assert pool.status() == (
        "Pool size: 5  Connections in pool: 0 Current Overflow: 0"
        " Current Checked out connections: 0"
    )
    assert pool.overflow() == -5


@pytest.mark.parametrize("max_waiting", [None, 1])
def test_an_error_has_who_holds_most_as_fields(maker: Maker, max_waiting: int | None) -> None:
    """A log with fields counts the refusals by whose fault they are."""
    patience = PATIENCE if max_waiting else 0.02
    pool = ManagedPool(maker, 3, 0, timeout=patience, max_waiting=max_waiting)
    leases: list[PoolProxiedConnection] = []

    def hold() -> None:
        with holder_label("GET /slow"):
            leases.extend([pool.connect(), pool.connect()])
        leases.append(pool.connect())

    # In another thread: whoever waits here holds none.
    in_thread(hold).join(PATIENCE)
    pool._core.stats.waiting_holders = 1
    waiter = in_thread(lambda: pool.connect().close() if max_waiting else None)
    wait_for(lambda: pool.snapshot().waiting == (max_waiting or 0))
    with pytest.raises(PoolTimeout) as caught:
        pool.connect()
    assert "; 1 of those who wait holds a connection already" in str(caught.value)
    fields = {"in_use": 3, "waiting_holders": 1, "holder": "GET /slow", "holder_connections": 2}
    assert fields.items() < caught.value.fields.items()
    assert isinstance(caught.value.fields["holder_seconds"], float)
    assert ("seconds" in caught.value.fields) == (max_waiting is None)
    assert pickle.loads(pickle.dumps(caught.value)).fields == caught.value.fields
    for lease in leases:
        lease.close()
    waiter.join(PATIENCE)
