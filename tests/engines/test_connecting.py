"""An opening is over in time, whatever the server does, and a statement may take longer."""

import socket
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import make_url, text

from pyramid_dbpool import DatabaseUnavailable, dispose_engine, get_engine
from pyramid_dbpool.embedded import PrivatePostgres
from pyramid_dbpool.pool.managed import ManagedPool
from tests.support.servers.fixtures import MARIADB, need_mysqlclient


@pytest.fixture
def mute() -> Iterator[int]:
    """Give the port of a server that accepts, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["postgresql+psycopg", "postgresql+psycopg2"])
def test_a_postgresql_that_says_nothing_is_given_up(driver: str, mute: int) -> None:
    """libpq's limit covers the login."""
    give_up(driver, mute)


@pytest.mark.slow
@pytest.mark.parametrize("driver", MARIADB)
def test_a_mariadb_that_says_nothing_is_given_up(driver: str, mute: int) -> None:
    """PyMySQL's own limit ends where the server accepts."""
    if driver == "mysql+mysqldb":
        need_mysqlclient()
    give_up(driver, mute)


def give_up(driver: str, port: int) -> None:
    """Check that the opening fails by itself, before the caller's time is over."""
    settings = {
        "sqlalchemy.url": f"{driver}://web:x@127.0.0.1:{port}/h",
        "dbpool.connect_timeout": "2",
        "dbpool.outage_grace": "0",
        "sqlalchemy.pool_timeout": "30",
    }
    with pytest.raises(DatabaseUnavailable):
        get_engine(settings).connect()
    dispose_engine(settings)


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_the_second_host_is_reached_in_time(
    driver: str, mute: int, new_postgres: Callable[..., PrivatePostgres]
) -> None:
    """Where the first one is silent: its caller is served, and not five connections opened."""
    server = make_url(new_postgres().url(driver))
    hosts = {"host": [f"127.0.0.1:{mute}", f"127.0.0.1:{server.port}"]}
    url = server.set(host=None, port=None).update_query_dict(hosts)
    settings = {"sqlalchemy.url": url.render_as_string(hide_password=False)}
    engine = get_engine(settings)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    assert isinstance(engine.pool, ManagedPool)
    numbers = engine.pool.snapshot()
    assert numbers.opened + numbers.opening <= 2
    dispose_engine(settings)


@pytest.mark.slow
def test_a_statement_may_take_longer_than_a_login(pymysql_url: str) -> None:
    """The limit is lifted when the connection is open."""
    settings = {"sqlalchemy.url": pymysql_url, "dbpool.connect_timeout": "2"}
    with get_engine(settings).connect() as connection:
        assert connection.scalar(text("SELECT SLEEP(2.3)")) == 0
    dispose_engine(settings)


@pytest.mark.slow
def test_a_limit_of_the_users_own_bounds_the_login_too(mute: int) -> None:
    """PyMySQL's ends where the server accepts, whoever has set it."""
    url = f"mysql+pymysql://web:x@127.0.0.1:{mute}/h?connect_timeout=2"
    settings = {"sqlalchemy.url": url, "dbpool.outage_grace": "0", "sqlalchemy.pool_timeout": "30"}
    with pytest.raises(DatabaseUnavailable):
        get_engine(settings).connect()
    dispose_engine(settings)


def test_a_limit_of_the_users_own_stands(pymysql_url: str) -> None:
    """`read_timeout` in the URL bounds the statements too, as PyMySQL has it."""
    settings = {"sqlalchemy.url": f"{pymysql_url}?read_timeout=7"}
    with get_engine(settings).connect() as connection:
        driver_connection = connection.connection.dbapi_connection
        assert driver_connection is not None
        assert driver_connection._read_timeout == 7
    dispose_engine(settings)
