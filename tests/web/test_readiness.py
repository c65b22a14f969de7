"""`dbpool.readiness_route`: whether the app can serve, from what is known already."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pyramid.config import Configurator
from pyramid.request import Request
from sqlalchemy import Engine, event, make_url, select, text

from pyramid_dbpool import DatabaseUnavailable, get_engine
from pyramid_dbpool.drivers.connect_failures import ConnectFailure
from pyramid_dbpool.embedded import PrivatePostgres
from pyramid_dbpool.engines.registry import process_engine
from pyramid_dbpool.events import Kind
from pyramid_dbpool.pool.managed import ManagedPool
from pyramid_dbpool.pool.opener import BackgroundOpener
from pyramid_dbpool.web import readiness
from pyramid_dbpool.web.readiness import FRESH_BAD, FRESH_GOOD, LONGEST_PROBE, PoolReadiness
from tests.support.happened import Happened
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
    joined()
    return answer


def joined() -> None:
    """Wait for the end of the probes."""
    for thread in threading.enumerate():
        if thread.name == "dbpool-readiness":
            thread.join(30)


def at(pool: PoolReadiness, seconds: float) -> PoolReadiness:
    pool._clock.now = 1000.0 + seconds  # type: ignore[attr-defined]
    return pool


def test_it_is_off_by_default(psycopg_url: str) -> None:
    """No path is taken from the app."""
    with app({"sqlalchemy.url": psycopg_url}, *PARTS) as web:
        web.get("/ready", status=404)


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a first look wait however slow the machine is."""
    monkeypatch.setattr(readiness, "FIRST_LOOK", 30.0)


def test_the_first_look_waits_for_its_probe(settings: dict[str, Any], patience: None) -> None:
    """A process that nobody has used yet is ready at once, and its pool is still empty."""
    with app(settings, *PARTS) as web:
        answer = web.get("/ready", status=200)
        assert answer.text == "default: ready\n"
        assert answer.headers["Cache-Control"] == "no-store"
        assert (web.checked_out(), web.pool.snapshot().opened) == (0, 0)


