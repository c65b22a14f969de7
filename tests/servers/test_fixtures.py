"""The tests' own fixtures: they hide neither a missing server nor a leak."""

from pathlib import Path

import hypothesis
import psycopg
import pymysql
import pytest
from amqp.exceptions import AccessRefused
from kombu import Connection
from sqlalchemy import make_url

from tests.support.servers.mariadb import MariaDB, OfferedMariaDB
from tests.support.servers.pgbouncer import PgBouncer
from tests.support.servers.rabbitmq import OfferedRabbitMQ, RabbitMQ

ROOT = Path(__file__).parents[2]

CONFTEST = """
import pytest
from tests.support.servers import {module}, process

pytest_plugins = ["tests.support.servers.fixtures"]

def missing(*words, **options):
    raise {error}("none here")

{module}.{function} = missing
"""


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Give a place for test runs inside this one, with these fixtures."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for server in ("POSTGRES", "MARIADB", "RABBITMQ"):
        monkeypatch.delenv(f"TEST_{server}_URL", raising=False)
    pytester.makeconftest('pytest_plugins = ["tests.support.servers.fixtures"]')
    return pytester


def test_tests_skipped_for_want_of_a_server_are_counted_by_its_name(
    inner: pytest.Pytester,
) -> None:
    """The closing summary names the server that was missing and why."""
    names = {"module": "mariadb", "function": "find_program", "error": "process.ServerMissing"}
    inner.makeconftest(CONFTEST.format(**names))
    inner.makepyfile(
        """
        def test_one(mariadb): pass
        def test_two(pymysql_url): pass
        def test_three(sqlite_url): pass
        """
    )
    run = inner.runpytest_subprocess()
    run.assert_outcomes(passed=1, skipped=2)
    run.stdout.fnmatch_lines(
        ["*= Servers =*", "MariaDB NOT AVAILABLE, 2 tests skipped: none here"]
    )


def test_tests_of_a_driver_that_could_not_be_compiled_are_counted_too(
    inner: pytest.Pytester,
) -> None:
    """mysqlclient has no wheels, and not every machine has a compiler."""
    inner.makeconftest(
        """
        import sys

        pytest_plugins = ["tests.support.servers.fixtures"]
        sys.modules["MySQLdb"] = None
        """
    )
    inner.makepyfile("def test_one(mysqlclient_url): pass")
    run = inner.runpytest_subprocess()
    run.assert_outcomes(skipped=1)
    run.stdout.fnmatch_lines(["mysqlclient NOT AVAILABLE, 1 tests skipped: *MySQLdb*"])


def test_generated_examples_are_the_same_on_every_machine() -> None:
    """However slow it is, and whatever chance would choose."""
    chosen = hypothesis.settings()
    assert (chosen.deadline, chosen.derandomize) == (None, True)


def test_a_run_without_postgresql_fails(inner: pytest.Pytester) -> None:
    """It must not look as if everything had passed."""
    names = {"module": "postgres", "function": "PrivatePostgres"}
    inner.makeconftest(CONFTEST.format(error="postgres.EmbeddedServerError", **names))
    inner.makepyfile("def test_one(psycopg_url): pass")
    run = inner.runpytest_subprocess()
    run.assert_outcomes(errors=1)
    run.stdout.fnmatch_lines(["*the tests need PostgreSQL: none here*"])


def test_a_connection_still_checked_out_fails_its_test(inner: pytest.Pytester) -> None:
    """Every test is checked, also one that does not ask for it, and the next one starts clean."""
    inner.makepyfile(
        """
        from pyramid_dbpool import get_engine
        kept = []

        def test_leaks(sqlite_url):
            kept.append(get_engine({"sqlalchemy.url": sqlite_url}).connect())

        def test_does_not(sqlite_url):
            get_engine({"sqlalchemy.url": sqlite_url}).connect().close()
        """
    )
    run = inner.runpytest_subprocess()
    run.assert_outcomes(passed=2, errors=1)
    run.stdout.fnmatch_lines(["*connections still checked out*pool 'default'*: 1"])


def test_a_server_that_the_environment_offers_is_used(
    inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, psycopg_url: str
) -> None:
    """A machine that has a PostgreSQL for tests need not start another."""
    monkeypatch.setenv("TEST_POSTGRES_URL", psycopg_url)
    inner.makepyfile("def test_one(psycopg2_url): assert 'test_' in psycopg2_url")
    run = inner.runpytest_subprocess()
    run.assert_outcomes(passed=1)
    run.stdout.fnmatch_lines(["PostgreSQL *offered by the environment"])


def test_nobody_gets_into_mariadb_without_its_password(mariadb: MariaDB | OfferedMariaDB) -> None:
    """Everybody on the machine can reach it, and its SQL reads files."""
    if not isinstance(mariadb, MariaDB):
        pytest.skip("an offered server is its owner's")
    for user, password in [("root", ""), ("test", ""), ("test", "test"), ("nobody", "")]:
        with pytest.raises(pymysql.err.OperationalError, match="Access denied"):
            pymysql.connect(host="127.0.0.1", port=mariadb.port, user=user, password=password)


def test_nobody_gets_into_rabbitmq_as_guest(rabbitmq: RabbitMQ | OfferedRabbitMQ) -> None:
    """Everybody on the machine can reach it."""
    if not isinstance(rabbitmq, RabbitMQ):
        pytest.skip("an offered broker is its owner's")
    guest = Connection(f"amqp://guest:guest@127.0.0.1:{rabbitmq.port}//")
    with guest, pytest.raises(AccessRefused):
        guest.ensure_connection(max_retries=1, reraise_as_library_errors=False)


def test_nobody_gets_through_pgbouncer_without_its_password(pgbouncer: PgBouncer) -> None:
    """It would log in at PostgreSQL for whoever comes."""
    if not make_url(pgbouncer.url()).password:
        pytest.skip("an offered server's password is its owner's")
    for password in ("", "postgres"):
        with pytest.raises(psycopg.OperationalError, match=r"authentication failed|password"):
            psycopg.connect(
                host="127.0.0.1",
                port=pgbouncer.port,
                user="postgres",
                password=password,
                dbname="postgres",
            )
