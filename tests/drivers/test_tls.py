"""What a connection that TLS forbids means, at real servers with an authority of their own."""

import gc
import importlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from sqlalchemy import URL, Engine, make_url

from pyramid_dbpool import DatabaseUnavailable, consume, dispose_engine, get_engine
from pyramid_dbpool.drivers.connect_failures import ConnectFailure
from pyramid_dbpool.embedded import PrivatePostgres
from tests.support.failed_connects import CONFIGURATION, UNREACHABLE, classified, engine_of
from tests.support.makers import wait_for
from tests.support.servers import report
from tests.support.servers.certificates import Authority, Pair
from tests.support.servers.fixtures import need_mysqlclient
from tests.support.servers.mariadb import MariaDB
from tests.support.servers.process import ServerMissing

NewPostgres = Callable[..., PrivatePostgres]
NewMariaDB = Callable[..., MariaDB]

POSTGRES = ("psycopg", "psycopg2")
MARIADB = ("pymysql", "mysqldb", "mysqlconnector")

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",
    # As mysql-connector 8.0.32 calls it.
    r"ignore:ssl\.match_hostname:DeprecationWarning",
)


@pytest.fixture(autouse=True)
def what_drivers_leave_open() -> Iterator[None]:
    """Close here, where it is not minded, what PyMySQL and mysql-connector leave open."""
    yield
    gc.collect()


@dataclass(frozen=True)
class Papers:
    """Certificates: of servers and of clients, good ones and others."""

    authority: Path
    other_authority: Path
    no_authority: Path
    server: Pair
    elsewhere: Pair
    expired: Pair
    client: Pair
    stranger: Pair
    old_client: Pair
    somebody: Pair


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    """Give all of them; the database's user is postgres."""
    folder = tmp_path_factory.mktemp("papers")
    try:
        ours, others = Authority(folder / "ours"), Authority(folder / "others")
    except ServerMissing as error:
        report.skip_without("certificates", str(error))
    broken = folder / "broken.crt"
    broken.write_text("no certificate")
    broken.chmod(0o600)
    return Papers(
        authority=ours.certificate,
        other_authority=others.certificate,
        no_authority=broken,
        server=ours.sign("server", "localhost"),
        elsewhere=ours.sign("elsewhere", "elsewhere", host="DNS:elsewhere.example"),
        expired=ours.sign("expired", "localhost", days=-1),
        client=ours.sign("client", "postgres"),
        stranger=others.sign("stranger", "postgres"),
        old_client=ours.sign("old_client", "postgres", days=-1),
        somebody=ours.sign("somebody", "somebody"),
    )


def failed(engine: Engine) -> tuple[ConnectFailure, str]:
    """Fail to connect; say what that means, and what the driver said."""
    with pytest.raises(Exception) as caught:
        engine.connect()
    error = caught.value
    if isinstance(error, psycopg2.Error) and "no SSL error reported" in str(error):
        pytest.skip("this psycopg2 loses OpenSSL's words where psycopg is loaded too")
    return classified(engine, error), str(error)


# PostgreSQL


@pytest.fixture
def postgres_with_tls(new_postgres: NewPostgres, papers: Papers) -> PrivatePostgres:
    """Give a server that wants a certificate of its clients."""
    settings = {"ssl_ca_file": papers.authority, **of_postgres(papers.server)}
    server = new_postgres(settings, ssl=True)
    rules = server.folder / "data" / "pg_hba.conf"
    rules.write_text("hostssl all all all cert\n")
    server.restart()
    return server


def of_postgres(pair: Pair) -> dict[str, object]:
    return {"ssl_cert_file": pair.certificate, "ssl_key_file": pair.key}


def to_postgres(
    server: PrivatePostgres, driver: str, papers: Papers, client: Pair | None = None, **other: Any
) -> Engine:
    """Give an engine that asks for the server's name; `other` are more of libpq's options."""
    query = {"sslmode": "verify-full", "sslrootcert": papers.authority}
    if client is not None:
        query |= {"sslcert": client.certificate, "sslkey": client.key}
    words = {key: str(value) for key, value in (query | other).items()}
    return engine_of(make_url(server.url(driver)).set(query=words))


