"""What a failed connect to PostgreSQL means: on real servers, and in every language."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psycopg
import psycopg2
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from pyramid_dbpool.drivers.connect_failures import (
    TRANSLATED_MESSAGES,
    ConnectFailure,
    classify_connect_failure,
)
from pyramid_dbpool.embedded import PrivatePostgres
from tests.support.failed_connects import (
    CONFIGURATION,
    SATURATED,
    UNREACHABLE,
    engine_of,
    refused,
    refused_when_full,
)
from tests.support.servers import report
from tests.support.servers.ports import deaf_port

NewPostgres = Callable[..., PrivatePostgres]


DRIVERS = ("psycopg", "psycopg2")


def test_a_full_server_is_saturated(new_postgres: NewPostgres) -> None:
    """The superuser's last connections gone, psycopg and psycopg2 give no SQLSTATE."""
    server = new_postgres({"max_connections": 4, "max_wal_senders": 0})
    for driver in DRIVERS:
        assert refused_when_full(server.url(driver)) is SATURATED


def test_reserved_connections_are_saturation(new_postgres: NewPostgres) -> None:
    """An app's role is refused while the superuser still gets in."""
    server = new_postgres(
        {"max_connections": 4, "superuser_reserved_connections": 1, "max_wal_senders": 0}
    )
    with engine_of(server.url()).begin() as connection:
        connection.execute(text("CREATE ROLE app LOGIN PASSWORD 'x'"))
    url = make_url(server.url()).set(username="app", password="x")
    for driver in DRIVERS:
        assert refused_when_full(url.set(drivername=f"postgresql+{driver}")) is SATURATED


def test_the_limit_of_a_role_or_a_database_is_saturation(new_postgres: NewPostgres) -> None:
    """Both limits hold for everybody but superusers."""
    server = new_postgres()
    with engine_of(server.url()).connect() as connection:
        run = connection.execution_options(isolation_level="AUTOCOMMIT").execute
        run(text("CREATE ROLE few LOGIN PASSWORD 'x' CONNECTION LIMIT 0"))
        run(text("CREATE ROLE app LOGIN PASSWORD 'x'"))
        run(text("CREATE DATABASE few CONNECTION LIMIT 0"))
    for driver in DRIVERS:
        url = make_url(server.url(driver))
        assert refused(url.set(username="few", password="x")) is SATURATED
        assert refused(url.set(username="app", password="x", database="few")) is SATURATED


def test_what_only_a_person_can_mend_is_configuration(new_postgres: NewPostgres) -> None:
    """Role, database, password, privileges and options: waiting helps against none of them."""
    server = new_postgres(password="right")
    with engine_of(server.url()).connect() as connection:
        run = connection.execution_options(isolation_level="AUTOCOMMIT").execute
        run(text("CREATE ROLE sleeper NOLOGIN PASSWORD 'right'"))
        run(text("CREATE ROLE app LOGIN PASSWORD 'right'"))
        run(text("CREATE DATABASE closed ALLOW_CONNECTIONS false"))
        run(text("CREATE DATABASE private"))
        run(text("REVOKE CONNECT ON DATABASE private FROM public"))
    for driver in DRIVERS:
        url = make_url(server.url(driver))
        assert refused(url.set(username="nobody")) is CONFIGURATION
        assert refused(url.set(database="nowhere")) is CONFIGURATION
        assert refused(url.set(password="wrong")) is CONFIGURATION
        assert refused(url._replace(password=None)) is CONFIGURATION
        assert refused(url.set(username="sleeper")) is CONFIGURATION
        assert refused(url.set(database="closed")) is CONFIGURATION
        assert refused(url.set(username="app", database="private")) is CONFIGURATION
        assert refused(url.update_query_dict({"options": "-c no_such=1"})) is CONFIGURATION
        assert refused(url.update_query_dict({"options": "-c work_mem=x"})) is CONFIGURATION
        assert refused(url.update_query_dict({"sslmode": "verify-full"})) is CONFIGURATION
        assert refused(url, no_such_option="1") is CONFIGURATION


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_server_that_is_away_is_unreachable(driver: str) -> None:
    """Nobody at the port, and a name that nobody knows (names come back)."""
    url = f"postgresql+{driver}://postgres@127.0.0.1:{deaf_port()}/postgres"
    assert refused(url) is UNREACHABLE
    assert refused(f"postgresql+{driver}://postgres@no-such.invalid/postgres") is UNREACHABLE


def test_a_server_that_is_shutting_down_is_unreachable(new_postgres: NewPostgres) -> None:
    """A smart shutdown refuses new connections while an old one is open."""
    server = new_postgres()
    with engine_of(server.url()).connect() as connection:
        connection.execute(text("SELECT 1"))
        assert server.pid
        os.kill(server.pid, signal.SIGTERM)
        assert eventually_refused(server.url("psycopg")) is UNREACHABLE
        assert "shutting down" in message_of(server.url("psycopg2"))
        assert refused(server.url("psycopg2")) is UNREACHABLE


