"""The fixtures that give tests their servers and databases; `conftest.py` loads them."""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import make_url

from pyramid_dbpool import dispose_engine
from pyramid_dbpool.embedded import EmbeddedServerError, PrivatePostgres
from pyramid_dbpool.embedded.cluster import Cluster
from tests.support.full import Full, full_mariadb, full_postgres, full_sqlite
from tests.support.servers import report
from tests.support.servers.databases import KeptDatabases
from tests.support.servers.disks import SmallDisk
from tests.support.servers.failover import MariaDBPair, PostgresPair
from tests.support.servers.mariadb import MariaDB, OfferedMariaDB
from tests.support.servers.pgbouncer import PgBouncer
from tests.support.servers.ports import kept_port
from tests.support.servers.postgres import FAST, Postgres
from tests.support.servers.process import ServerMissing, copy_folder, find_program
from tests.support.servers.proxy import FaultProxy
from tests.support.servers.rabbitmq import OfferedRabbitMQ, RabbitMQ

POSTGRES = ("postgresql+psycopg", "postgresql+psycopg2")
MARIADB = ("mysql+pymysql", "mysql+mysqlconnector", "mysql+mysqldb")
BACKENDS = (*POSTGRES, *MARIADB, "sqlite")

# Who uses one of these fixtures, or looks up one by a parameter, is marked `programs`.
PROGRAMS = {"new_postgres", "new_mariadb", "mariadb", "rabbitmq", "pgbouncer", "pytester"}
PROGRAMS |= {"postgres_pair", "new_postgres_pair", "mariadb_pair", "full_database", "small_disk"}
PROGRAMS |= {"pgbouncer_of_pair", "installed_mariadb", "installed_prometheus"}
PROGRAMS |= {
    "mariadb_url",
    "pymysql_url",
    "mysqlconnector_url",
    "mysqlclient_url",
    "pymysql",
    *MARIADB,
}

OFFERED, PRIVATE = "offered by the environment", "private"


NewDatabase = Callable[[str], str]
NewProxy = Callable[[str], FaultProxy]


@pytest.fixture(scope="session")
def server_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of this run's servers."""
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="session")
def postgres(server_folder: Path) -> Iterator[Postgres]:
    """Give the run's PostgreSQL; without one nothing could be tested, so its lack is an error."""
    offered = os.environ.get("TEST_POSTGRES_URL")
    if offered:
        theirs = Postgres(make_url(offered))
        report.used("PostgreSQL", theirs.version, OFFERED)
        yield theirs
        theirs.stop()
        return
    try:
        server = Postgres.start(server_folder / "postgres")
    except ServerMissing as error:
        pytest.fail(f"the tests need PostgreSQL: {error}", pytrace=False)
    assert server.private
    report.used("PostgreSQL", server.version, f"{PRIVATE}, {server.private.programs}")
    yield server
    server.stop()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Mark the tests that need a program beside the one PostgreSQL."""
    for item in items:
        words = {*item.fixturenames}
        if "request" in words and hasattr(item, "callspec"):
            words |= {each for each in item.callspec.params.values() if isinstance(each, str)}
        if words & PROGRAMS:
            item.add_marker("programs")


def refuse_unmarked(request: pytest.FixtureRequest, server: str) -> None:
    """Fail the test that needs a server, and was to be left out for it."""
    if "not programs" in request.config.option.markexpr:
        pytest.fail(f"this test needs {server}, and is not marked so: pytest.mark.programs")


@pytest.fixture(scope="session")
def mariadb(
    request: pytest.FixtureRequest, server_folder: Path
) -> Iterator[MariaDB | OfferedMariaDB]:
    """Give the run's MariaDB."""
    refuse_unmarked(request, "MariaDB")
    offered = os.environ.get("TEST_MARIADB_URL")
    if offered:
        theirs = OfferedMariaDB(offered)
        report.used("MariaDB", theirs.version, OFFERED)
        yield theirs
        return
    try:
        server = MariaDB(server_folder / "mariadb")
    except ServerMissing as error:
        report.skip_without("MariaDB", str(error))
    server.start()
    report.used("MariaDB", server.version, f"{PRIVATE}, {server.program}")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def rabbitmq(
    request: pytest.FixtureRequest, server_folder: Path
) -> Iterator[RabbitMQ | OfferedRabbitMQ]:
    """Give the run's RabbitMQ."""
    refuse_unmarked(request, "RabbitMQ")
    offered = os.environ.get("TEST_RABBITMQ_URL")
    if offered:
        report.used("RabbitMQ", "of unknown version", OFFERED)
        yield OfferedRabbitMQ(offered)
        return
    try:
        server = RabbitMQ(server_folder / "rabbitmq")
    except ServerMissing as error:
        report.skip_without("RabbitMQ", str(error))
    server.start()
    report.used("RabbitMQ", server.version, f"{PRIVATE}, {server.program}")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def pgbouncer(server_folder: Path, postgres: Postgres) -> Iterator[PgBouncer]:
    """Give a PgBouncer in transaction mode before the run's PostgreSQL."""
    with _running_pgbouncer(server_folder / "pgbouncer", postgres.url()) as server:
        yield server


