"""What pools cost while nobody uses them, and an outage that lasts."""

import json
import subprocess
import sys

from .failures import long_outage
from .model import Figure, Run, at_most
from .peers import PLUGIN, PSYCOPG, QUEUE

__all__ = ["quiet"]

PROGRAM = """
import json, logging, os, sys, time
# Warming takes five connections at once, which is worth a warning elsewhere.
logging.getLogger("pyramid_dbpool").setLevel(logging.ERROR)
from benchmarks.peers import Shape, make
from tests.conformance.stub import StubServer
name, seconds = json.loads(sys.argv[1])
server = StubServer()
peers = [make(name, server, Shape()) for _ in range(10)]
for peer in peers:
    peer.warm(5)
time.sleep(0.5)
before = os.times()
time.sleep(seconds)
after = os.times()
print(after.user - before.user + after.system - before.system, flush=True)
os._exit(0)
"""


def start(run: Run) -> dict[str, subprocess.Popen[str]]:
    """Start a process for each kind of pool; it prints its processor time."""
    return {
        name: subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps([name, seconds(run)])],
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in (PLUGIN, PSYCOPG, QUEUE)
    }


def seconds(run: Run) -> float:
    """Return how long to be idle."""
    return 5.0 if run.quick else 60.0


def collect(run: Run, children: dict[str, subprocess.Popen[str]]) -> Figure:
    """Wait for the processes and judge what they used."""
    values: dict[str, float | None] = {}
    for name, child in children.items():
        output, _ = child.communicate(timeout=seconds(run) + 30.0)
        values[name] = float(output) / seconds(run) * 100 if output.strip() else None
    what = f"idle: processor time of 10 pools over {seconds(run):g} s"
    return Figure(what, "%", values, "≤ 0.1 %", at_most(values[PLUGIN], 0.1))


def quiet(run: Run) -> list[Figure]:
    """Measure the two rows that take long and use next to no processor, side by side."""
    children = start(run)
    return [*long_outage(run), collect(run, children)]