def eventually_refused(url: str) -> ConnectFailure:
    while True:
        with suppress(pytest.fail.Exception):
            return refused(url)


def test_a_translated_server_is_understood(
    new_postgres: NewPostgres,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A German server says FATAL and "schon zu viele Verbindungen", and nothing else."""
    monkeypatch.setenv("LOCPATH", str(tmp_path))
    locale = german_locale(tmp_path)
    try:
        server = new_postgres({"max_connections": 9, "max_wal_senders": 0, "lc_messages": locale})
    except Exception as error:
        report.skip_without("translated PostgreSQL", str(error).partition("\n")[0])
    if "existiert nicht" not in message_of(server.url(database="nirgends")):
        report.skip_without("translated PostgreSQL", "the server's programs are English only")
    with engine_of(server.url()).begin() as connection:
        connection.execute(text("CREATE ROLE niemand NOLOGIN PASSWORD 'x'"))
    for driver in DRIVERS:
        assert refused(server.url(driver, "nirgends")) is CONFIGURATION
        nobody = make_url(server.url(driver)).set(username="niemand", password="x")
        assert refused(nobody) is CONFIGURATION
        # Before it knows our encoding it writes a ? for each letter that is not ASCII's.
        assert refused(nobody.set(password="wrong")) is CONFIGURATION
    for driver in DRIVERS:
        assert refused_when_full(server.url(driver)) is SATURATED


def german_locale(folder: Path) -> str:
    localedef = shutil.which("localedef") or ""
    if not localedef:
        report.skip_without("translated PostgreSQL", "no program localedef to make a locale with")
    command = [localedef, "-i", "de_DE", "-f", "UTF-8", str(folder / "de_DE.UTF-8")]
    if subprocess.run(command, check=False, capture_output=True).returncode > 1:
        report.skip_without("translated PostgreSQL", "no German locale's source")
    return "de_DE.UTF-8"


def message_of(url: str) -> str:
    with pytest.raises(DBAPIError) as caught:
        engine_of(url).connect()
    return str(caught.value)


MESSAGES = [
    (failure, message) for failure, messages in TRANSLATED_MESSAGES.items() for message in messages
]


@pytest.mark.parametrize("error", [psycopg.OperationalError, psycopg2.OperationalError])
def test_every_known_translation_has_one_meaning(error: type[Exception]) -> None:
    """No text of one kind is taken for one of another, whatever the names in it."""
    dialect = engine_of("postgresql+psycopg://").dialect
    for failure, message in MESSAGES:
        said = message.replace("%s", "some name")
        whole = f'connection to server at "127.0.0.1", port 5432 failed: FATAL:  {said}\n'
        assert classify_connect_failure(dialect, error(whole)) is failure, message


@pytest.mark.parametrize("encoding", ["cp1251", "koi8-r"])
def test_a_message_that_psycopg2_cannot_decode_is_understood(encoding: str) -> None:
    """Servers on Windows write their own encoding, psycopg2 raises UnicodeDecodeError then."""
    dialect = engine_of("postgresql+psycopg2://").dialect
    for said, failure in (
        ("ВАЖНО:  извините, уже слишком много клиентов", SATURATED),
        ('ВАЖНО:  база данных "nowhere" не существует', CONFIGURATION),
        ("что-то ещё", UNREACHABLE),
    ):
        with pytest.raises(UnicodeDecodeError) as caught:
            said.encode(encoding).decode()
        assert classify_connect_failure(dialect, caught.value) is failure


def test_the_name_of_a_file_is_not_translated() -> None:
    """No catalogue's text is needed to see that pg_hba.conf refuses the client."""
    dialect = engine_of("postgresql+psycopg://").dialect
    error = psycopg.OperationalError("FATAL:  kein pg_hba.conf-Eintrag für Host »::1«")
    assert classify_connect_failure(dialect, error) is CONFIGURATION


def test_of_several_addresses_the_one_worth_waiting_for_counts() -> None:
    """One host is starting, the other does not let this client in: wait."""
    dialect = engine_of("postgresql+psycopg://").dialect
    said = "FATAL:  {}\nMultiple connection attempts failed. All failures were:\n- {}\n- {}"
    no_entry, starting = "no pg_hba.conf entry for host", "the database system is starting up"
    error = psycopg.OperationalError(said.format(no_entry, starting, no_entry))
    assert classify_connect_failure(dialect, error) is UNREACHABLE
    full = "sorry, too many clients already"
    error = psycopg.OperationalError(said.format(no_entry, full, no_entry))
    assert classify_connect_failure(dialect, error) is SATURATED
