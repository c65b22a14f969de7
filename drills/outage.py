"""The long outage: the database stays away, and comes back."""

import math
import random
import statistics
import time

from drills import processes
from drills.load import Answer, Clients, Request, send
from drills.report import Figure, at_least, at_most, plain
from drills.restart import statuses
from drills.stack import Stack, stack
from tests.support.servers.proxy import Newcomers

CLIENTS, THINK = 8, 0.4  # seconds: 20 requests a second
HOLD = 0.002  # seconds for which each holds a connection
GRACE = 10.0  # seconds: dbpool.outage_grace's default
SETTLE = 2.0  # seconds after the grace, until the last who waited have been answered
CONNECT = 0.2  # seconds that each attempt to connect takes: two at a time would be seen
REFUSAL, RETURN = 0.05, 2.0  # seconds
CPU = 0.25  # of one processor, with these clients to refuse


def drill(seconds: float, grace: float = GRACE, refusal: float = REFUSAL) -> list[Figure]:
    """Run it with an outage of so many seconds, and so many for a refusal at the most."""
    with stack("slow", grace=grace) as made:
        web, port = made.start_web(workers=1, threads=8, path="/sleep/0")
        (worker,) = processes.children(web.pid)
        clients = Clients(port, CLIENTS, hold, THINK, patient=False)
        time.sleep(2)
        gone = go_away(made)
        time.sleep(grace + SETTLE)
        made.proxy.count_anew()
        before, refusing = processes.cpu_seconds(worker), time.monotonic()
        time.sleep(max(0.0, gone + seconds - time.monotonic()))
        back = time.monotonic()
        cpu = (processes.cpu_seconds(worker) - before) / (back - refusing)
        arrived, at_once = made.proxy.arrived, made.proxy.most_at_once
        come_back(made)
        served = first_served(port)
        answers = clients.stop()
    refused = [a for a in answers if refusing < a.began < back - 1]
    return [
        plain("outage", back - gone, "s"),
        *refusals(refused, refusal),
        at_most("attempts to connect at a time", at_once, 1),
        at_least("attempts to connect", arrived, 1),
        at_most("attempts to connect per second", arrived / (back - refusing), 2.5, "/s"),
        at_most("processor's share of the worker", cpu, CPU, "cores"),
        at_most("served after the server's return", served - back, RETURN, "s"),
        at_most("failed after that", count_failed(answers, served), 0),
    ]


def go_away(made: Stack) -> float:
    """Let the database vanish; return when."""
    made.proxy.faults.latency = CONNECT
    made.proxy.meet(Newcomers.RESET)
    made.proxy.cut(abort=True)
    return time.monotonic()


def come_back(made: Stack) -> None:
    """Let it be there again."""
    made.proxy.faults.latency = 0.0
    made.proxy.meet(Newcomers.PASS)


def hold(chance: random.Random) -> Request:
    """Ask for something that needs a connection."""
    return Request("GET", f"/sleep/{HOLD}")


def first_served(port: int) -> float:
    """Ask until there is a 2xx; return when."""
    until = time.monotonic() + processes.PATIENCE
    while time.monotonic() < until:
        if send(port, Request("GET", "/sleep/0")).ok:
            return time.monotonic()
        time.sleep(0.02)
    return math.inf


def refusals(refused: list[Answer], limit: float) -> list[Figure]:
    """Say how the clients were refused after the grace."""
    seconds = [answer.seconds for answer in refused] or [math.nan]
    return [
        at_least("requests refused", len(refused), 1),
        *(plain(f"  of them {what}", count) for what, count in statuses(refused)),
        at_most("  that are not 503", sum(a.status != 503 for a in refused), 0),
        plain("  median latency", statistics.median(seconds), "s"),
        at_most("  worst latency", max(seconds), limit, "s"),
    ]


def count_failed(answers: list[Answer], since: float) -> int:
    """Count the answers that are not 2xx to requests sent since then."""
    return sum(not answer.ok for answer in answers if answer.began >= since)
