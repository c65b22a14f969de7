"""The restart drill: the database fails in four ways under the app's readers and writers."""

from collections import Counter
from collections.abc import Iterable, Sequence

from drills.faults import Fault, Outage, faults_of, strike_in_turn
from drills.load import Answer, Clients, readers_and_writers
from drills.processes import PATIENCE
from drills.report import Figure, at_most, plain
from drills.sockets import Sockets
from drills.stack import Programs, stack

CLIENTS = 16
WORKERS, THREADS = 2, 8
THINK = 0.04  # seconds between a client's requests: the processors are not what is measured
SLACK = 2.0  # seconds by which an answer may outlast the outage
SOCKETS = 3
# By the name of the app in drill.ini: what gunicorn takes as its configuration.
STREAMERS = {"main": "example_app.streamer", "usual": "drills.usual_streamer"}


def drill(app: str, seconds: float, patience: float = 5.0) -> list[Figure]:
    """Run it, with an app that waits so many seconds for a connection.

    The targets are the plugin's.
    """
    with stack(app, patience=patience) as made:
        return under(made, faults_of(made), seconds)


def under(made: Programs, faults: Sequence[Fault], seconds: float) -> list[Figure]:
    """Let readers, writers and sockets be at work while all of these happen."""
    _, live = made.start_streamer(STREAMERS[made.app])
    sockets = Sockets(live, SOCKETS)
    made.ends.callback(sockets.close)
    web, port = made.start_web(workers=WORKERS, threads=THREADS, path="/api/notes")
    clients = Clients(port, CLIENTS, readers_and_writers, THINK)
    outages = strike_in_turn(faults, seconds)
    answers = clients.stop()
    if made.app == "main":
        web.explain(answer.status for answer in answers)
    stored = {str(note) for (note,) in made.execute("SELECT id FROM notes")}
    unseen = sockets.unseen(stored, PATIENCE)
    return [*figures(answers, outages), *losses(answers, stored, unseen)]


def figures(
    answers: list[Answer], outages: Iterable[Outage], *, refused: bool = False
) -> list[Figure]:
    """Say how the clients fared.

    :param refused: whether a 503 that says when to come again is no failure.
    """
    others = [answer for answer in answers if not (answer.ok or answer.in_doubt)]
    told = [answer for answer in others if answer.status == 503 and answer.retry_after]
    failed = [answer for answer in others if not (refused and answer in told)]
    longest = max(outage.seconds for outage in outages)
    return [
        plain("requests", len(answers)),
        plain("longest outage", longest, "s"),
        at_most("answers that are not 2xx", len(failed), 0),
        *(plain(f"  of them {what}", count) for what, count in statuses(failed)),
        *([plain("answers that say when to come again", len(told))] if refused else []),
        at_most("worst latency", max(a.seconds for a in answers), longest + SLACK, "s"),
    ]


def statuses(answers: Iterable[Answer]) -> list[tuple[str, int]]:
    """Count the answers by method and status."""
    kinds = Counter(f"{a.request.method} {a.status or 'no answer'}" for a in answers)
    return sorted(kinds.items())


def losses(answers: Iterable[Answer], stored: set[str], unseen: set[str]) -> list[Figure]:
    """Say what was lost."""
    promised = {a.request.note for a in answers if a.ok and a.request.note}
    return [
        plain("acknowledged writes", len(promised)),
        at_most("  of them missing", len(promised - stored), 0),
        plain("committed notes", len(stored)),
        at_most("  of them seen by no socket", len(unseen), 0),
    ]