@pytest.fixture
def pgbouncer_of_pair(tmp_path: Path, postgres_pair: PostgresPair) -> Iterator[PgBouncer]:
    """Give a PgBouncer that finds the primary of a pair by its address."""
    with _running_pgbouncer(tmp_path / "pgbouncer", postgres_pair.url()) as server:
        yield server


@contextmanager
def _running_pgbouncer(folder: Path, url: str) -> Iterator[PgBouncer]:
    try:
        server = PgBouncer(folder, url)
    except ServerMissing as error:
        report.skip_without("PgBouncer", str(error))
    server.start()
    report.used("PgBouncer", server.version, f"{PRIVATE}, {server.program}")
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def empty_cluster(server_folder: Path) -> Path:
    """Give the folder of a cluster to copy, which is quicker than to make one."""
    folder = server_folder / "empty"
    Cluster(folder).make(password=None)
    return folder


@pytest.fixture
def new_postgres(tmp_path: Path, empty_cluster: Path) -> Iterator[Callable[..., PrivatePostgres]]:
    """Start PostgreSQL servers of the test's own, to stop, crash and restrict as it likes.

    The keywords are PrivatePostgres's; `settings` are added to the fast ones.
    """
    servers: list[PrivatePostgres] = []
    ports = ExitStack()

    def start(settings: dict[str, object] | None = None, **options: Any) -> PrivatePostgres:
        folder = tmp_path / f"postgres{len(servers)}"
        if not {"password", "programs"} & options.keys():
            copy_folder(empty_cluster, folder)
        # Nobody else may take it while the server is stopped.
        options.setdefault("port", ports.enter_context(kept_port()))
        server = PrivatePostgres(folder, settings={**FAST, **(settings or {})}, **options)
        servers.append(server)
        try:
            server.start()
        except EmbeddedServerError as error:
            # So says the one in the wheel.
            if "SSL is not supported by this build" in str(error):
                report.skip_without("PostgreSQL with TLS", f"{server.programs} has none")
            raise
        return server

    yield start
    for server in servers:
        server.stop("immediate")
    ports.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Give a disk that can be filled."""
    try:
        disk = SmallDisk(tmp_path / "disk", megabytes=4)
    except ServerMissing as error:
        report.skip_without("a small disk", str(error))
    yield disk
    disk.close()


@pytest.fixture(params=BACKENDS)
def full_database(request: pytest.FixtureRequest) -> Full:
    """Give a database that is full, once for each backend and driver."""
    dialect, _, driver = request.param.partition("+")
    if dialect == "sqlite":
        return full_sqlite(request.getfixturevalue("sqlite_url"))
    if dialect == "postgresql":
        server = request.getfixturevalue("new_postgres")()
        return full_postgres(server, driver, request.getfixturevalue("small_disk"))
    return full_mariadb(request.getfixturevalue("new_database")(request.param))


@pytest.fixture(scope="session")
def kept_postgres_pair(server_folder: Path) -> Iterator[PostgresPair]:
    """Give the run's primary with a standby."""
    pair = PostgresPair(server_folder / "pair")
    yield pair
    pair.stop()


