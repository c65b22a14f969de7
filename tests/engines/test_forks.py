"""A child never uses or closes a connection of its parent, however it was forked."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from pyramid_dbpool.embedded import PrivatePostgres, free_port
from tests.support.servers.fixtures import MARIADB, POSTGRES

pytestmark = pytest.mark.programs

GOOD = {
    "child": {
        "first": "ForkedConnectionError",
        "use of the held session": "ForkedConnectionError",
        "commit of the held session": "ForkedConnectionError",
        "close of the held session": "no error",
        "same engine": True,
        "own backend": True,
    },
    "parent unharmed": True,
}


def run(url: str, how: str, first: str = "execute", *connect_args: str) -> Any:
    program = [sys.executable, "-W", "error", "-m", "tests.support.fork_script"]
    ran = subprocess.run(
        [*program, url, how, first, *connect_args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return json.loads(ran.stdout)


@pytest.mark.parametrize("how", ["fork", "multiprocessing", "without-hooks"])
def test_parent_and_child_keep_to_themselves(any_url: str, how: str) -> None:
    """The child has a pool of its own, refuses what it inherited, and ends without a trace."""
    assert run(any_url, how) == GOOD


@pytest.mark.parametrize("pool", ["ManagedPool", "QueuePool"])
@pytest.mark.parametrize("how", ["fork", "without-hooks"])
@pytest.mark.parametrize("first", ["commit", "close", "dispose", "exit", "own"])
def test_whatever_the_child_does_first(psycopg_url: str, how: str, first: str, pool: str) -> None:
    """Its first act may be a commit, a close, its end: nothing reaches the parent's sockets.

    A session that the child has closed may begin again there, on a connection of the child's.
    """
    seen = run(psycopg_url, how, first, "{}", pool)
    assert seen["parent unharmed"]
    if first == "exit":
        assert seen["child"] == {}
    else:
        refused = "ForkedConnectionError" if first == "commit" else "no error"
        assert seen["child"]["first"] == refused
        assert seen["child"]["own backend"]


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["ManagedPool", "QueuePool"])
def test_a_connection_on_which_another_thread_waits_is_cut_too(
    mysqlclient_url: str, pool: str
) -> None:
    """The driver does not show its socket then."""
    program = f"""
import os, threading
from sqlalchemy import text
from pyramid_dbpool import get_engine
engine = get_engine({{"sqlalchemy.url": {mysqlclient_url!r}, "dbpool.min_idle": "0"}})
with engine.connect() as connection:
    descriptor = f"/proc/self/fd/{{connection.connection.dbapi_connection.fileno()}}"
    behind = os.readlink(descriptor)
    lock = "SELECT GET_LOCK('gate', 60)"
    with engine.connect() as other:
        other.execute(text(lock))
        waiting = threading.Thread(target=lambda: connection.execute(text(lock)))
        waiting.start()
        find = text("SELECT id FROM information_schema.processlist WHERE info = :info")
        while not other.scalar(find, {{"info": lock}}):
            pass
        pid = os.fork()
        if pid == 0:
            os._exit(os.readlink(descriptor) == behind)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        other.execute(text("SELECT RELEASE_LOCK('gate')"))
        waiting.join()
    print(connection.scalar(text("SELECT 1")))
"""
    if pool == "QueuePool":
        program = program.replace(
            '"dbpool.min_idle": "0"', '"sqlalchemy.poolclass": "sqlalchemy.pool.QueuePool"'
        )
    assert in_subprocess(program) == "0\n1\n"


def in_subprocess(program: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


@pytest.mark.parametrize(
    "driver", ["psycopg_url", "psycopg2_url", "pymysql_url", "mysqlclient_url"]
)
def test_a_result_that_is_being_read_is_read_to_its_end(
    request: pytest.FixtureRequest, driver: str
) -> None:
    """The child inherits its cursor, and ends; the cursor's end must not read a byte."""
    url = request.getfixturevalue(driver)
    program = f"""
import os, sys, warnings
from sqlalchemy import text
from pyramid_dbpool import session_factory
session = session_factory({{"sqlalchemy.url": {url!r}}})
numbers = " UNION ALL ".join(["SELECT 1 AS n"] * 500)
result = session.execute(text(numbers), execution_options={{"yield_per": 10}})
read = len(result.fetchmany(10))
pid = os.fork()
if pid == 0:
    # psycopg complains, rightly, of a cursor that nobody has closed.
    warnings.simplefilter("ignore", ResourceWarning)
    sys.exit()
os.waitpid(pid, 0)
print(read + len(result.all()))
session.close()
"""
    assert in_subprocess(program) == "500\n"


