"""What `windows` measures, in a process of its own: with every window, or with none."""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry
from pyramid.request import Request

from pyramid_dbpool import get_engine
from pyramid_dbpool.opentelemetry import instrument
from pyramid_dbpool.prometheus import PoolCollector

from .model import measuring
from .requests import App, configurator

__all__ = ["main"]

TRACED = 5
"""How often the instructions are counted: what is left from before makes one of them longer."""

Work = Callable[[int], object]


class Policy:
    """A security policy, which the live page needs; pyramid_tm asks it who it is."""

    def authenticated_userid(self, _request: Request) -> None:
        """Know nobody."""

    def permits(self, _request: Request, _context: object, _permission: str) -> bool:
        """Let nobody in."""
        return False


def main(url: str, run_dir: str) -> None:
    """Measure what the lines of the standard input say, and write what came of each.

    :param run_dir: the folder in which this process answers; empty: no window at all.
    """
    works = made(url, run_dir)
    for name in ("checkout", "quiet", "select"):
        works[name](50)
    gc.collect()
    # Pyramid makes a class for each request, which nothing else takes away.
    gc.freeze()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        how, name, count = json.loads(line)
        print(json.dumps(WAYS[how](works[name], count)), flush=True)


def made(url: str, run_dir: str) -> dict[str, Work]:
    """Return what can be done: a number of checkouts, or of requests."""
    windows = {
        "dbpool.run_dir": run_dir,
        "dbpool.status_permission": "look",
        "dbpool.status_command_permission": "act",
    }
    settings = {"sqlalchemy.url": url, **(windows if run_dir else {"dbpool.hold_warning": "off"})}
    config = configurator(settings)
    config.set_security_policy(Policy())
    config.include("pyramid_dbpool")
    if run_dir:
        config.include("pyramid_dbpool.status")
        config.include("pyramid_dbpool.prometheus")
        CollectorRegistry().register(PoolCollector(settings))
        instrument(MeterProvider([InMemoryMetricReader()]))
    app = App("everything" if run_dir else "nothing", config)
    connect = get_engine(config.registry.settings).pool.connect

    held: list[Any] = []

    def check_out(count: int) -> None:
        for _ in range(count):
            connect().close()

    return {
        "checkout": check_out,
        "quiet": lambda count: app.seconds_for("/quiet", count),
        "select": lambda count: app.seconds_for("/select", count),
        # Of these two nothing is timed.
        "hold": lambda count: held.extend(connect() for _ in range(count)),
        "processor": lambda _count: time.process_time(),
    }


def timed(work: Work, count: int) -> tuple[float, float]:
    """Return the microseconds that each took, by the clock and of the processor's time."""
    with measuring():
        wall, processor = time.perf_counter(), time.process_time()
        work(count)
        took = time.perf_counter() - wall, time.process_time() - processor
    gc.collect()
    return took[0] / count * 1e6, took[1] / count * 1e6


def instructions(work: Work, count: int) -> int:
    """Return how many instructions of Python's so many take, at least."""
    with measuring():
        return min(count_in(work, count) for _ in range(TRACED))


def count_in(work: Work, count: int) -> int:
    """Count the instructions, which nothing else of this machine changes."""
    counted = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal counted
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        counted += event == "opcode"
        return trace

    sys.settrace(trace)
    try:
        work(count)
    finally:
        sys.settrace(None)
    return counted


def done(work: Work, count: int) -> Any:
    """Return what the work itself returns."""
    return work(count)


WAYS = {"timed": timed, "instructions": instructions, "done": done}
