"""`dbpool.readiness_route`: whether the app can serve, from what is known already."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pyramid.config import Configurator
from pyramid.request import Request
from sqlalchemy import make_url, select, text

from pyramid_dbpool.embedded import PrivatePostgres
from pyramid_dbpool.engines.registry import process_engine
from pyramid_dbpool.web import readiness
from pyramid_dbpool.web.readiness import FRESH_BAD, FRESH_GOOD, LONGEST_PROBE, PoolReadiness
from tests.support.makers import wait_for
from tests.support.pool_load import until
from tests.support.servers.failover import PostgresPair
from tests.support.servers.ports import deaf_port
from tests.support.webapp import PARTS, app
from tests.web.retry.views import settings_for


@pytest.fixture
def settings(psycopg_url: str) -> dict[str, Any]:
    """Settings of an app with the route."""
    return {"sqlalchemy.url": psycopg_url, "dbpool.readiness_route": "/ready"}


@pytest.fixture
def away(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of an app whose server is not there."""
    url = make_url(settings["sqlalchemy.url"]).set(port=deaf_port())
    return settings | {"sqlalchemy.url": url.render_as_string(hide_password=False)}


class Probes:
    """Stands in for the probe: counts, answers what it is told, and can be held up."""

    def __init__(self) -> None:
        self.count = 0
        self.error: Exception | None = None
        self.hold = threading.Event()
        self.hold.set()

    def __call__(self, _made: object) -> Exception | None:
        self.count += 1
        assert self.hold.wait(30)
        return self.error


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Probes]:
    """Replace the probe."""
    made = Probes()
    monkeypatch.setattr(readiness, "try_to_connect", made)
    yield made
    made.hold.set()


class Clock:
    """A clock that tests set."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def pool(settings: dict[str, Any], probes: Probes) -> PoolReadiness:
    """What is known of a pool that nobody has used."""
    return PoolReadiness(process_engine(settings), Clock())


def is_ready(pool: PoolReadiness) -> bool:
    """Ask, and let the probe that this may have started end."""
    answer = pool.is_ready()
    for thread in threading.enumerate():
        if thread.name == "dbpool-readiness":
            thread.join(30)
    return answer


def at(pool: PoolReadiness, seconds: float) -> PoolReadiness:
    pool._clock.now = 1000.0 + seconds  # type: ignore[attr-defined]
    return pool


def test_it_is_off_by_default(psycopg_url: str) -> None:
    """No path is taken from the app."""
    with app({"sqlalchemy.url": psycopg_url}, *PARTS) as web:
        web.get("/ready", status=404)


def test_unknown_is_not_ready_until_a_probe_has_seen_the_server(settings: dict[str, Any]) -> None:
    """The probe runs beside; the next look knows."""
    with app(settings, *PARTS) as web:
        answer = web.get("/ready", expect_errors=True)
        assert answer.text.startswith("default: ")
        assert answer.headers["Cache-Control"] == "no-store"
        until(lambda: web.get("/ready", expect_errors=True).status_int == 200, "ready")
        assert web.get("/ready").text == "default: ready\n"
        assert web.checked_out() == 0


def test_a_server_that_is_away_is_503(away: dict[str, Any]) -> None:
    """And nothing says where it would be."""
    with app(away, *PARTS) as web:
        for _ in range(20):
            answer = web.get("/ready", status=503)
        assert answer.text == "default: not ready\n"


def test_it_asks_nobody_and_runs_nothing_of_the_app(settings: dict[str, Any]) -> None:
    """Neither a security policy nor a transaction: both might need the database."""

    def include(config: Configurator) -> None:
        config.set_security_policy(AsksTheDatabase())
        config.set_default_permission("see")

    with app(settings, *PARTS, include) as web:
        until(lambda: web.get("/ready", expect_errors=True).status_int == 200, "ready")


class AsksTheDatabase:
    """A security policy that fails the test if it is asked."""

    def identity(self, _request: Request) -> None:
        raise AssertionError

    authenticated_userid = identity

    def permits(self, *_: object) -> None:
        raise AssertionError


def test_knowledge_is_believed_for_a_while(pool: PoolReadiness, probes: Probes) -> None:
    """One probe, then none until it is stale; while it is asked again the old answer stands."""
    assert [is_ready(pool), is_ready(pool)] == [False, True]
    assert is_ready(at(pool, FRESH_GOOD - 1)) and probes.count == 1
    probes.error = ConnectionRefusedError()
    assert is_ready(at(pool, FRESH_GOOD)) and probes.count == 2
    assert not is_ready(pool)
    assert not is_ready(at(pool, FRESH_GOOD + FRESH_BAD / 2)) and probes.count == 2
    probes.error = None
    assert not is_ready(at(pool, FRESH_GOOD + FRESH_BAD)) and probes.count == 3
    assert is_ready(pool)


def test_one_probe_at_a_time(pool: PoolReadiness, probes: Probes) -> None:
    """Unless the network has swallowed it."""
    probes.hold.clear()
    assert [pool.is_ready() for _ in range(5)] == [False] * 5
    until(lambda: probes.count == 1, "the probe")
    at(pool, LONGEST_PROBE).is_ready()
    until(lambda: probes.count == 2, "another probe")
    probes.hold.set()


def test_a_probe_that_was_given_up_changes_nothing(pool: PoolReadiness, probes: Probes) -> None:
    """What it says when it ends at last is out of date."""
    assert [is_ready(pool), is_ready(pool)] == [False, True]
    probes.error = ConnectionRefusedError()
    pool._look(at(pool, 1)._clock() - LONGEST_PROBE)
    assert is_ready(pool)


def test_a_child_does_not_wait_for_its_parents_probe(
    pool: PoolReadiness, probes: Probes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no such thread, and knows nothing."""
    assert [is_ready(pool), is_ready(pool)] == [False, True]
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert not is_ready(pool)
    assert probes.count == 2