def test_a_child_does_not_wait_for_a_lock_of_its_parent() -> None:
    """Another thread of the parent was making an engine when it forked."""
    program = """
import os, threading
from pyramid_dbpool import get_engine
from pyramid_dbpool.engines import registry
held, done = threading.Event(), threading.Event()
def hold():
    with registry._engines._lock:
        held.set()
        done.wait()
threading.Thread(target=hold, daemon=True).start()
held.wait()
pid = os.fork()
if pid == 0:
    get_engine({"sqlalchemy.url": "sqlite:///f.db"})
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
done.set()
"""
    if sys.version_info >= (3, 12):
        # Python warns of a fork beside threads, which is what this is about.
        program = "import warnings; warnings.simplefilter('ignore')\n" + program
    assert in_subprocess(program) == "7\n"


def test_a_child_keeps_its_copy_of_a_database_in_memory() -> None:
    """There is no socket to share, and an empty pool would lose the tables."""
    program = """
import os
from pyramid_dbpool import session_factory
settings = {"sqlalchemy.url": "sqlite://"}
session = session_factory(settings)
session.connection().exec_driver_sql("CREATE TABLE here (id int)")
session.commit()
session.close()
pid = os.fork()
if pid == 0:
    session.connection().exec_driver_sql("SELECT * FROM here")
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    assert in_subprocess(program) == "7\n"


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_fork_over_tls_harms_nobody(
    new_postgres: Callable[..., PrivatePostgres], driver: str
) -> None:
    """One byte too many would break the parent's TLS session."""
    server = new_postgres(ssl=True)
    assert run(server.url(driver), "fork", "execute", '{"sslmode": "require"}') == GOOD


FORK_WHILE_OPENING = """
import os, socket, sys, threading, time
from sqlalchemy import event
from pyramid_dbpool import get_engine
from pyramid_dbpool.pool import fork_gate

# Who opens goes on only when a fork that waited for it has come.
def end(gate, thread, end=fork_gate._Gate.end):
    end(gate, thread)
    time.sleep(0.2)
fork_gate._Gate.end = end
# A busy machine takes its time.
fork_gate.OPENING_WAIT = 30.0

url, pool = sys.argv[1:]
settings = {"sqlalchemy.url": url}
if pool != "ManagedPool":
    settings["sqlalchemy.poolclass"] = pool
engine = get_engine(settings)
begun, forking = threading.Event(), threading.Event()

@event.listens_for(engine, "do_connect")
def slow(dialect, record, args, arguments):
    opened = dialect.connect(*args, **arguments)
    begun.set()
    # The fork has been asked for; it comes while this waits, if it comes.
    forking.wait(30)
    time.sleep(0.2)
    return opened

def sessions():
    found = 0
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            with socket.socket(fileno=os.dup(number)) as copy:
                found += copy.family == socket.AF_INET and copy.getpeername()[1] == engine.url.port
        except OSError:
            pass
    return found

def use():
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")

using = threading.Thread(target=use)
using.start()
begun.wait(30)
os.register_at_fork(before=forking.set)
pid = os.fork()
if pid == 0:
    os._exit(sessions())
print(sessions() > 0, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
using.join()
use()
"""


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["ManagedPool", "QueuePool"])
@pytest.mark.parametrize("driver", [*POSTGRES, *MARIADB])
def test_a_child_has_no_connection_that_was_being_opened(
    driver: str, new_database: Callable[[str], str], pool: str
) -> None:
    """A fork waits for it: nobody in the child would know whose socket it is."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK_WHILE_OPENING, new_database(driver), pool],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.stdout, ran.stderr) == ("True 0\n", "")


def test_a_fork_does_not_wait_for_ever_nor_for_itself() -> None:
    """An opening may hang, and it may fork."""
    program = """
import os, threading
from pyramid_dbpool.pool import fork_gate
fork_gate.OPENING_WAIT = 0.01
begun, over = threading.Event(), threading.Event()
def hang():
    with fork_gate.opening():
        begun.set()
        over.wait()