@pytest.mark.parametrize("driver", POSTGRES)
def test_a_client_that_postgresql_does_not_trust_is_misconfigured(
    postgres_with_tls: PrivatePostgres, papers: Papers, driver: str
) -> None:
    """No certificate, somebody else's, an expired one, or one of another authority."""

    def of(client: Pair | None) -> ConnectFailure:
        return failed(to_postgres(postgres_with_tls, driver, papers, client))[0]

    to_postgres(postgres_with_tls, driver, papers, papers.client).connect().close()
    assert of(None) is CONFIGURATION
    assert of(papers.somebody) is CONFIGURATION
    assert of(papers.old_client) is CONFIGURATION
    assert of(papers.stranger) is CONFIGURATION


@pytest.mark.parametrize("driver", POSTGRES)
def test_files_that_libpq_cannot_use_are_a_configuration(
    postgres_with_tls: PrivatePostgres, papers: Papers, tmp_path: Path, driver: str
) -> None:
    """Missing, broken, of another certificate, or for everybody to read."""
    nowhere = tmp_path / ("a path of some length" * 6) / "x.crt"
    everybodys = tmp_path / "key"
    everybodys.write_bytes(papers.client.key.read_bytes())
    everybodys.chmod(0o644)

    def of(client: Pair | None = papers.client, **other: object) -> ConnectFailure:
        return failed(to_postgres(postgres_with_tls, driver, papers, client, **other))[0]

    assert of(sslrootcert=nowhere) is CONFIGURATION
    assert of(sslrootcert=papers.no_authority) is CONFIGURATION
    assert of(papers.client._replace(key=nowhere)) is CONFIGURATION
    assert of(papers.client._replace(key=everybodys)) is CONFIGURATION
    assert of(papers.client._replace(key=papers.stranger.key)) is CONFIGURATION
    assert of(papers.client._replace(certificate=papers.no_authority)) is CONFIGURATION
    assert of(papers.client._replace(key=papers.no_authority)) is CONFIGURATION


@pytest.mark.parametrize("driver", POSTGRES)
def test_a_postgresql_that_is_not_to_be_trusted_is_a_configuration(
    postgres_with_tls: PrivatePostgres, papers: Papers, driver: str
) -> None:
    """Of another authority, of another name, expired, of another protocol, or without TLS."""
    server = postgres_with_tls

    def of(**other: object) -> ConnectFailure:
        return failed(to_postgres(server, driver, papers, papers.client, **other))[0]

    assert of(sslrootcert=papers.other_authority) is CONFIGURATION
    server.settings |= {"ssl_max_protocol_version": "TLSv1.2"}
    server.restart()
    assert of(ssl_min_protocol_version="TLSv1.3") is CONFIGURATION
    for pair in (papers.elsewhere, papers.expired):
        server.settings |= of_postgres(pair)
        server.restart()
        assert of() is CONFIGURATION
    server.ssl = False
    server.restart()
    assert of() is CONFIGURATION


@pytest.mark.parametrize("driver", POSTGRES)
def test_what_libpq_refuses_to_begin_with_is_a_configuration(driver: str) -> None:
    """A service that its file does not have, words and versions that there are not."""
    for option, value in {
        "service": "none such",
        "ssl_min_protocol_version": "TLSv9",
        "sslmode": "perhaps",
        "target_session_attrs": "nice",
    }.items():
        engine = engine_of(f"postgresql+{driver}://postgres@127.0.0.1/?{option}={value}")
        meaning, said = failed(engine)
        if "invalid" in said or "not found" in said:  # psycopg 3.1 leaves out all but the value
            assert meaning is CONFIGURATION, said


# MariaDB


@pytest.fixture
def mariadb_with_tls(new_mariadb: NewMariaDB, papers: Papers) -> MariaDB:
    """Give a server that looks at the certificates of its clients."""
    return new_mariadb(ssl_ca=papers.authority, **of_mariadb(papers.server))


def of_mariadb(pair: Pair) -> dict[str, object]:
    return {"ssl_cert": pair.certificate, "ssl_key": pair.key}


def to_mariadb(
    url: str, driver: str, papers: Papers, client: Pair | None = None, ca: Path | None = None
) -> Engine:
    """Give an engine that asks for the server's name, in the driver's own words."""
    ca = ca or papers.authority
    files = {"ca": str(ca)}
    if client is not None:
        files |= {"cert": str(client.certificate), "key": str(client.key)}
    arguments: dict[str, object] = {"ssl": files}
    if driver == "mysqldb":
        need_mysqlclient()
        if _mysqlclient_can_verify():
            arguments["ssl_mode"] = "VERIFY_IDENTITY"
    if driver == "mysqlconnector":
        arguments = {f"ssl_{key}": value for key, value in files.items()}
        arguments |= {"ssl_verify_cert": True, "ssl_verify_identity": True, "use_pure": True}
    return engine_of(make_url(url).set(drivername=f"mysql+{driver}"), connect_args=arguments)


