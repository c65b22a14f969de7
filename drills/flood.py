"""The flood drill: far more clients than connections."""

import math
import random
import time

from drills import processes
from drills.load import Answer, Clients, Request
from drills.report import Figure, at_least, at_most, plain
from drills.restart import statuses
from drills.stack import stack

FEW, MANY = 5, 200  # clients; the pool has 5 connections
HOLD = 0.05  # seconds for which each request holds one
DEADLINE = 5.0  # seconds that a request may wait for it: drill.ini
SLACK = 1.0  # seconds for everything else
SHARE = 0.9  # of the throughput with few clients that many have to keep
GROWTH = 10.0  # MB


def drill(seconds: float) -> list[Figure]:
    """Run it: for so many seconds with few clients, then for twice as many with many."""
    with stack("slow") as made:
        # As many threads as clients: the pool is to hold the flood, not gunicorn's queue.
        web, port = made.start_web(workers=1, threads=MANY, path="/sleep/0")
        (worker,) = processes.children(web.pid)
        alone = flood(port, FEW, seconds)
        warmed = flood(port, MANY, seconds)
        before = processes.memory_megabytes(worker)
        answers = flood(port, MANY, seconds)
        growth = processes.memory_megabytes(worker) - before
    return [*throughput(alone, answers, seconds), *honesty(warmed + answers), grown(growth)]


def flood(port: int, count: int, seconds: float) -> list[Answer]:
    """Let clients ask for so many seconds."""
    clients = Clients(port, count, hold, think=0)
    time.sleep(seconds)
    return clients.stop()


def hold(chance: random.Random) -> Request:
    """Ask for something that takes a while."""
    return Request("GET", f"/sleep/{HOLD}")


def throughput(alone: list[Answer], answers: list[Answer], seconds: float) -> list[Figure]:
    """Compare what is served to few with what is served to many."""
    few, many = rate(alone, seconds), rate(answers, seconds)
    return [
        plain(f"2xx per second, {FEW} clients", few),
        plain(f"2xx per second, {MANY} clients", many),
        at_least("  share that is kept", many / few if few else math.nan, SHARE, "x"),
    ]


def rate(answers: list[Answer], seconds: float) -> float:
    """Count what was served per second, before the clients were told to stop."""
    end = answers[0].began + seconds
    return sum(a.ok and a.began + a.seconds <= end for a in answers) / seconds


def honesty(answers: list[Answer]) -> list[Figure]:
    """Say what became of the flood's requests."""
    neither = [a for a in answers if not a.ok and a.status != 503]
    vague = [a for a in answers if a.status == 503 and a.retry_after is None]
    return [
        plain(f"requests, {MANY} clients", len(answers)),
        *(plain(f"  of them {what}", count) for what, count in statuses(answers)),
        at_most("  neither 2xx nor 503", len(neither), 0),
        at_most("  503 without Retry-After", len(vague), 0),
        at_most("worst latency", max(a.seconds for a in answers), DEADLINE + SLACK, "s"),
    ]


def grown(megabytes: float) -> Figure:
    """Say how much more memory the worker has after the second flood than after the first."""
    return at_most("growth of the memory", megabytes, GROWTH, "MB")
