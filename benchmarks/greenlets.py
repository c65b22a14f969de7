"""Thousands of greenlets in line, in a process of their own with gevent patched in."""

import json
import subprocess
import sys

from .model import Figure, Run, at_most
from .peers import BARE, PSYCOPG, QUEUE

__all__ = ["hand_off", "time_out_together"]

NAMES = (BARE, PSYCOPG, QUEUE)
"""Bare, because the plugin's `max_waiting` is lifted for this row anyway."""

PROGRAM = """
from gevent import monkey
monkey.patch_all()
import json, sys
from benchmarks.greenlet_work import main
print(json.dumps(main(*json.loads(sys.argv[1]))))
"""


def in_gevent(work: str, name: str, callers: int) -> float | None:
    """Run one measurement in a child process; None when it does not end in a minute."""
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, json.dumps([work, name, callers])]
    try:
        done = subprocess.run(command, capture_output=True, check=True, text=True, timeout=60.0)
    except subprocess.SubprocessError:
        return None
    return float(json.loads(done.stdout.splitlines()[-1]))


def best(work: str, name: str, callers: int, rounds: int) -> float | None:
    """Return the best of some runs, because only the growth is of interest."""
    values = [in_gevent(work, name, callers) for _ in range(rounds)]
    return min((value for value in values if value is not None), default=None)


def growth(work: str, few: int, many: int, rounds: int) -> tuple[dict[str, float | None], str]:
    """Return by how much more each pool takes with many callers, and the times themselves."""
    values: dict[str, float | None] = {}
    notes = []
    for name in NAMES:
        low, high = best(work, name, few, rounds), best(work, name, many, rounds)
        values[name] = None if low is None or high is None else high / low
        notes.append(f"{name} {microseconds(low)} and {microseconds(high)}")
    return values, "; ".join(notes)


def microseconds(seconds: float | None) -> str:
    """Write a time down."""
    return "did not end" if seconds is None else f"{seconds * 1e6:,.1f} µs"


def hand_off(run: Run) -> list[Figure]:
    """Measure one hand-off with 10,000 greenlets in line against one with 10."""
    many = 2_000 if run.quick else 10_000
    values, times = growth("hand_off", 10, many, run.choose(2, 1))
    what = f"one hand-off with {many:,} greenlets waiting on 20, against 10 waiting"
    return [Figure(what, "x", values, "≤ 1.5", at_most(values[BARE], 1.5), note=times)]


def time_out_together(run: Run) -> list[Figure]:
    """Measure how the end of a line that times out as one grows with its length."""
    few, many = (200, 2_000) if run.quick else (1_000, 10_000)
    values, times = growth("time_out", few, many, run.choose(2, 1))
    linear = many / few
    limit = 1.5 * linear
    what = f"all time out together, {many:,} greenlets against {few:,}"
    target = f"linear: ≤ 1.5 x {linear:g}"
    return [Figure(what, "x", values, target, at_most(values[BARE], limit), note=times)]