@pytest.fixture
def postgres_pair(kept_postgres_pair: PostgresPair) -> PostgresPair:
    """Give a primary with a standby, for tests that do without a promotion."""
    kept_postgres_pair.execute("DROP SCHEMA public CASCADE")
    kept_postgres_pair.execute("CREATE SCHEMA public")
    kept_postgres_pair.lead_to(kept_postgres_pair.primary)
    return kept_postgres_pair


@pytest.fixture
def new_postgres_pair(tmp_path: Path) -> Iterator[Callable[..., PostgresPair]]:
    """Start a primary with a standby; the keywords are PostgresPair's."""
    with ExitStack() as stops:

        def start(**options: Any) -> PostgresPair:
            pair = PostgresPair(tmp_path / "pair", **options)
            stops.callback(pair.stop)
            return pair

        yield start


@pytest.fixture(scope="session")
def mariadb_pair(server_folder: Path, installed_mariadb: Path) -> Iterator[MariaDBPair]:
    """Give the run's two MariaDB servers behind one address; who uses them sets them up."""
    pair = MariaDBPair(server_folder / "mariadb-pair", installed_mariadb)
    yield pair
    pair.stop()


@pytest.fixture(scope="session")
def installed_mariadb(request: pytest.FixtureRequest, server_folder: Path) -> Path:
    """Give the data of a MariaDB to copy."""
    refuse_unmarked(request, "MariaDB")
    try:
        server = MariaDB(server_folder / "installed")
    except ServerMissing as error:
        report.skip_without("MariaDB", str(error))
    server.folder.mkdir()
    server.prepare()
    return server.data


@pytest.fixture(scope="session")
def installed_prometheus(request: pytest.FixtureRequest) -> Path:
    """Give the folder of Prometheus' programs."""
    refuse_unmarked(request, "Prometheus")
    try:
        return find_program("prometheus").parent
    except ServerMissing as error:
        report.skip_without("Prometheus", str(error))


@pytest.fixture
def new_mariadb(tmp_path: Path, installed_mariadb: Path) -> Iterator[Callable[..., MariaDB]]:
    """Start MariaDB servers of the test's own, to stop, crash and restrict as it likes.

    The keywords are settings of the server.
    """
    servers: list[MariaDB] = []

    def start(**settings: object) -> MariaDB:
        folder = tmp_path / f"mariadb{len(servers)}"
        servers.append(MariaDB(folder, installed_mariadb, **settings))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def postgres_databases(postgres: Postgres) -> Iterator[KeptDatabases]:
    """Keep the run's databases at PostgreSQL."""
    databases = KeptDatabases(postgres)
    yield databases
    databases.close()


@pytest.fixture(scope="session")
def mariadb_databases(mariadb: MariaDB | OfferedMariaDB) -> Iterator[KeptDatabases]:
    """Keep the run's databases at MariaDB."""
    databases = KeptDatabases(mariadb)
    yield databases
    databases.close()


@pytest.fixture
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewDatabase]:
    """Give the test databases that are as new: `new_database("mysql+pymysql")` gives a URL.

    A backend is one of BACKENDS.
    """
    with ExitStack() as returns:

        def take(backend: str) -> str:
            dialect, _, driver = backend.partition("+")
            if dialect == "sqlite":
                return f"sqlite:///{tmp_path / uuid4().hex}.db"
            if driver == "mysqldb":
                need_mysqlclient()
            fixture = {"postgresql": "postgres_databases", "mysql": "mariadb_databases"}[dialect]
            databases: KeptDatabases = request.getfixturevalue(fixture)
            name, give_back = databases.take()
            returns.callback(give_back)
            return databases.server.url(driver, name)

        yield take


