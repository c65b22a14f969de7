"""The ledger's clients and its worker, and what became of each write and each message."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from uuid import uuid4

from drills.faults import Fault, strike_in_turn
from drills.ledger import Entry, Handled, stored
from drills.load import Answer, Clients, Request
from drills.processes import PATIENCE, Process
from drills.report import Figure, at_most, plain
from drills.restart import CLIENTS, THINK, THREADS, WORKERS, figures
from drills.stack import Programs


def under(
    made: Programs,
    faults: Sequence[Fault],
    seconds: float,
    url: Callable[[], str],
    *,
    refused: bool = False,
) -> list[Figure]:
    """Let clients and the worker write while all of these happen.

    :param url: gives the URL at which, in the end, everything has to be stored.
    :param refused: whether nothing can be stored meanwhile, so that a client may be told to come
        again.
    """
    worker = made.start_worker("drills.ledger")
    web, port = made.start_web(workers=WORKERS, threads=THREADS, path="/entries")
    clients = Clients(port, CLIENTS, counting_and_posting, THINK)
    outages = strike_in_turn(faults, seconds)
    answers = clients.stop()
    web.explain(answer.status for answer in answers if not answer.in_doubt)
    entries = Counter(stored(url(), Entry))
    promised = {str(a.request.note) for a in answers if a.ok and a.request.note}
    handled = handled_in_the_end(url(), promised, worker)
    return [
        *figures(answers, outages, refused=refused),
        *entered(answers, promised, entries),
        *worked_off(promised, handled, worker),
    ]


def counting_and_posting(chance: random.Random) -> Request:
    """Ask how many entries there are, or post one."""
    if chance.random() < 0.6:
        return Request("GET", "/entries")
    name = str(uuid4())
    return Request("POST", f"/entries/{name}", note=name)


def handled_in_the_end(url: str, promised: set[str], worker: Process) -> "Counter[str]":
    """Wait until each write's message was handled or dropped; count how often it was handled."""
    end = time.monotonic() + PATIENCE
    while True:
        handled = Counter(stored(url, Handled))
        over = handled.keys() | dropped(worker, "given up") | dropped(worker, "in doubt")
        if time.monotonic() > end or not promised - over:
            return handled
        time.sleep(0.2)


def dropped(worker: Process, what: str) -> set[str]:
    """List the messages that the worker has "given up", or that are "in doubt"."""
    lines = worker.printed().splitlines()
    return {line.rpartition(" ")[2] for line in lines if f"{what}: " in line}


def entered(
    answers: Iterable[Answer], promised: set[str], entries: "Counter[str]"
) -> list[Figure]:
    """Say what became of the clients' writes."""
    return [
        plain("answers that say that a write is in doubt", sum(a.in_doubt for a in answers)),
        plain("acknowledged writes", len(promised)),
        at_most("  of them missing", len(promised - entries.keys()), 0),
        at_most("writes that are there twice", sum(n > 1 for n in entries.values()), 0),
    ]


def worked_off(promised: set[str], handled: "Counter[str]", worker: Process) -> list[Figure]:
    """Say what became of their messages."""
    given_up, in_doubt = dropped(worker, "given up"), dropped(worker, "in doubt")
    missing = promised - handled.keys() - given_up - in_doubt
    return [
        plain("messages in doubt", len(in_doubt)),
        at_most("messages given up", len(given_up), 0),
        at_most("messages not handled", len(missing), 0),
        at_most("messages handled twice", sum(n > 1 for n in handled.values()), 0),
    ]
