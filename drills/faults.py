"""What befalls the database during a drill, one after another."""

import time
from collections.abc import Callable, Sequence
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
    strike: Callable[[], object]


@dataclass(frozen=True)
class Outage:
    """When it happened and how long the database was away, in seconds."""

    name: str
    began: float
    seconds: float


def faults_of(stack: Stack) -> list[Fault]:
    """List what may befall PostgreSQL and the network before it."""
    return [
        Fault("restarted, 1 s down", lambda: restart(stack)),
        Fault("crashed", lambda: stack.postgres.restart("immediate")),
        Fault("backends terminated", lambda: stack.execute(TERMINATE)),
        Fault("connections cut", lambda: stack.proxy.cut(abort=True)),
    ]


def restart(stack: Stack) -> None:
    """Stop in order, stay away, start."""
    stack.postgres.stop("fast")
    time.sleep(DOWN)
    stack.postgres.start()


def strike_in_turn(faults: Sequence[Fault], seconds: float) -> list[Outage]:
    """Let every fault happen once, at regular times; all goes well for so many seconds.

    A busy machine takes long to end one, and a request that has met the next one too has used up
    its tries.
    """
    pause = seconds / (len(faults) + 1)
    outages = []
    for fault in faults:
        time.sleep(pause)
        struck = time.monotonic()
        fault.strike()
        outages.append(Outage(fault.name, struck, time.monotonic() - struck))
    time.sleep(pause)
    return outages
