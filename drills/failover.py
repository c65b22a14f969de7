"""The failovers: the address leads to a server that is read-only, and then to the new primary."""

import time

from drills import restart
from drills.faults import Fault
from drills.report import Figure
from drills.stack import Programs, ending, make_tables
from tests.support.servers.failover import PostgresPair

LATE = 1.0  # seconds for which the address still leads to the old primary
# What a primary is told before it is stopped: it refuses to write, and its connections answer.
FENCE = "SET default_transaction_read_only = on"


def drill(seconds: float, patience: float = 5.0, grace: float = 10.0) -> list[Figure]:
    """Run it on the example app and its streamer, with a standby that has each COMMIT."""
    with ending() as (folder, ends):
        pair = PostgresPair(folder, synchronous=True)
        ends.callback(pair.stop)
        make_tables(pair.primary.url())
        faults = [
            Fault("primary crashed, back as a standby", lambda: crash(pair)),
            Fault("primary fenced, stopped in order", lambda: switch(pair)),
        ]
        made = Programs(folder, "main", pair.url(), ends, patience, grace)
        return restart.under(made, faults, seconds)


def crash(pair: PostgresPair) -> None:
    """Let the primary crash, and come back as a standby where the app still looks for it."""
    pair.primary.kill()
    old = pair.promote()
    pair.rejoin(old)
    time.sleep(LATE)
    pair.lead_to(pair.primary)


def switch(pair: PostgresPair) -> None:
    """Switch over in order: fence the primary, stop it, and promote the other one."""
    pair.configure(FENCE)
    pair.catch_up()
    time.sleep(LATE)
    pair.primary.stop("fast")
    pair.promote()
    pair.lead_to(pair.primary)