def need_mysqlclient() -> None:
    """Skip the test where the one driver that has no wheels could not be built."""
    try:
        importlib.import_module("MySQLdb")
    except ImportError as error:
        report.skip_without("mysqlclient", str(error))
    report.used("mysqlclient", metadata.version("mysqlclient"), "compiled on this machine")


@pytest.fixture
def new_proxy() -> Iterator[NewProxy]:
    """Stand proxies before servers: `new_proxy(url).url(url)` leads through one that can fail."""
    proxies: list[FaultProxy] = []

    def stand_before(url: str) -> FaultProxy:
        port = make_url(url).port
        assert port is not None, "a proxy needs a server with a port"
        proxies.append(FaultProxy(port))
        return proxies[-1]

    yield stand_before
    for proxy in proxies:
        proxy.close()


@pytest.fixture(params=BACKENDS)
def any_url(request: pytest.FixtureRequest, new_database: NewDatabase) -> str:
    """Give the URL of an empty database, once for each backend and driver."""
    return new_database(request.param)


@pytest.fixture(params=POSTGRES)
def postgres_url(request: pytest.FixtureRequest, new_database: NewDatabase) -> str:
    """Give the URL of an empty PostgreSQL database, once for each driver."""
    return new_database(request.param)


@pytest.fixture(params=MARIADB)
def mariadb_url(request: pytest.FixtureRequest, new_database: NewDatabase) -> str:
    """Give the URL of an empty MariaDB database, once for each driver."""
    return new_database(request.param)


@pytest.fixture
def psycopg_url(new_database: NewDatabase) -> str:
    """Give the URL of an empty PostgreSQL database for psycopg."""
    return new_database("postgresql+psycopg")


@pytest.fixture
def psycopg2_url(new_database: NewDatabase) -> str:
    """Give the URL of an empty PostgreSQL database for psycopg2."""
    return new_database("postgresql+psycopg2")


@pytest.fixture
def pymysql_url(new_database: NewDatabase) -> str:
    """Give the URL of an empty MariaDB database for PyMySQL."""
    return new_database("mysql+pymysql")


@pytest.fixture
def mysqlconnector_url(new_database: NewDatabase) -> str:
    """Give the URL of an empty MariaDB database for mysql-connector-python."""
    return new_database("mysql+mysqlconnector")


@pytest.fixture
def mysqlclient_url(new_database: NewDatabase) -> str:
    """Give the URL of an empty MariaDB database for mysqlclient."""
    return new_database("mysql+mysqldb")


@pytest.fixture
def bouncer_settings(pgbouncer: PgBouncer, psycopg_url: str) -> Iterator[dict[str, Any]]:
    """Give the settings of a pool on an empty database behind PgBouncer."""
    url = pgbouncer.url(database=make_url(psycopg_url).database or "")
    settings = {"sqlalchemy.url": url, "sqlalchemy.connect_args": '{"prepare_threshold": null}'}
    yield settings
    dispose_engine(settings)


@pytest.fixture
def sqlite_url(new_database: NewDatabase) -> str:
    """Give the URL of an SQLite file that does not exist yet."""
    return new_database("sqlite")


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Check after each test that no pool of this process has a connection checked out.

    The next test starts without engines: on the same database it may have other settings.
    """
    yield
    registry = sys.modules.get("pyramid_dbpool.engines.registry")
    leaks = []
    for name, engine in registry.live_engines() if registry else ():
        checked_out = getattr(engine.pool, "checkedout", int)()
        if checked_out:
            leaks.append(f"pool {name!r} at {make_url(engine.url)!r}: {checked_out}")
        engine.dispose()
    if registry:
        registry._engines._by_identity.clear()
        registry._engines._remembered.clear()
    assert not leaks, f"connections still checked out after the test: {'; '.join(leaks)}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the servers that the run used, and the tests skipped for want of one."""
    skipped = terminalreporter.stats.get("skipped", [])
    lines = list(report.summary(skipped))
    if lines:
        terminalreporter.section("Servers")
        for line in lines:
            terminalreporter.line(line, red="NOT AVAILABLE" in line)
