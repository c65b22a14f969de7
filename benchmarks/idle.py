"""What pools cost while nobody uses them."""

import json
import subprocess
import sys

from .model import Figure, Run, at_most
from .peers import PLUGIN, PSYCOPG, QUEUE

__all__ = ["idle"]

PROGRAM = """
import json, os, sys, time
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


def idle(run: Run) -> list[Figure]:
    """Measure the processor time of 10 pools over 60 s, each kind in its own process."""
    seconds = 5.0 if run.quick else 60.0
    children = {
        name: subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps([name, seconds])],
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in (PLUGIN, PSYCOPG, QUEUE)
    }
    values: dict[str, float | None] = {}
    for name, child in children.items():
        output, _ = child.communicate(timeout=seconds + 30.0)
        values[name] = float(output) / seconds * 100 if output.strip() else None
    what = f"idle: processor time of 10 pools over {seconds:g} s"
    return [Figure(what, "%", values, "≤ 0.1 %", at_most(values[PLUGIN], 0.1))]