def _mysqlclient_can_verify() -> bool:
    """Tell whether it knows of `ssl_mode` with MariaDB's library: before 2.2 it refuses it."""
    major_minor: tuple[int, ...] = importlib.import_module("MySQLdb").version_info[:2]
    return major_minor >= (2, 2)


@pytest.mark.parametrize("driver", MARIADB)
def test_a_client_that_mariadb_does_not_trust_is_misconfigured(
    mariadb_with_tls: MariaDB, papers: Papers, driver: str
) -> None:
    """The server says so; where the connection breaks before, it is tried again, and soon told."""
    url = mariadb_with_tls.url()
    to_mariadb(url, driver, papers, papers.client).connect().close()
    for client in (papers.old_client, papers.stranger):
        engine = to_mariadb(url, driver, papers, client)
        # A client that writes before it reads may never see what the server said.
        wait_for(lambda engine=engine: failed(engine)[0] is CONFIGURATION)  # type: ignore[misc]
    mariadb_with_tls.execute("CREATE USER some@'%' IDENTIFIED BY 'x' REQUIRE X509")
    some = make_url(url).set(username="some", password="x").render_as_string(hide_password=False)
    assert failed(to_mariadb(some, driver, papers))[0] is CONFIGURATION


@pytest.mark.parametrize("driver", MARIADB)
def test_files_that_a_driver_for_mariadb_cannot_use_are_a_configuration(
    mariadb_with_tls: MariaDB, papers: Papers, tmp_path: Path, driver: str
) -> None:
    """Missing, broken, or of another certificate."""
    nowhere, client = tmp_path / "x.crt", papers.client

    def of(client: Pair | None = None, ca: Path | None = None) -> ConnectFailure:
        return failed(to_mariadb(mariadb_with_tls.url(), driver, papers, client, ca))[0]

    assert of(ca=nowhere) is CONFIGURATION
    assert of(ca=papers.no_authority) is CONFIGURATION
    assert of(Pair(nowhere, nowhere)) is CONFIGURATION
    assert of(client._replace(key=nowhere)) is CONFIGURATION
    assert of(client._replace(key=papers.stranger.key)) is CONFIGURATION
    assert of(client._replace(key=papers.no_authority)) is CONFIGURATION
    assert of(client._replace(certificate=papers.no_authority)) is CONFIGURATION


@pytest.mark.parametrize("driver", MARIADB)
def test_a_mariadb_that_is_not_to_be_trusted_is_a_configuration(
    mariadb_with_tls: MariaDB, papers: Papers, driver: str
) -> None:
    """Of another authority, of another name, expired, or without TLS."""
    server = mariadb_with_tls
    if driver == "mysqldb":
        need_mysqlclient()
        if not _mysqlclient_can_verify():
            pytest.skip("this mysqlclient does not look at the server's certificate")

    def of(ca: Path | None = None) -> ConnectFailure:
        return failed(to_mariadb(server.url(), driver, papers, ca=ca))[0]

    assert of(papers.other_authority) is CONFIGURATION
    for pair in (papers.elsewhere, papers.expired):
        server.stop()
        server.settings |= of_mariadb(pair)
        server.start()
        assert of() is CONFIGURATION
    server.stop()
    server.settings = {}
    server.start()
    if driver == "pymysql" and not _insists(server, papers):
        return
    assert of() is CONFIGURATION


def _insists(server: MariaDB, papers: Papers) -> bool:
    """Tell whether this PyMySQL goes without TLS if the server has none, as old ones do."""
    with suppress(Exception), to_mariadb(server.url(), "pymysql", papers).connect():
        return False
    return True


# Told

NO_NAMES = "/nowhere/x.crt"


def told(url: URL, **arguments: object) -> str:
    """Fail to connect by the app's pool; return what its callers are told, and at once."""
    settings = {
        "sqlalchemy.url": url,
        "sqlalchemy.connect_args": arguments,
        "sqlalchemy.pool_timeout": "100",
        "dbpool.outage_grace": "100",
    }
    with pytest.raises(DatabaseUnavailable) as caught:
        get_engine(settings).connect()
    dispose_engine(settings)
    return str(caught.value)


