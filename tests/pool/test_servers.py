"""`ManagedPool` with the plugin's defaults on real servers that end its connections."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from pyramid_dbpool.embedded import PrivatePostgres
from tests.support.pool_load import Load, fill, managed, plugin_engine, unit, until
from tests.support.servers.mariadb import MariaDB

NewPostgres = Callable[..., PrivatePostgres]
NewDatabase = Callable[[str], str]

# More than connections, so that somebody always waits.
CONNECTIONS, THREADS = 4, 12


class Server(Protocol):
    """A server of the test's own."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def url(self, driver: str) -> str: ...


@pytest.fixture(params=["psycopg", "psycopg2", "pymysql"])
def server(request: pytest.FixtureRequest, new_postgres: NewPostgres) -> tuple[Server, str]:
    """Give a server that the test may stop, and the URL for each driver."""
    if request.param != "pymysql":
        ours = new_postgres()
        return ours, ours.url(request.param)
    theirs: MariaDB = request.getfixturevalue("new_mariadb")()
    return theirs, theirs.url(request.param)


@pytest.fixture
def make_engine() -> Iterator[Callable[..., Engine]]:
    """Make engines with the plugin's defaults, and close them after the test."""
    made: list[Engine] = []

    def make(url: str, size: int = CONNECTIONS, overflow: int = 0, **changed: Any) -> Engine:
        made.append(plugin_engine(url, size, overflow, **changed))
        return made[-1]

    yield make
    for engine in made:
        assert managed(engine).checkedout() == 0
        engine.dispose()


MakeEngine = Callable[..., Engine]


# A busy machine may take longer for a start than the plugin's callers wait.
PATIENT = {"pool_timeout": 60.0, "outage_grace": None}


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_restart_under_load_fails_only_units_under_way(
    server: tuple[Server, str], make_engine: MakeEngine, end: str
) -> None:
    """A restart in order, or a crash, costs at most the unit on each connection."""
    running, url = server
    engine = make_engine(url, **PATIENT)
    load = Load(engine, THREADS)
    load.goes_on()
    getattr(running, end)()
    running.start()
    load.goes_on()
    load.stop()
    print(f"{end}: {len(load.errors)} of {load.done} units failed")
    assert len(load.errors) <= CONNECTIONS, load.errors


def test_restart_between_units_fails_none(
    server: tuple[Server, str], make_engine: MakeEngine
) -> None:
    """Idle connections that the server closed are never handed out, nor reopened in turn."""
    running, url = server
    engine = make_engine(url, 8, **PATIENT)
    fill(engine, 8)
    opened = managed(engine).snapshot().opened
    running.stop()
    running.start()
    unit(engine)
    numbers = managed(engine).snapshot()
    assert numbers.opened - opened <= 3
    until(lambda: managed(engine).snapshot().closed.get("dead") == 8, "all eight are closed")


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_terminated_backends_fail_only_units_under_way(
    new_database: NewDatabase, make_engine: MakeEngine, driver: str
) -> None:
    """`pg_terminate_backend` of every backend costs at most the unit on each connection."""
    url = new_database(f"postgresql+{driver}")
    engine, outside = make_engine(url, **PATIENT), make_engine(url, 1)
    load = Load(engine, THREADS)
    load.goes_on()
    for times in range(1, 4):
        with outside.connect() as connection:
            ended = connection.scalars(text(TERMINATE)).all()
        assert ended
        load.goes_on()
        print(f"{len(load.errors)} of {load.done} units failed")
        assert len(load.errors) <= times * CONNECTIONS, load.errors
    load.stop()


def test_one_terminated_backend_costs_one_connection(
    psycopg_url: str, make_engine: MakeEngine
) -> None:
    """The others of its age are looked at, not closed."""
    engine = make_engine(psycopg_url, 4)
    fill(engine, 4)
    with engine.connect() as outside, engine.connect() as victim:
        number = victim.scalar(text("SELECT pg_backend_pid()"))
        outside.execute(text(f"SELECT pg_terminate_backend({number})"))
        with pytest.raises(OperationalError):
            victim.execute(text("SELECT 1"))
    fill(engine, 3)
    numbers = managed(engine).snapshot()
    assert numbers.closed == {"invalidated": 1}
    assert numbers.suspicions == 1


TERMINATE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


def test_killed_sessions_of_mariadb_fail_only_units_under_way(
    pymysql_url: str, make_engine: MakeEngine
) -> None:
    """The same with MariaDB's KILL."""
    engine, outside = make_engine(pymysql_url, **PATIENT), make_engine(pymysql_url, 1)
    load = Load(engine, THREADS)
    load.goes_on()
    with outside.connect() as connection:
        others = connection.scalars(text(OTHERS)).all()
        assert others
        for number in others:
            # 1094: that session is over already.
            with suppress_mysql_error(1094):
                connection.execute(text(f"KILL {number}"))
    load.goes_on()
    load.stop()
    print(f"{len(load.errors)} of {load.done} units failed")
    assert len(load.errors) <= CONNECTIONS, load.errors


@contextlib.contextmanager
def suppress_mysql_error(number: int) -> Iterator[None]:
    """Let one of MariaDB's errors pass."""
    try:
        yield
    except OperationalError as error:
        if error.orig is None or error.orig.args[0] != number:
            raise


OTHERS = """
SELECT id FROM information_schema.processlist WHERE db = database() AND id <> connection_id()
"""

IDLE_LIMIT = {
    "psycopg": "SET SESSION idle_session_timeout = 100",
    "psycopg2": "SET SESSION idle_session_timeout = 100",
    "pymysql": "SET SESSION wait_timeout = 1",
}


@pytest.mark.parametrize("driver", IDLE_LIMIT)
def test_connections_that_the_server_closed_for_idleness_are_replaced(
    new_database: NewDatabase, make_engine: MakeEngine, driver: str
) -> None:
    """The server closes what is idle; the unit after that does not notice."""
    dialect = "mysql" if driver == "pymysql" else "postgresql"
    url = new_database(f"{dialect}+{driver}")
    engine, outside = make_engine(url), make_engine(url, 1)
    for lease in [engine.connect() for _ in range(CONNECTIONS)]:
        lease.execute(text(IDLE_LIMIT[driver]))
        lease.commit()
        lease.close()
    count = COUNT_MARIADB if driver == "pymysql" else COUNT_POSTGRES

    def all_closed() -> bool:
        # PostgreSQL shows a transaction the same activity all the time.
        with outside.connect() as connection:
            return not connection.scalar(text(count))

    until(all_closed, "the server has closed all")
    unit(engine)
    assert managed(engine).snapshot().closed["dead"] >= 1


COUNT_POSTGRES = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
COUNT_MARIADB = f"SELECT count(*) FROM ({OTHERS}) AS others"
