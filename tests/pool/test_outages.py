"""`ManagedPool` with the plugin's defaults and a server that is away, full or closed to us."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, make_url, select, text
from sqlalchemy.exc import OperationalError, ResourceClosedError
from sqlalchemy.pool import NullPool

from pyramid_dbpool import DatabaseUnavailable, deadline, dispose_engine, get_engine
from pyramid_dbpool.drivers.sockets import has_ended
from pyramid_dbpool.embedded import PrivatePostgres
from pyramid_dbpool.errors import PoolTimeout
from tests.support.pool_load import (
    PATIENCE,
    Calls,
    Load,
    fill,
    managed,
    plugin_engine,
    unit,
    until,
)
from tests.support.servers.ports import deaf_port
from tests.web.retry.views import session_ended

NewPostgres = Callable[..., PrivatePostgres]
NewDatabase = Callable[[str], str]

DRIVERS = ("psycopg", "psycopg2")
BACKENDS = ("postgresql+psycopg", "postgresql+psycopg2", "mysql+pymysql", "mysql+mysqldb")
ENOUGH = {"sqlalchemy.pool_timeout": "60"}

SomeEngine = Callable[..., Engine]


@pytest.fixture
def some_engine() -> Iterator[SomeEngine]:
    """Give the plugin's engines for a URL; they are closed after the test."""
    made: list[tuple[dict[str, str], str]] = []

    def get(url: str, name: str = "default", **settings: str) -> Engine:
        prefix = "sqlalchemy." if name == "default" else f"sqlalchemy.{name}."
        made.append(({f"{prefix}url": url, **settings}, name))
        return get_engine(*made[-1])

    yield get
    for settings, name in made:
        dispose_engine(settings, name)


def failures(engine: Engine, kind: str) -> int:
    """Count the openings of this pool that failed in this way."""
    return managed(engine).snapshot().open_failed.get(kind, 0)


def assert_outage(error: BaseException) -> None:
    """Check that an error tells of the outage, and not of a full pool."""
    assert isinstance(error, DatabaseUnavailable), repr(error)
    assert error.orig is not None
    assert "QueuePool limit" not in str(error)


@pytest.mark.parametrize("backend", BACKENDS)
def test_wrong_password_fails_all_at_once(
    backend: str, new_database: NewDatabase, new_postgres: NewPostgres, some_engine: SomeEngine
) -> None:
    """Nobody waits for a password to become right."""
    if backend.startswith("mysql"):
        url = make_url(new_database(backend))
    else:
        server = new_postgres(password="right")
        url = make_url(server.url(backend.partition("+")[2]))
    wrong = url.set(password="wrong").render_as_string(hide_password=False)
    engine = some_engine(wrong, **ENOUGH)
    calls = Calls(30, lambda: unit(engine)).wait()
    assert len(calls.errors) == 30
    for error in calls.errors:
        assert_outage(error)
        assert "unreachable" not in str(error)
        assert "wrong" not in str(error)
    assert len({id(error) for error in calls.errors}) == 30
    # A refused login takes a moment on a busy machine; the timeout is a minute.
    assert max(calls.seconds) < PATIENCE / 2


@pytest.mark.parametrize("driver", DRIVERS)
def test_server_that_comes_back_in_time_serves_those_who_waited(
    driver: str, new_postgres: NewPostgres, some_engine: SomeEngine
) -> None:
    """All who came while the server was away are served within their time."""
    server = new_postgres()
    engine = some_engine(
        server.url(driver), **ENOUGH, **{"dbpool.outage_grace": "60", "dbpool.max_waiting": "50"}
    )
    fill(engine, 5)
    core = managed(engine)._core
    drivers = [core.source.connection(each.record) for each in core.line.idle]
    server.kill()
    # A unit that begins before the end has come through fails, as it must.
    until(lambda: all(has_ended(each) for each in drivers), "the kernel knows")
    calls = Calls(30, lambda: unit(engine))
    until(lambda: failures(engine, "unreachable") >= 3, "it is missed")
    assert managed(engine).snapshot().outage_seconds is not None
    server.start()
    assert calls.wait().errors == []
    assert managed(engine).snapshot().outage_seconds is None


@pytest.mark.slow
@pytest.mark.parametrize("driver", DRIVERS)
def test_after_the_grace_callers_are_refused_at_once(
    driver: str, new_postgres: NewPostgres, some_engine: SomeEngine
) -> None:
    """The error says for how long the server has been away; live connections are handed out."""
    server = new_postgres()
    engine = some_engine(server.url(driver), **ENOUGH, **{"dbpool.outage_grace": "1"})
    # One that is out all the time must not keep the others waiting.
    leak = engine.connect()
    fill(engine, 3)
    server.kill()
    # The first may be under way on connections whose end has not come through yet.
    for error in Calls(8, lambda: unit(engine)).wait().errors:
        assert isinstance(error, OperationalError)
    later = Calls(8, lambda: unit(engine)).wait()
    print(f"refused within {max(later.seconds):.3f} s: {later.errors[0]}")
    assert len(later.errors) == 8
    for error in later.errors:
        assert_outage(error)
    assert max(later.seconds) < 0.5
    server.start()
    until(lambda: Calls(1, lambda: unit(engine)).wait().errors == [], "served again", within=10)
    leak.close()