@pytest.mark.parametrize("driver", POSTGRES)
def test_the_error_names_libpqs_options(
    postgres_with_tls: PrivatePostgres, papers: Papers, driver: str
) -> None:
    """And the server's certificate, for that may be what is wrong."""
    url = to_postgres(postgres_with_tls, driver, papers).url
    wrong = str(papers.other_authority)
    if driver == "psycopg2" and psycopg2.__libpq_version__ < 160000:
        wrong = NO_NAMES  # beside psycopg it loses OpenSSL's words
    assert (
        "check what sqlalchemy.url or sqlalchemy.connect_args say of TLS (sslmode, sslrootcert,"
        " sslcert, sslkey), the certificates and their dates ("
    ) in told(url, sslrootcert=wrong)


@pytest.mark.parametrize("driver", MARIADB)
def test_the_error_names_the_options_of_mariadbs_drivers(
    mariadb_with_tls: MariaDB, papers: Papers, driver: str
) -> None:
    """Also where all that the driver says is that some file is not there."""
    if driver == "mysqldb":
        need_mysqlclient()
    url = make_url(mariadb_with_tls.url(driver))
    arguments: dict[str, object] = {"ssl": {"ca": NO_NAMES}}
    if driver == "mysqlconnector":
        arguments = {"ssl_ca": NO_NAMES, "ssl_verify_cert": True}
    assert "of TLS (ssl_ca, ssl_cert, ssl_key), the certificates" in told(url, **arguments)


def test_a_worker_ends_and_blames_no_message(mariadb_with_tls: MariaDB) -> None:
    """It would wait for ever for a server that is there."""
    settings = {
        "sqlalchemy.url": mariadb_with_tls.url("pymysql"),
        "sqlalchemy.connect_args": {"ssl": {"ca": NO_NAMES}},
    }
    with pytest.raises(DatabaseUnavailable, match=r"check what sqlalchemy\.url or"):
        consume(["a"], lambda _, session: session.connection(), settings, on_error=_never)
    dispose_engine(settings)


def _never(message: object, error: Exception) -> None:
    pytest.fail(f"{message} was blamed for {error}")


# Broken off


class BreaksOff:
    """Stand before a server, and end each connection at the client's n-th packet.

    :param resets: rudely, as a machine that has lost its memory.
    """

    def __init__(self, server_port: int, number: int, *, resets: bool) -> None:
        self._server_port, self._number, self._resets = server_port, number, resets
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with client, socket.create_connection(("127.0.0.1", self._server_port)) as server:
                    back = threading.Thread(target=_forward, args=(server, client))
                    back.start()
                    _forward(client, server, self._number)
                    if self._resets:
                        now = struct.pack("ii", 1, 0)
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
                    server.shutdown(socket.SHUT_RDWR)
                    back.join()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def _forward(source: socket.socket, target: socket.socket, packets: int = 1000) -> None:
    """Pass on all packets but the last."""
    with suppress(OSError):
        while packets > 1 and (packet := source.recv(65536)):
            packets -= 1
            target.sendall(packet)
        if packets == 1:
            source.recv(65536)


def breaks(url: URL, engine_at: Callable[[str], Engine]) -> Iterator[ConnectFailure]:
    """Say what it means that a handshake breaks off, wherever that is."""
    assert url.port
    for number in range(1, 4):
        for resets in (False, True):
            with closing(BreaksOff(url.port, number, resets=resets)) as between:
                at = url.set(port=between.port).render_as_string(hide_password=False)
                yield failed(engine_at(at))[0]


@pytest.mark.parametrize("driver", POSTGRES)
def test_a_handshake_that_breaks_off_at_postgresql_is_an_outage(
    new_postgres: NewPostgres, driver: str
) -> None:
    """As while a server stops: no certificate is to blame."""
    url = make_url(new_postgres(ssl=True).url(driver))
    assert set(breaks(url, engine_of)) == {UNREACHABLE}


@pytest.mark.parametrize("driver", MARIADB)
def test_a_handshake_that_breaks_off_at_mariadb_is_an_outage(
    mariadb_with_tls: MariaDB, papers: Papers, driver: str
) -> None:
    """MariaDB's library has the same number for both, 2026."""
    url = make_url(mariadb_with_tls.url())
    assert set(breaks(url, lambda at: to_mariadb(at, driver, papers))) == {UNREACHABLE}
