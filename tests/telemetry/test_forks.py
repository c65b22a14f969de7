"""Each process has a socket of its own, however it was forked, and takes nobody else's away."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pyramid_dbpool.telemetry.host import ask
from tests.support.asked import asked
from tests.support.makers import wait_for

pytestmark = pytest.mark.programs

HEAD = """
import os, signal, sys, threading, time
from pyramid_dbpool import get_engine
from pyramid_dbpool.telemetry.host import ask

run_dir = sys.argv[1]
settings = {"sqlalchemy.url": f"sqlite:///{run_dir}.db", "dbpool.run_dir": run_dir}
engine = get_engine(settings)

def reporting():
    return {each.pid for each in ask(run_dir) if each.report is not None}

def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, (ask(run_dir), os.listdir(run_dir))
        time.sleep(0.01)

def use():
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")
"""


# Returns when all other threads sleep.
QUIET = """
def sleeps(task):
    with open(f"/proc/self/task/{task}/wchan") as place:
        return "poll" in place.read()
others = set(os.listdir("/proc/self/task")) - {str(os.getpid())}
until(lambda: all(map(sleeps, others)))
"""


def run(run_dir: Path, program: str, *options: str) -> str:
    """Run a program that forks, with every warning an error; return what it says."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", *options, "-c", HEAD + program, str(run_dir)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Give a folder that is still to be made."""
    return tmp_path / "run"


def test_a_child_answers_at_once_and_its_parent_goes_on(run_dir: Path) -> None:
    """It need not have used the engine; when it ends, its socket goes and the parent's stays."""
    program = """
for times in range(3):
    child = os.fork()
    if child == 0:
        until(lambda: os.getpid() in reporting())
        until(lambda: os.getppid() in reporting())
        until(lambda: os.path.exists(f"{run_dir}.{times}"))
        sys.exit()
    until(lambda: {os.getpid(), child} <= reporting())
    open(f"{run_dir}.{times}", "w").close()
    assert os.waitpid(child, 0)[1] == 0
    assert os.listdir(run_dir) == [f"{os.getpid()}.sock"]
    use()
print(len(reporting()))
"""
    assert run(run_dir, program) == "1\n"
    assert list(run_dir.iterdir()) == []


def test_a_child_that_is_killed_leaves_the_parents_socket(run_dir: Path) -> None:
    """And its own goes when somebody looks."""
    program = """
child = os.fork()
if child == 0:
    time.sleep(60)
until(lambda: child in reporting())
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
assert os.path.exists(f"{run_dir}/{child}.sock")
print(reporting() == {os.getpid()}, os.listdir(run_dir) == [f"{os.getpid()}.sock"])
"""
    assert run(run_dir, program) == "True True\n"


def test_a_childs_child_answers_when_its_parent_has_gone(run_dir: Path) -> None:
    """As of a program that puts itself into the background."""
    program = """
parent = os.getpid()
child = os.fork()
if child == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    until(lambda: reporting() == {parent, os.getpid()})
    open(run_dir + ".done", "w").close()
    sys.exit()
os.waitpid(child, 0)
until(lambda: os.path.exists(run_dir + ".done"))
until(lambda: reporting() == {parent})
print("done")
"""
    assert run(run_dir, program) == "done\n"


def test_a_child_of_a_fork_that_python_knows_nothing_of(run_dir: Path) -> None:
    """It leaves the parent's socket alone, and answers from its first use of the engine on.

    Beside a thread that is about to take the interpreter's lock no such fork is safe.
    """
    program = """
import ctypes
child = ctypes.PyDLL(None).fork()
if child == 0:
    use()
    until(lambda: {os.getpid(), os.getppid()} <= reporting())
    os._exit(7)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(code, reporting() == {os.getpid()})
"""
    assert run(run_dir, QUIET + program) == "7 True\n"


@pytest.mark.parametrize("listed", [True, False])
def test_such_a_child_looks_at_no_thread_that_is_not_there(run_dir: Path, listed: bool) -> None:
    """It would read the stack of a thread of its parent's, and crash."""
    program = """
import ctypes
if LISTED:
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    time.sleep(0.1)
child = ctypes.PyDLL(None).fork()
if child == 0:
    with engine.connect():
        for times in range(20):
            thread = threading.Thread(target=lambda: engine.pool.view())
            thread.start()
            thread.join()
        (holder,) = engine.pool.view().holders
    os._exit(7 if holder.stack else 8)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run(run_dir, QUIET + program.replace("LISTED", str(listed))) == "7\n"


def test_a_program_in_the_place_of_another_has_its_place(run_dir: Path) -> None:
    """It has the same number, and the socket that it finds is of nobody any more."""
    program = """
