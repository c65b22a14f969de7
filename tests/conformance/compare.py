"""Run every scenario on every pool and print the table.

    python -m tests.conformance.compare [--pool NAME]... [--only WORD] [--fast] [--why]

Each scenario runs in a process of its own, which is ended when it exceeds its bound.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import pkgutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from .adapters import ADAPTERS, load
from .adapters.base import NotOffered
from .lab import Lab

BOUND = 25.0
"""Seconds after which a scenario counts as failed."""

Scenario = Callable[[Lab], None]
FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Result:
    """How one scenario went on one pool."""

    theme: str
    scenario: str
    pool: str
    outcome: str
    """pass, fail or not offered."""
    why: str
    seconds: float


def scenarios() -> Iterator[tuple[str, Scenario]]:
    """Yield each scenario with its theme, file by file."""
    folder = str(Path(__file__).parent)
    for module in pkgutil.iter_modules([folder]):
        if module.name.startswith("test_") and module.name != "test_teeth":
            theme = importlib.import_module(f".{module.name}", __package__)
            for name, function in vars(theme).items():
                if name.startswith("test_"):
                    yield module.name.removeprefix("test_"), function


def named(name: str) -> tuple[str, Scenario]:
    """Return the scenario of this name with its theme."""
    return next(item for item in scenarios() if item[1].__name__ == name)


def is_slow(scenario: Scenario) -> bool:
    """Tell whether a scenario carries pytest's mark."""
    marks = getattr(scenario, "pytestmark", [])
    return any(mark.name == "slow" for mark in marks)


def play(scenario: Scenario, pool: str, answer: Connection) -> None:
    """Run a scenario in this process and send how it went."""
    warnings.simplefilter("ignore")
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for the rest of this process
    try:
        lab = Lab(load(pool))
        scenario(lab)
        outcome = ("pass", "")
    except NotOffered as lack:
        outcome = ("not offered", str(lack))
    except BaseException as error:  # an interrupt that comes too late is a failure too
        outcome = ("fail", f"{type(error).__name__}: {error}".split("\n", 1)[0])
    answer.send(outcome)
    os._exit(0)


def run(theme: str, scenario: Scenario, pool: str) -> Result:
    """Run a scenario in a child process, for no longer than the bound."""
    receiver, sender = FORK.Pipe(duplex=False)
    child = FORK.Process(target=play, args=(scenario, pool, sender))
    started = time.monotonic()
    child.start()
    sender.close()
    try:
        outcome, why = receiver.recv() if receiver.poll(BOUND) else ("fail", "no end in sight")
    except EOFError:
        outcome, why = "fail", "the process died"
    seconds = time.monotonic() - started
    child.kill()
    child.join()
    name = scenario.__name__.removeprefix("test_").replace("_", " ")
    return Result(theme, name, pool, outcome, why, round(seconds, 3))


def table(results: list[Result], pools: list[str]) -> str:
    """Return the results as a table: a row for each scenario, a column for each pool."""
    cells = {(result.theme, result.scenario, result.pool): result for result in results}
    rows = list(dict.fromkeys((result.theme, result.scenario) for result in results))
    width = max(len(scenario) for _, scenario in rows)
    lines = [" " * width + "  " + "  ".join(f"{pool:<15}" for pool in pools).rstrip()]
    theme = ""
    for row in rows:
        if row[0] != theme:
            theme = row[0]
            lines.append(f"[{theme}]")
        outcomes = (cells[*row, pool].outcome for pool in pools)
        lines.append(f"{row[1]:<{width}}  " + "  ".join(f"{o:<15}" for o in outcomes).rstrip())
    return "\n".join(lines)


def totals(results: list[Result], pools: list[str]) -> str:
    """Return how many scenarios each pool passes, fails and does not offer."""
    lines = []
    for pool in pools:
        mine = [result.outcome for result in results if result.pool == pool]
        parts = (f"{mine.count(o)} {o}" for o in ("pass", "fail", "not offered"))
        lines.append(f"{pool}: {', '.join(parts)}")
    return "\n".join(lines)


def compare(pools: list[str], only: str = "", fast: bool = False) -> list[Result]:
    """Run every scenario on each of these pools, or those with a word in their name."""
    return [
        run(theme, scenario, pool)
        for theme, scenario in scenarios()
        if only in scenario.__name__ and not (fast and is_slow(scenario))
        for pool in pools
    ]


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description="Compare connection pools by behaviour.")
    parser.add_argument("--pool", action="append", choices=list(ADAPTERS), help="only this pool")
    parser.add_argument("--only", default="", help="only scenarios with this in their name")
    parser.add_argument("--fast", action="store_true", help="leave the slow scenarios out")
    parser.add_argument("--why", action="store_true", help="print why scenarios failed")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    wanted = parser.parse_args()
    pools = wanted.pool or list(ADAPTERS)
    results = compare(pools, wanted.only, fast=wanted.fast)
    print(table(results, pools), totals(results, pools), sep="\n\n")
    if wanted.why:
        for result in results:
            if result.outcome == "fail":
                print(f"{result.pool}: {result.scenario}: {result.why}")
    if wanted.json:
        wanted.json.write_text(json.dumps([asdict(result) for result in results], indent=1))


if __name__ == "__main__":
    main()