def password_set(connection: Connection, password: str) -> None:
    """Change the password of whoever this connection is logged in as."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"ALTER ROLE CURRENT_USER PASSWORD '{password}'"))
    else:
        connection.execute(text(f"SET PASSWORD = PASSWORD('{password}')"))
    connection.commit()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_password_that_is_rotated_fails_nobody(
    backend: str,
    new_database: NewDatabase,
    new_postgres: NewPostgres,
    some_engine: SomeEngine,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Connections that are open serve all; new ones are tried again until they are accepted."""
    url = changeable(backend, new_database, new_postgres)
    engine = some_engine(url, **ENOUGH)
    with engine.connect() as other:
        unit(engine)
        before = managed(engine).snapshot().opened
        password_set(other, "new")
        load = Load(engine, 8)
        until(lambda: failures(engine, "configuration") >= 3, "new ones are refused")
        load.goes_on()
        with pytest.raises(PoolTimeout) as caught, deadline(0.0), engine.connect():
            pass
        assert managed(engine).snapshot().opened == before
        password_set(other, "right")
        until(lambda: managed(engine).snapshot().opened > before, "more are opened")
        load.goes_on()
        load.stop()
    assert load.errors == []
    assert "sqlalchemy.url" in str(caught.value)
    assert "2 open ones" in str(caught.value)
    assert "QueuePool limit" not in str(caught.value)
    until(lambda: len(said(caplog)) >= 2, "its end is said")
    refused, accepted = said(caplog)
    assert refused.startswith(
        "pool 'default': no connection can be opened with this configuration"
    )
    assert "sqlalchemy.url" in refused
    assert "right" not in refused
    assert "accepts new connections again after" in accepted
    assert managed(engine).outage is None


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_refused_login_is_tried_with_pauses_by_callers_who_do_not_wait(
    driver: str, new_database: NewDatabase, new_postgres: NewPostgres, some_engine: SomeEngine
) -> None:
    """They open for themselves; a line without time is full, and no fault of the settings."""
    url = changeable(f"postgresql+{driver}", new_database, new_postgres)
    engine = some_engine(url, **{"sqlalchemy.pool_timeout": "0"})
    with engine.connect() as other:
        password_set(other, "new")
        refused = []
        for _ in range(20):
            with pytest.raises(PoolTimeout) as caught:
                engine.connect()
            refused.append(str(caught.value))
        assert failures(engine, "configuration") < 10
        assert all("password authentication failed" in each for each in refused)
        password_set(other, "right")

        def is_served() -> bool:
            try:
                unit(engine)
            except PoolTimeout:
                return False
            return True

        until(is_served, "a caller is served")


def changeable(backend: str, new_database: NewDatabase, new_postgres: NewPostgres) -> str:
    """Return the URL of a user whose password is `right`, and who may change it."""
    if not backend.startswith("mysql"):
        return new_postgres(password="right").url(backend.partition("+")[2])
    url = make_url(new_database(backend))
    owner = plugin_engine(url.render_as_string(hide_password=False), 1, 0)
    name = f"rotated_{url.database}"[:32]
    with owner.begin() as connection:
        connection.execute(text(f"CREATE OR REPLACE USER {name}@'%' IDENTIFIED BY 'right'"))
        connection.execute(text(f"GRANT ALL ON {url.database}.* TO {name}@'%'"))
    owner.dispose()
    return url.set(username=name, password="right").render_as_string(hide_password=False)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """List what the pool has said of outages."""
    mine = [each for each in caplog.records if each.name == "pyramid_dbpool.pool.outage"]
    return [each.getMessage() for each in mine]


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_openings_that_fail_beside_open_connections_fail_nobody(
    backend: str, new_database: NewDatabase, new_postgres: NewPostgres, some_engine: SomeEngine
) -> None:
    """However long they do; a connection that is out all the time changes nothing."""
    url = changeable(backend, new_database, new_postgres)
    engine = some_engine(url, **ENOUGH, **{"dbpool.outage_grace": "1"})
    elsewhere = {"host": "127.0.0.1", "port": deaf_port()}
    arguments: dict[str, object] = {}
    event.listen(engine, "do_connect", lambda *given: given[3].update(arguments))
    leak = engine.connect()
    fill(engine, 2)
    opened = managed(engine).snapshot().opened
    arguments |= elsewhere
    load = Load(engine, 8)

    def has_lasted() -> bool:
        return (managed(engine).snapshot().outage_seconds or 0.0) > 4.0

    until(has_lasted, "the outage lasts")
    assert not managed(engine).is_cut_off
    load.goes_on()
    with pytest.raises(PoolTimeout, match="Open ones work"), deadline(0.0):
        engine.connect()
    assert managed(engine).snapshot().opened == opened
    arguments["port"] = make_url(url).port
    until(lambda: managed(engine).snapshot().opened > opened, "more are opened")
    load.stop()
    leak.close()
    assert load.errors == []


