"""What a checkout and a request cost while every window stands open and nobody looks."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pyramid_dbpool.embedded import PrivatePostgres
from pyramid_dbpool.telemetry.host import ask

from .model import Figure, Run, Samples, at_most, percentile, quotient

__all__ = ["watched", "windows"]

WITHOUT, WITH = "without", "with everything"
LIMIT = 1.05

SLICES = 300
"""Turns that each process has in a round."""

COUNTS = {"checkout": 400, "quiet": 25, "select": 2}
"""What a slice does: at most two milliseconds of work, in which hardly anybody gets between."""

PROGRAM = """
import logging, sys, warnings
warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
from benchmarks.windows_work import main
main(*sys.argv[1:])
"""

PROCESSES, HELD = 10, 4
"""How many processes are watched, and how many connections each of them has in use."""

WHAT = {
    "checkout": "pool.connect() + close(), PostgreSQL, every window open",
    "quiet": "a request that asks no database, every window open",
    "select": "a request with one SELECT, every window open",
}


class Process:
    """A process that measures what it is asked to."""

    def __init__(self, name: str, url: str, run_dir: str) -> None:
        self.name = name
        command = [sys.executable, "-c", PROGRAM, url, run_dir]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._read()

    def ask(self, how: str, work: str, count: int = 1) -> Any:
        """Have it do something so many times.

        :param how: what it is to say of that: `timed`, `instructions`, or else what was `done`.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([how, work, count]) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process {self.name!r} has ended")
        return json.loads(line)

    def close(self) -> None:
        """End it."""
        self._process.communicate(timeout=60.0)


@contextmanager
def both(url: str, folder: Path, turn: int) -> Iterator[list[Process]]:
    """Start the two processes; who has the luck of the better memory is another one each turn."""
    named = [(WITHOUT, ""), (WITH, str(folder / f"run{turn}"))]
    with ExitStack() as stack:
        processes = []
        for name, run_dir in named[:: 1 - 2 * (turn % 2)]:
            process = Process(name, url, run_dir)
            stack.callback(process.close)
            processes.append(process)
        yield processes


def windows(run: Run) -> list[Figure]:
    """Measure both in turns, slice by slice, with new processes in each round."""
    clock: dict[str, Samples] = {name: Samples() for name in WHAT}
    processor: dict[str, Samples] = {name: Samples() for name in WHAT}
    counted: dict[str, Samples] = {name: Samples() for name in WHAT}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        url = stack.enter_context(PrivatePostgres(folder / "postgres")).url()
        for turn in range(run.choose(9, 3)):
            with both(url, folder, turn) as processes:
                for name, count in COUNTS.items():
                    measure(processes, name, count, clock[name], processor[name])
                    for each in processes:
                        counted[name].add(each.name, each.ask("instructions", name))
    return [
        figure
        for name in WHAT
        for figure in (
            judged(WHAT[name], "µs", clock[name].medians()),
            judged(f"{WHAT[name]}: processor time", "µs", processor[name].medians()),
            judged(f"{WHAT[name]}: instructions of Python's", "", counted[name].medians()),
        )
    ]


def measure(
    processes: list[Process], name: str, count: int, clock: Samples, processor: Samples
) -> None:
    """Let the processes take turns; the lower tenth of the slices stands for the round."""
    slices: dict[str, list[tuple[float, float]]] = {each.name: [] for each in processes}
    for turn in range(SLICES):
        for each in processes[:: 1 - 2 * (turn % 2)]:
            slices[each.name].append(tuple(each.ask("timed", name, count)))
    for process, values in slices.items():
        clock.add(process, percentile([wall for wall, _ in values], 0.1))
        processor.add(process, percentile([own for _, own in values], 0.1))


def judged(what: str, unit: str, values: dict[str, float | None]) -> Figure:
    """Judge what it takes with everything against what it takes without."""
    ratio = quotient(values, WITH, WITHOUT)
    ordered = {name: values.get(name) for name in (WITHOUT, WITH)}
    return Figure(what, unit, ordered, f"≤ {LIMIT:g} x without", at_most(ratio, LIMIT), ratio)


def watched(run: Run) -> list[Figure]:
    """Measure what ten processes cost that `pdbpool top` asks once a second, beside nobody."""
    seconds = run.choose(30, 10)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        url = stack.enter_context(PrivatePostgres(folder / "postgres")).url()
        processes = []
        for number in range(PROCESSES):
            processes.append(Process(str(number), url, str(folder / "run")))
            stack.callback(processes[-1].close)
            processes[-1].ask("done", "hold", HELD)
        idle = processor_share(processes, seconds, lambda: None)
        asked = processor_share(processes, seconds, lambda: all_answer(str(folder / "run")))
    values: dict[str, float | None] = {"nobody looks": idle, "watched": asked}
    what = f"{PROCESSES} processes, asked once a second: processor time of each"
    return [Figure(what, "%", values, "≤ 1 %", at_most(asked, 1.0))]


def processor_share(
    processes: list[Process], seconds: int, once_a_second: Callable[[], object]
) -> float:
    """Return what the busiest process takes of one core, in per cent."""
    began, before = time.monotonic(), [each.ask("done", "processor") for each in processes]
    for _ in range(seconds):
        once_a_second()
        time.sleep(1.0)
    took = time.monotonic() - began
    after = [each.ask("done", "processor") for each in processes]
    used: list[float] = [now - then for then, now in zip(before, after, strict=True)]
    return max(used) / took * 100


def all_answer(run_dir: str) -> None:
    """Ask all processes, each holder's stack too."""
    answers = ask(run_dir, stacks=True, timeout=5.0)
    if len(answers) != PROCESSES or any(each.report is None for each in answers):
        raise RuntimeError(f"not all of them answer: {answers}")