threading.Thread(target=hang, daemon=True).start()
begun.wait()
def fork():
    pid = os.fork()
    if pid == 0:
        with fork_gate.opening():
            os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
fork()
fork_gate.OPENING_WAIT = 1000.0
over.set()
with fork_gate.opening():
    fork()
"""
    if sys.version_info >= (3, 12):
        program = "import warnings; warnings.simplefilter('ignore')\n" + program
    assert in_subprocess(program) == "7\n7\n"


SERVERS = {
    "gunicorn-sync": ["-m", "gunicorn", "--preload", "-w", "2", "-k", "sync"],
    "gunicorn-gthread": ["-m", "gunicorn", "--preload", "-w", "2", "--threads", "2"],
    "gunicorn-gevent": ["-m", "gunicorn", "--preload", "-w", "2", "-k", "gevent"],
    "uwsgi-master": ["--master", "--processes", "2"],
    "uwsgi-master-threads": ["--master", "--processes", "2", "--enable-threads", "--threads", "2"],
    "uwsgi-no-master": ["--processes", "2"],
}


class Server:
    """A WSGI server that runs `tests.support.fork_app`, and what it says."""

    def __init__(self, kind: str, url: str, folder: Path) -> None:
        self.port = free_port()
        self.log = folder / "server.log"
        address = f"127.0.0.1:{self.port}"
        if kind.startswith("uwsgi"):
            program = [str(Path(sys.executable).with_name("uwsgi")), "--http-socket", address]
            options = [*SERVERS[kind], "--die-on-term", "--wsgi", "tests.support.fork_app"]
        else:
            program = [sys.executable, *SERVERS[kind], "-b", address]
            options = ["tests.support.fork_app:application"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*program, *options],
                stdout=log,
                stderr=log,
                env={**os.environ, "FORK_APP_URL": url, "PYTHONPATH": os.getcwd()},
                start_new_session=True,
            )

    def get(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return dict(json.load(answer))

    def wait(self, gone: Collection[int] = ()) -> None:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError):
                if self.get("/backend")["pid"] not in gone:
                    return
            assert time.monotonic() < deadline, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)

    def workers(self) -> list[int]:
        pid = self.process.pid
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def stop(self) -> None:
        # The whole group: uWSGI without a master ends one of its processes only.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("kind", SERVERS)
def test_a_preloading_server_and_its_workers_keep_to_themselves(
    kind: str, psycopg_url: str, tmp_path: Path
) -> None:
    """Workers get backends of their own; the master's are still there when workers have ended."""
    server = Server(kind, psycopg_url, tmp_path)
    try:
        server.wait()
        seen = [server.get("/backend") for _ in range(8)]
        masters = set(seen[0]["masters"])
        assert not masters & {answer["backend"] for answer in seen if answer["forked"]}
        if kind.startswith("uwsgi"):
            # It forks without Python's knowledge: a thread that runs just then hangs the child.
            assert seen[0]["masters_threads"] == ["MainThread"]
        # Without a master uWSGI's first process serves too, on its own.
        if kind != "uwsgi-no-master":
            assert all(answer["forked"] for answer in seen)
            assert "before a fork" in server.get("/use_held")["error"]
            # Workers that end take nothing of their master's with them, and others come.
            workers = server.workers()
            for worker in workers:
                os.kill(worker, signal.SIGTERM)
            server.wait(gone=workers)
        assert masters <= backends(psycopg_url)
    finally:
        server.stop()


def backends(url: str) -> set[int]:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        return set(connection.scalars(text("SELECT pid FROM pg_stat_activity")))


@pytest.mark.slow
def test_celery_prefork_workers_keep_to_themselves(psycopg_url: str, tmp_path: Path) -> None:
    """Tasks run on backends of the children; the parent's are still there afterwards."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.support.fork_celery", str(tmp_path)],
        env={**os.environ, "FORK_APP_URL": psycopg_url},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout.splitlines()[-1])
    assert len(seen["tasks"]) == 6, ran.stderr
    assert not set(seen["masters"]) & {task["backend"] for task in seen["tasks"]}
    assert all("before a fork" in task["held"] for task in seen["tasks"])
    assert seen["masters unharmed"]