def test_the_first_look_waits_for_all_pools_at_once(
    settings: dict[str, Any], patience: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does not answer does not use up the time of the others."""
    both = settings | {"sqlalchemy.other.url": settings["sqlalchemy.url"]}
    # Each probe ends when the other one has begun.
    met = threading.Barrier(2)

    def meet(_made: object) -> None:
        met.wait(30)

    monkeypatch.setattr(readiness, "try_to_connect", meet)
    with app(both, *PARTS) as web:
        assert web.get("/ready", status=200).text == "default: ready\nother: ready\n"


def test_a_first_look_does_not_wait_for_long(pool: PoolReadiness, probes: Probes) -> None:
    """Nor does it say that a server is ready of which nobody has heard; the next one knows."""
    probes.hold.clear()
    assert not pool.is_ready()
    assert not at(pool, readiness.FIRST_LOOK).is_ready()
    probes.hold.set()
    joined()
    assert pool.is_ready() and probes.count == 1


def test_a_look_after_a_long_time_is_a_first_one(
    pool: PoolReadiness, probes: Probes, patience: None
) -> None:
    """What was known an hour ago says nothing, either way."""
    assert pool.is_ready()
    probes.error = ConnectionRefusedError()
    assert not at(pool, 3600).is_ready()
    probes.error = None
    assert at(pool, 7200).is_ready() and probes.count == 3


@pytest.mark.parametrize("poolclass", ["", "QueuePool", "NullPool"])
def test_a_probe_uses_the_engine_that_is_there(
    settings: dict[str, Any], patience: None, poolclass: str
) -> None:
    """A hook that counts, or starts something, ran once; what it listens to sees the probe."""
    hooked: list[Any] = []
    connected: list[Any] = []

    def hook(engine: Any) -> None:
        hooked.append(engine)
        event.listen(engine, "do_connect", lambda *_: connected.append(engine))

    settings["dbpool.engine_hook"] = hook
    settings |= {"sqlalchemy.poolclass": poolclass} if poolclass else {}
    with app(settings, *PARTS) as web:
        web.get("/ready", status=200)
        assert hooked == connected == [web.engine]
        assert web.checked_out() == 0


def test_a_busy_pool_is_ready_and_its_line_is_left_alone(
    settings: dict[str, Any], patience: None
) -> None:
    """The probe takes no slot and waits behind nobody."""
    settings |= {"sqlalchemy.pool_size": "1", "sqlalchemy.max_overflow": "0"}
    with app(settings, *PARTS) as web, web.engine.connect():
        seen = PoolReadiness(process_engine(settings))
        # What the pool has seen itself is too old to tell.
        seen._contacts = web.pool.contacts
        before = web.pool.snapshot()
        assert seen.is_ready()
        after = web.pool.snapshot()
        assert (after.opened, after.waiting, after.leased) == (1, 0, 1)
        assert (after.checkouts, after.waited) == (before.checkouts, before.waited)


def test_a_server_that_is_away_is_503(away: dict[str, Any]) -> None:
    """And nothing says where it would be."""
    with app(away, *PARTS) as web:
        for _ in range(20):
            answer = web.get("/ready", status=503)
        assert answer.text == "default: not ready\n"


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Give the lines that the log has got of readiness."""
    return lambda: [each.message for each in caplog.records if each.name == readiness.__name__]


def test_the_log_says_once_why_nobody_is_sent_here(
    settings: dict[str, Any], told: Callable[[], list[str]]
) -> None:
    """Where only a load balancer asks, no request is refused that could say so."""
    wrong = make_url(settings["sqlalchemy.url"]).set(database="nowhere")
    settings["sqlalchemy.url"] = wrong
    pool = PoolReadiness(process_engine(settings), Clock())
    for seconds in range(5):
        assert not is_ready(at(pool, 2 * FRESH_BAD * seconds))
    [line] = told()
    assert line.startswith(
        "dbpool.readiness_route: not ready: pool 'default': no connection can be opened with this"
        " configuration; check sqlalchemy.url ("
    )
    assert line.endswith('database "nowhere" does not exist)')


def test_the_log_says_that_this_is_over(
    pool: PoolReadiness, probes: Probes, told: Callable[[], list[str]], happened: Happened
) -> None:
    """And says anew what comes later; a server that is ready is not mentioned."""
    for seconds, away in enumerate((False, True, True, False, False, True)):
        probes.error = OSError("no route") if away else None
        is_ready(at(pool, seconds * 2 * FRESH_GOOD))
    away_line = (
        "dbpool.readiness_route: not ready: pool 'default': the database server of"
        " sqlalchemy.url is unreachable (no route)"
    )
    ready = "dbpool.readiness_route: pool 'default' is ready after 40.0 s."
    assert told() == [away_line, ready, away_line]
    assert [(each.kind, each.pool, each.fields) for each in happened()] == [
        (Kind.NOT_READY, "default", {"reason": "unreachable"}),
        (Kind.READY, "default", {"seconds": 40.0}),
        (Kind.NOT_READY, "default", {"reason": "unreachable"}),
    ]


def test_a_refused_login_puts_what_is_known_in_doubt(
    settings: dict[str, Any], probes: Probes
) -> None:
    """It is looked at within a second, and not ten; a probe that was let in is believed again."""
    engine = get_engine(settings | {"dbpool.engine_hook": refuse_logins})
    pool = PoolReadiness(process_engine(settings | {"dbpool.engine_hook": refuse_logins}), Clock())
    assert is_ready(pool) and probes.count == 1
    with pytest.raises(DatabaseUnavailable):
        engine.connect()
    is_ready(at(pool, FRESH_BAD / 2))
    assert probes.count == 1
    is_ready(at(pool, FRESH_BAD))
    assert probes.count == 2
    is_ready(at(pool, 3 * FRESH_BAD))
    assert probes.count == 2


def refuse_logins(engine: Engine) -> None:
    """Let its server know no such role."""

    @event.listens_for(engine, "do_connect")
    def ask_for_nobody(_dialect: Any, _record: Any, _args: Any, parameters: Any) -> None:
        parameters["user"] = "nobody"


def test_what_the_pool_has_said_is_not_said_again(
    away: dict[str, Any], told: Callable[[], list[str]]
) -> None:
    """An outage that requests meet is two lines, as without the route."""
    with app(away | {"sqlalchemy.pool_timeout": "0"}, *PARTS, index=select_one) as web:
        web.get(status=503)
        assert web.pool.outage is not None
        pool = PoolReadiness(process_engine(away | {"sqlalchemy.pool_timeout": "0"}), Clock())
        pool._learn(pool._probing_since, OSError("no route"))
        assert told() == []


def select_one(request: Request) -> str:
    """Need the database."""
    return str(request.db.scalar(select(1)))


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


def test_knowledge_is_believed_for_a_while(
    pool: PoolReadiness, probes: Probes, patience: None
) -> None:
    """One probe, then none until it is stale; while it is asked again the old answer stands."""
    assert [is_ready(pool), is_ready(pool)] == [True, True]
    assert is_ready(at(pool, FRESH_GOOD - 1)) and probes.count == 1
    probes.error = ConnectionRefusedError()
    probes.hold.clear()
    assert at(pool, FRESH_GOOD).is_ready()
    probes.hold.set()
    joined()
    assert probes.count == 2
    assert not is_ready(pool)
    assert not is_ready(at(pool, FRESH_GOOD + FRESH_BAD / 2)) and probes.count == 2
    probes.error = None
    probes.hold.clear()
    assert not at(pool, FRESH_GOOD + FRESH_BAD).is_ready()
    probes.hold.set()
    joined()
    assert probes.count == 3
    assert is_ready(pool)


def test_one_probe_at_a_time(
    pool: PoolReadiness, probes: Probes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the network has swallowed it."""
    monkeypatch.setattr(readiness, "FIRST_LOOK", 0.0)
    probes.hold.clear()
    assert [pool.is_ready() for _ in range(5)] == [False] * 5
    until(lambda: probes.count == 1, "the probe")
    at(pool, LONGEST_PROBE).is_ready()
    until(lambda: probes.count == 2, "another probe")
    probes.hold.set()


def test_a_probe_that_was_given_up_changes_nothing(
    pool: PoolReadiness, probes: Probes, patience: None
) -> None:
    """What it says when it ends at last is out of date."""
    assert is_ready(pool)
    pool._learn(at(pool, 1)._clock() - LONGEST_PROBE, ConnectionRefusedError())
    assert is_ready(pool)


def test_a_child_does_not_wait_for_its_parents_probe(
    pool: PoolReadiness, probes: Probes, patience: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no such thread, and knows nothing: it begins one of its own."""
    assert is_ready(pool)
    pool._probing_since, pool._over = pool._clock(), threading.Event()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert is_ready(pool)
    assert probes.count == 2


def test_where_no_thread_can_start_what_is_known_stands(
    pool: PoolReadiness, patience: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At interpreter shutdown the route still answers; a limit of the machine may pass."""
    with monkeypatch.context() as limits:
        limits.setattr(threading.Thread, "start", no_thread)
        assert not pool.is_ready()
    assert pool.is_ready()


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
    # What is opened in its place, beside, would be somebody who has seen the server.
    made = process_engine(settings | {"dbpool.min_idle": "0"})
    pool = PoolReadiness(made, Clock())
    with made.engine.connect() as connection:
        assert pool.is_ready()
        connection.invalidate()
    assert is_ready(at(pool, FRESH_GOOD)) and probes.count == 1


def test_a_pool_whose_open_connections_work_is_ready_and_says_how(
    settings: dict[str, Any], probes: Probes
) -> None:
    """Nothing of it would be mended by taking the app out of service."""
    probes.error = ConnectionRefusedError()
    made = process_engine(settings)
    pool = PoolReadiness(made, Clock())
    made.engine.connect().close()
    assert is_ready(pool) and pool.words(True) == "ready"
    assert is_ready(at(pool, FRESH_GOOD)) and probes.count == 1
    assert pool.is_ready()
    assert pool.words(True) == "ready, but no new connection can be opened"
    made.engine.dispose()
    # The probe may be over before the answer, or after it.
    is_ready(at(pool, 2 * FRESH_GOOD))
    assert probes.count == 2
    assert not pool.is_ready()
    probes.error = None
    is_ready(at(pool, 2 * FRESH_GOOD + FRESH_BAD))
    assert pool.is_ready() and pool.words(True) == "ready"


def test_a_pool_that_knows_of_an_outage_weighs_what_works(
    settings: dict[str, Any], probes: Probes
) -> None:
    """As long as open connections answer those who use them, without a probe."""
    made = process_engine(settings)
    pool = PoolReadiness(made, Clock(time.monotonic()))
    assert isinstance(made.engine.pool, ManagedPool)
    opener = made.engine.pool._core.opener
    assert isinstance(opener, BackgroundOpener)
    with made.engine.connect():
        assert pool.is_ready()
        now = time.monotonic()
        # Known to have lasted, a moment ago, and all that is open has been asked.
        opener.openings.away(ConnectFailure.UNREACHABLE, OSError("no such host"), now, now)
        assert opener.outage is not None
        opener.outage.since = now - 60
        assert not pool.is_ready()
    with made.engine.connect():
        assert pool.is_ready()
        assert pool.words(True) == "ready, but no new connection can be opened"
    assert probes.count == 0


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
        looks = process_engine(settings).writes.looks
        assert web.get("/ready", status=503).text == "default: not ready\n"

        def is_looked_again() -> bool:
            assert web.get("/ready", status=503).status_int == 503
            return process_engine(settings).writes.looks > looks + 1

        wait_for(is_looked_again)
        postgres_pair.lead_to(postgres_pair.primary)
        wait_for(lambda: web.get("/ready", status="*").status_int == 200)
        web.client.post("/")


def test_a_paused_pool_is_not_ready_and_its_server_is_left_alone(
    settings: dict[str, Any], probes: Probes
) -> None:
    """Its callers would wait for their whole time; all is well again when it is resumed."""
    with app(settings, *PARTS) as web:
        web.pool.pause()
        answer = web.get("/ready", status=503)
        assert (answer.text, probes.count) == ("default: not ready: paused\n", 0)
        web.pool.resume()
        assert web.get("/ready", status=200).text == "default: ready\n"
        assert probes.count == 1


def test_a_probe_that_ends_in_a_pause_changes_nothing(pool: PoolReadiness, probes: Probes) -> None:
    """Nor does the log say that anything was wrong with the server."""
    probes.hold.clear()
    pool.ask()
    paused = pool._made.engine.pool
    assert isinstance(paused, ManagedPool)
    paused.pause()
    probes.hold.set()
    wait_for(pool._over.is_set)
    assert pool._known_at == float("-inf")
    assert (pool.words(is_ready(pool)), pool._ready) == ("not ready: paused", False)
    paused.resume()
    assert is_ready(pool)
