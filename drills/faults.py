"""What befalls the database during a drill, one after another."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from drills.stack import Stack

TERMINATE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
DOWN = 1.0  # seconds that the restarted server is away


@dataclass(frozen=True)
class Fault:
    """Something that happens; it returns when the database can be used again."""

    name: str
    strike: Callable[[Stack], object]


@dataclass(frozen=True)
class Outage:
    """When it happened and how long the database was away, in seconds."""

    name: str
    began: float
    seconds: float


def restart(stack: Stack) -> None:
    """Stop in order, stay away, start."""
    stack.postgres.stop("fast")
    time.sleep(DOWN)
    stack.postgres.start()


def crash(stack: Stack) -> None:
    """Stop without order, start."""
    stack.postgres.restart("immediate")


FAULTS = (
    Fault("restarted, 1 s down", restart),
    Fault("crashed", crash),
    Fault("backends terminated", lambda stack: stack.execute(TERMINATE)),
    Fault("connections cut", lambda stack: stack.proxy.cut(abort=True)),
)


def strike_in_turn(stack: Stack, seconds: float) -> list[Outage]:
    """Let every fault happen once within so many seconds, at regular times."""
    began, pause = time.monotonic(), seconds / (len(FAULTS) + 1)
    outages = []
    for number, fault in enumerate(FAULTS, 1):
        time.sleep(max(0.0, began + number * pause - time.monotonic()))
        struck = time.monotonic()
        fault.strike(stack)
        outages.append(Outage(fault.name, struck, time.monotonic() - struck))
    time.sleep(max(0.0, began + seconds - time.monotonic()))
    return outages