def role_with_limit(server: PrivatePostgres, limit: int) -> str:
    """Make a role that may have so many connections; return its URL for psycopg."""
    owner = plugin_engine(server.url(), 1, 0)
    with owner.begin() as connection:
        connection.execute(text(f"CREATE ROLE few LOGIN PASSWORD 'x' CONNECTION LIMIT {limit}"))
    owner.dispose()
    url = make_url(server.url()).set(username="few", password="x")
    return url.render_as_string(hide_password=False)


@pytest.mark.parametrize("driver", DRIVERS)
def test_pools_that_share_a_limit_serve_everybody(
    driver: str, new_postgres: NewPostgres, some_engine: SomeEngine
) -> None:
    """Two pools want ten connections of the four that a role may have; nobody fails."""
    url = role_with_limit(new_postgres(), 4).replace("+psycopg:", f"+{driver}:")
    engines = [some_engine(url, name) for name in ("one", "two")]
    for engine in engines:
        unit(engine)
    loads = [Load(engine, 8) for engine in engines]
    for load in loads:
        load.goes_on()
    until(
        lambda: any(failures(each, "saturated") for each in engines),
        "the limit is met",
    )
    for load in loads:
        load.goes_on()
        load.stop()
        print(f"{load.done} units, {len(load.errors)} failed")
        assert load.errors == []


OTHER_PROCESS = """
import sys
from tests.support.pool_load import Calls, plugin_engine, unit
engine = plugin_engine(sys.argv[1])
unit(engine)
print("warm", flush=True)
sys.stdin.readline()
for _ in range(20):
    errors = Calls(8, lambda: unit(engine)).wait().errors
    assert not errors, errors
engine.dispose()
print("served", flush=True)
"""


def test_processes_that_share_a_limit_serve_everybody(
    new_postgres: NewPostgres, some_engine: SomeEngine
) -> None:
    """The same with the pool of another process."""
    url = role_with_limit(new_postgres(), 4)
    engine = some_engine(url)
    unit(engine)
    command = [sys.executable, "-c", OTHER_PROCESS, url]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "warm\n"
        load = Load(engine, 8)
        other.stdin.write("go\n")
        other.stdin.flush()
        assert other.stdout.readline() == "served\n"
        load.stop()
    assert load.errors == []


def test_full_server_is_waited_for_until_the_deadline(
    new_postgres: NewPostgres, some_engine: SomeEngine
) -> None:
    """Somebody else has them all: an error when time is over, served if one gets free."""
    url = role_with_limit(new_postgres(), 2)
    patience = {"sqlalchemy.modest.pool_timeout": "60"}
    greedy, modest = some_engine(url, "greedy"), some_engine(url, "modest", **patience)
    leases = [greedy.connect() for _ in range(2)]

    def hasty() -> None:
        with deadline(2):
            unit(modest)

    errors = Calls(3, hasty).wait().errors
    assert len(errors) == 3
    for error in errors:
        assert isinstance(error, PoolTimeout)
        assert "too many connections for role" in str(error)
        assert "QueuePool limit" not in str(error)
    refused = failures(modest, "saturated")
    calls = Calls(3, lambda: unit(modest))
    until(lambda: failures(modest, "saturated") > refused, "full again")
    leases[0].invalidate()
    assert calls.wait().errors == []
    for lease in leases:
        lease.close()


@pytest.mark.parametrize("question", [1, 2, 3])
@pytest.mark.parametrize("poolclass", ["ManagedPool", "QueuePool"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_first_session_of_all_may_be_ended(
    backend: str,
    new_database: NewDatabase,
    some_engine: SomeEngine,
    poolclass: str,
    question: int,
) -> None:
    """While SQLAlchemy asks it what kind of server it is at: an outage like others."""
    url, asked = new_database(backend), list[object]()
    outside = create_engine(url, poolclass=NullPool)
    others = {} if poolclass == "ManagedPool" else {"sqlalchemy.poolclass": poolclass}
    engine = some_engine(url, **others)

    def end_first(cursor: Any, *_args: object) -> None:
        asked.append(cursor)
        if len(asked) == question:
            session_ended(cursor.connection, outside)

    event.listen(engine, "do_execute", end_first)
    if others:
        with pytest.raises((OperationalError, ResourceClosedError)):
            engine.connect()
    with engine.connect() as connection:
        assert connection.scalar(select(1)) == 1
    assert len(asked) > question


def test_a_server_that_goes_away_under_the_first_questions_is_waited_for(sqlite_url: str) -> None:
    """SQLAlchemy says that a connection is closed, and not why."""
    engine, closed = plugin_engine(sqlite_url, 1, 0), [True]

    def first_questions(_connection: object, _record: object) -> None:
        if closed:
            closed.pop()
            raise ResourceClosedError("This Connection is closed")

    event.listen(engine, "connect", first_questions)
    with engine.connect() as connection:
        assert connection.scalar(select(1)) == 1
    assert not closed
    engine.dispose()