def test_where_no_thread_can_start_what_is_known_stands(
    pool: PoolReadiness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At interpreter shutdown the route still answers."""
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    assert not pool.is_ready()


def no_thread(_thread: threading.Thread) -> None:
    raise RuntimeError("can't create new thread at interpreter shutdown")


def test_a_pool_in_use_needs_no_probe(settings: dict[str, Any], probes: Probes) -> None:
    """Connections come back: somebody has talked to the server."""
    made = process_engine(settings)
    pool = PoolReadiness(made, Clock())
    for round_ in range(5):
        with made.engine.connect() as connection:
            connection.scalar(select(1))
        assert at(pool, round_ * 60).is_ready()
    assert probes.count == 0


def test_sqlalchemys_pools_are_probed(settings: dict[str, Any]) -> None:
    """They know nothing by themselves."""
    settings["sqlalchemy.poolclass"] = "QueuePool"
    with app(settings, *PARTS) as web:
        until(lambda: web.get("/ready", expect_errors=True).status_int == 200, "ready")


def test_a_connection_that_comes_back_broken_says_nothing(
    settings: dict[str, Any], probes: Probes
) -> None:
    """A probe has to look."""
    made = process_engine(settings)
    pool = PoolReadiness(made, Clock())
    with made.engine.connect() as connection:
        assert pool.is_ready()
        connection.invalidate()
    assert is_ready(at(pool, FRESH_GOOD)) and probes.count == 1


def test_a_full_server_and_a_full_pool_are_ready(
    settings: dict[str, Any], new_postgres: Callable[..., PrivatePostgres]
) -> None:
    """Saturation passes sooner where traffic keeps coming."""
    server = new_postgres({"max_connections": 2, "superuser_reserved_connections": 0})
    settings |= {
        "sqlalchemy.url": server.url("psycopg"),
        "sqlalchemy.pool_size": "2",
        "sqlalchemy.max_overflow": "0",
    }
    with app(settings, *PARTS) as web, web.engine.connect(), web.engine.connect():
        pool = PoolReadiness(process_engine(settings))
        assert pool.is_ready()
        pool._known_at = float("-inf")
        pool._ready = False
        is_ready(pool)
        assert pool.is_ready()


def test_the_pools_own_knowledge_of_an_outage_comes_first(
    settings: dict[str, Any], probes: Probes, new_postgres: Callable[..., PrivatePostgres]
) -> None:
    """Without a probe while it is fresh; when it is old, a probe finds the server back."""
    server = new_postgres()
    settings |= {"sqlalchemy.url": server.url("psycopg"), "dbpool.outage_grace": "0"}

    def view(request: Request) -> str:
        return str(request.db.scalar(select(1)))

    with app(settings, *PARTS, index=view) as web:
        web.get()
        clock = Clock(time.monotonic())
        pool = PoolReadiness(process_engine(settings), clock)
        assert pool.is_ready()
        server.stop("fast")
        web.get(status=503)
        assert (pool.is_ready(), probes.count) == (False, 0)
        assert web.pool.outage is not None
        # What the pool learns now by looking again is as old as the rest.
        clock.now += 3600
        pool._contacts = 0  # what comes back now was opened before the outage
        is_ready(pool)
        assert pool.is_ready() and probes.count == 1


def test_a_read_only_pool_does_not_decide(away: dict[str, Any], settings: dict[str, Any]) -> None:
    """A replica that is away takes no app out of service; the text names it."""
    both = settings | {
        "sqlalchemy.replica.url": away["sqlalchemy.url"],
        "dbpool.replica.read_only": "true",
    }
    with app(both, *PARTS) as web:
        until(lambda: web.get("/ready", expect_errors=True).status_int == 200, "ready")
        assert web.get("/ready").text == "default: ready\nreplica: not ready\n"


def test_a_server_that_takes_no_writes_is_not_ready(postgres_pair: PostgresPair) -> None:
    """Not before new connections reach one that does, though nobody writes meanwhile."""
    settings = settings_for(postgres_pair.url()) | {"dbpool.readiness_route": "/ready"}
    settings["dbpool.outage_grace"] = "0"

    def write(request: Request) -> None:
        request.db.execute(text("CREATE TABLE new ()"))

    postgres_pair.lead_to(postgres_pair.standby)
    with app(settings, *PARTS, index=write) as web:
        wait_for(lambda: web.get("/ready", status="*").status_int == 200)
        web.client.post("/", status=503)
        looks = process_engine(settings).writes._looks
        assert web.get("/ready", status=503).text == "default: not ready\n"

        def is_looked_again() -> bool:
            assert web.get("/ready", status=503).status_int == 503
            return process_engine(settings).writes._looks > looks + 1

        wait_for(is_looked_again)
        postgres_pair.lead_to(postgres_pair.primary)
        wait_for(lambda: web.get("/ready", status="*").status_int == 200)
        web.client.post("/")