if len(sys.argv) == 2:
    os.execv(sys.executable, [*sys.orig_argv, "again"])
print(reporting() == {os.getpid()})
"""
    assert run(run_dir, program) == "True\n"


def test_forks_at_any_moment(run_dir: Path) -> None:
    """While somebody asks, and while another thread uses the engine."""
    program = """
import warnings
# Python warns of a fork beside threads, which is what this is about.
warnings.simplefilter("ignore")
over = threading.Event()
def busy(call):
    while not over.is_set():
        call()
threads = [threading.Thread(target=busy, args=(each,)) for each in (use, lambda: ask(run_dir))]
for each in threads:
    each.start()
children = []
for times in range(20):
    child = os.fork()
    if child == 0:
        use()
        until(lambda: os.getpid() in reporting())
        os._exit(0)
    children.append(child)
codes = [os.waitpid(child, 0)[1] for child in children]
over.set()
for each in threads:
    each.join()
print(set(codes), reporting() == {os.getpid()}, len(os.listdir(run_dir)))
"""
    assert run(run_dir, program) == "{0} True 1\n"


def test_a_child_of_multiprocessing_answers(run_dir: Path) -> None:
    """It ends without Python's exit handlers: its socket goes when somebody looks."""
    program = """
import multiprocessing
context = multiprocessing.get_context("fork")
over = context.Event()
process = context.Process(target=over.wait)
process.start()
until(lambda: process.pid in reporting())
over.set()
process.join()
print(process.exitcode, reporting() == {os.getpid()}, len(os.listdir(run_dir)))
"""
    assert run(run_dir, program) == "0 True 1\n"


def test_a_child_that_becomes_another_program_is_no_process_of_ours(run_dir: Path) -> None:
    """Though Python has run in it before."""
    program = """
import subprocess
with subprocess.Popen(["sleep", "60"], preexec_fn=os.setsid) as other:
    until(lambda: reporting() == {os.getpid()})
    print(os.listdir(run_dir) == [f"{os.getpid()}.sock"])
    other.kill()
"""
    assert run(run_dir, program) == "True\n"


def test_greenlets_fork_too(run_dir: Path) -> None:
    """The parent's server is a greenlet, which a child inherits, and must not answer with."""
    gevent = """
from gevent import monkey
monkey.patch_all()
"""
    program = """
import gevent
for times in range(3):
    child = os.fork()
    if child == 0:
        until(lambda: os.getpid() in reporting())
        use()
        until(lambda: os.getppid() in reporting())
        until(lambda: os.path.exists(f"{run_dir}.{times}"))
        sys.exit()
    until(lambda: {os.getpid(), child} <= reporting())
    open(f"{run_dir}.{times}", "w").close()
    assert os.waitpid(child, 0)[1] == 0
    until(lambda: os.listdir(run_dir) == [f"{os.getpid()}.sock"])
print(len(reporting()))
"""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", gevent + HEAD + program, str(run_dir)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "1\n", "")


def test_a_stopped_child_holds_nobody_up(run_dir: Path) -> None:
    """Neither its parent's forks, nor who asks."""
    with asked(run_dir, "import os\nif not os.fork():\n    import time; time.sleep(60)") as parent:
        wait_for(lambda: len(ask(str(run_dir))) == 2)
        (child,) = {each.pid for each in ask(str(run_dir))} - {parent.pid}
        os.kill(child, signal.SIGSTOP)
        wait_for(
            lambda: Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        )
        silent = {each.pid: each.silent for each in ask(str(run_dir), timeout=0.2)}
        assert silent == {parent.pid: None, child: "does not answer within 0.2 s"}
        os.kill(child, signal.SIGKILL)
        wait_for(lambda: [each.pid for each in ask(str(run_dir))] == [parent.pid])


def test_a_child_of_a_thread_ends_with_it(run_dir: Path) -> None:
    """What answers there keeps no process alive."""
    program = """
import warnings
# Python warns of a fork beside threads, which is what this is about.
warnings.simplefilter("ignore")
children = []
def fork():
    child = os.fork()
    if child == 0:
        until(lambda: os.getpid() in reporting())
        until(lambda: os.path.exists(f"{run_dir}.seen"))
    else:
        children.append(child)
thread = threading.Thread(target=fork)
thread.start()
thread.join()
until(lambda: children[0] in reporting())
open(f"{run_dir}.seen", "w").close()
print(os.waitpid(children[0], 0)[1], os.listdir(run_dir) == [f"{os.getpid()}.sock"])
"""
    assert run(run_dir, program) == "0 True\n"
