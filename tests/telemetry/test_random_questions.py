"""Questions and commands at random, to pools under load, with forks and kills in between."""

import os
import random
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pyramid_dbpool.telemetry.host import ask, command
from tests.support.asked import Asked, asked
from tests.support.makers import wait_for

pytestmark = [pytest.mark.programs, pytest.mark.slow]

ACTIONS = int(os.environ.get("DBPOOL_QUESTIONS", "300"))
# Threads that use the pool, and a fork from time to time, until a file is there.
LOAD = """
import logging, random, signal, threading, time, warnings
logging.disable()
from pyramid_dbpool import DatabaseUnavailable, deadline
from pyramid_dbpool.pool.labels import holder_label
from sqlalchemy.exc import TimeoutError
# Python warns of a fork beside threads, which is what this is about.
warnings.simplefilter("ignore")
run_dir = sys.argv[1]
ending, began = run_dir + ".over", time.monotonic()

def is_over():
    # Or the test has been killed.
    return os.path.exists(ending) or time.monotonic() - began > 100

def use():
    while not is_over():
        try:
            with holder_label("GET route 'notes'"), deadline(0.2), engine.connect() as connection:
                connection.exec_driver_sql("SELECT 1")
                time.sleep(0.01 + random.random() / 50)
                if random.random() < 0.05:
                    with engine.connect():
                        pass
        except (TimeoutError, DatabaseUnavailable):
            pass

def load():
    threads = [threading.Thread(target=use) for _ in range(4)]
    for each in threads:
        each.start()
    return threads

def children():
    tasks = os.listdir("/proc/self/task")
    found = 0
    for task in tasks:
        with open(f"/proc/self/task/{task}/children") as listed:
            found += len(listed.read().split())
    return found

def fork():
    while not is_over():
        time.sleep(0.3)
        if children() < 3 and not os.fork():
            for each in load():
                each.join()
            # What it says of its books must be read.
            while not os.path.exists(run_dir + ".read") and time.monotonic() - began < 150:
                time.sleep(0.02)
            if random.random() < 0.5:
                os._exit(0)
            sys.exit()

# Children that have ended are gone.
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
load()
threading.Thread(target=fork).start()
"""
NONSENSE = (
    b"",
    b"\0\xff" * 50,
    b"GET /report",
    b"POST /pause HTTP/1.1\r\nContent-Length: 9\r\n\r\n{",
)


class Host:
    """What is asked and done to the processes of a folder."""

    def __init__(self, run_dir: Path, chance: random.Random, parents: set[int]) -> None:
        self.run_dir = str(run_dir)
        self.chance = chance
        self.parents = parents
        self.held: list[socket.socket] = []
        self.answered = 0

    def pids(self) -> list[int]:
        return [each.pid for each in ask(self.run_dir, stacks=False, timeout=5)]

    def ask(self) -> None:
        """Ask all of them, and look whether what they say can be."""
        for each in ask(self.run_dir, stacks=self.chance.random() < 0.5, timeout=5):
            if each.report is not None:
                self.answered += 1
                (pool,) = each.report["pools"]
                assert len(pool["holders"]) <= pool["leased"]
                assert len(pool["waiters"]) == pool["waiting"]
                assert min(pool["idle"], pool["leased"], pool["opening"], pool["held"]) >= 0

    def command(self) -> None:
        name = self.chance.choice(["refresh", "resize", "pause", "resume", "resume"])
        size = self.chance.randint(1, 6)
        arguments: dict[str, Any] = {"size": size, "max_overflow": 3} if name == "resize" else {}
        command(self.run_dir, name, by="chance", timeout=5, **arguments)

    def babble(self) -> None:
        """Say something that is none, and leave, or stay."""
        for pid in self.pids()[:3]:
            talking = socket.socket(socket.AF_UNIX)
            with suppress(OSError):
                talking.connect(f"{self.run_dir}/{pid}.sock")
                talking.sendall(self.chance.choice(NONSENSE))
            if self.chance.random() < 0.5 and len(self.held) < 10:
                self.held.append(talking)
            else:
                talking.close()

    def kill(self) -> None:
        """Kill a child, if there are several."""
        children = sorted(set(self.pids()) - self.parents)
        if len(children) > 1:
            self.signal(self.chance.choice(children), signal.SIGKILL)

    def stop(self) -> None:
        """Stop one for the time of a question."""
        pid = self.chance.choice(self.pids())
        self.signal(pid, signal.SIGSTOP)
        ask(self.run_dir, timeout=0.1)
        self.signal(pid, signal.SIGCONT)

    @staticmethod
    def signal(pid: int, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    def at_rest(self) -> bool:
        """Tell whether nobody holds or waits anywhere, and every process says so."""
        answers = ask(self.run_dir, timeout=10)
        return all(each.report is not None and rests(each.report) for each in answers)


def rests(report: dict[str, Any]) -> bool:
    (pool,) = report["pools"]
    busy = ("leased", "held", "opening", "waiting")
    return not any(pool[each] for each in busy)


def check_books(report: dict[str, Any]) -> None:
    """See that every checkout has come back, and every connection is somewhere."""
    (pool,) = report["pools"]
    assert pool["checkouts"] == pool["returns"] + pool["unreceived"] + pool["disowned"]
    assert pool["opened"] == pool["idle"] + sum(pool["closed"].values())
    assert pool["idle"] <= pool["capacity"]
    assert pool["paused_seconds"] is None


@pytest.mark.timeout(300)
def test_nothing_hangs_and_the_books_are_right(tmp_path: Path) -> None:
    """And no socket is left behind."""
    run_dir = tmp_path / "run"
    seed = random.randrange(10**6)
    # For whoever sees it fail.
    print("seed", seed)
    with asked(run_dir, LOAD) as first, asked(run_dir, LOAD) as second:
        host = Host(run_dir, random.Random(seed), {first.pid, second.pid})
        actions: list[Callable[[], None]] = [host.ask] * 5
        actions += [host.command] * 3 + [host.babble, host.kill, host.stop]
        for _ in range(ACTIONS):
            host.chance.choice(actions)()
        assert host.answered > ACTIONS / 2
        for each in host.held:
            each.close()
        end(host, first, second)
    assert list(run_dir.iterdir()) == []


def end(host: Host, *parents: Asked) -> None:
    """Let the load end, read the books, and let all of them go."""
    Path(host.run_dir + ".over").touch()

    def resumed() -> bool:
        command(host.run_dir, "resume", timeout=10)
        return host.at_rest()

    wait_for(resumed)
    answers = ask(host.run_dir, timeout=10)
    assert {each.pid for each in parents} <= {each.pid for each in answers}
    for each in answers:
        assert each.report is not None
        check_books(each.report)
    Path(host.run_dir + ".read").touch()
    for process in parents:
        process.process.terminate()
        process.process.wait(30)
    # Who ended without Python's exit handlers is dead to whoever looks.
    wait_for(lambda: ask(host.run_dir) == [])
