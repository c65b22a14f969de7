"""The five incidents: each window has to name who is to blame, within seconds.

A slow view that eats the pool; a leak; two views that each hold one connection and wait for
another; a database that went away; a failover. And a message whose handler takes its time.
"""

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from drills import culprits, windows
from drills.load import Clients, Request, send
from drills.processes import ROOT
from drills.report import Figure
from drills.stack import Programs, ending, stack
from drills.windows import Said, Scene
from example_app import broker
from tests.support.servers.failover import PostgresPair
from tests.support.servers.proxy import FaultProxy, Newcomers

APP = "culprits"  # in drill.ini
# More threads than clients: also the page needs one.
WORKERS, THREADS = 2, 24
THINK = 0.2  # seconds between a client's requests
REPORT = ROOT / "var" / "drills" / "incidents.rst"

TIMEOUT, GRACE = 3.0, 4.0  # seconds: the app's pool_timeout and outage_grace
HEAD = """The incidents, as each window told of them
==========================================
"""


# A step has what it starts end with the stack.
Step = Callable[[Scene, ExitStack], object]


@dataclass(frozen=True)
class Phase:
    """A part of an incident: the steps that begin it, and what each window has to say then.

    `expected`: regular expressions, by the window's name.
    """

    name: str
    steps: Sequence[Step]
    expected: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Incident:
    """Something that goes wrong; `story` says what is done.

    `worker`: a worker has a part in it. `pair`: the database is a primary with a standby.
    """

    title: str
    story: str
    phases: Sequence[Phase]
    worker: bool = False
    pair: bool = False
    app: str = APP
    workers: int = WORKERS


def ask(path: str, count: int, method: str = "GET") -> Step:
    """Have some clients ask for a page again and again."""

    def begin(scene: Scene, ends: ExitStack) -> None:
        clients = Clients(scene.port, count, lambda _: Request(method, path), THINK, patient=False)
        ends.callback(clients.stop)

    return begin


def ask_once(path: str) -> Step:
    """Ask for a page, and wait for it."""

    def ask_and_wait(scene: Scene, ends: ExitStack) -> None:
        assert send(scene.port, Request("GET", path)).ok

    return ask_and_wait


def go_away(scene: Scene, ends: ExitStack) -> None:
    """Let the database vanish."""
    assert scene.proxy is not None
    scene.proxy.meet(Newcomers.RESET)
    scene.proxy.cut(abort=True)


def come_back(scene: Scene, ends: ExitStack) -> None:
    """Let it be there again."""
    assert scene.proxy is not None
    scene.proxy.meet(Newcomers.PASS)


def fail_over(scene: Scene, ends: ExitStack) -> None:
    """Crash the primary; its address leads to what is a standby now."""
    assert scene.pair is not None
    scene.pair.primary.kill()
    scene.pair.rejoin(scene.pair.promote())


def lead_to_the_new(scene: Scene, ends: ExitStack) -> None:
    """Have the address lead to the new primary."""
    assert scene.pair is not None
    scene.pair.lead_to(scene.pair.primary)


def publish(scene: Scene, ends: ExitStack) -> None:
    """Give the worker a message."""
    settings = {"broker.url": "filesystem://"}
    settings["broker.folder"] = scene.programs.variables["broker_folder"]
    broker.publish(broker.connect(settings), {"id": "pictures-17"})


def named(function: str) -> str:
    """Give the expression for a place in the code, as every window names it."""
    return rf"{function} \(\S*culprits\.py:\d+\)"


def shown(metric: str) -> str:
    """Give the expression for a metric of ours that is one or more."""
    return rf"^dbpool_{metric}\{{.* [1-9]"


DROPPED = r"GET route 'drop' \(ended\) has dropped its connection"
LEFT = "has ended without giving it back; it "
TAKEN = "was taken in "
SLOW = "GET route 'slow'"
INCIDENTS = {
    "slow": Incident(
        "A slow view eats the pool",
        "Twelve clients ask for a view that holds its connection for 5 s while another service"
        " takes its time; four ask for a quick one.",
        [
            Phase(
                "While they ask",
                [ask("/slow", 12), ask("/quick", 4)],
                {
                    "top": [rf"{SLOW} +\d connections, longest", named("ask_the_bank")],
                    "stacks": [rf"{SLOW}: \d", named("ask_the_bank")],
                    "events": [rf"{SLOW} has held a connection", named("ask_the_bank")],
                    "log": [rf"{SLOW} has held a connection for \d", named("ask_the_bank")],
                    "error": ["no connection came free within", SLOW],
                    "page": ["exhausted", rf"{SLOW} holds \d of \d", named("ask_the_bank")],
                    "metrics": [shown("longest_hold_seconds"), shown("longest_wait_seconds")],
                },
            )
        ],
    ),
    "keep": Incident(
        "A leak: a view keeps its connections for ever",
        "A client asks for a view that puts its connection into a list of its module; four ask for"
        " a quick one.",
        [
            Phase(
                "While they ask",
                [ask("/keep", 1), ask("/quick", 4)],
                {
                    "top": [
                        r"GET route .keep. \(ended\) +\d connections, longest",
                        LEFT + TAKEN + named("keep"),
                    ],
                    "stacks": [
                        r"GET route .keep. \(ended\): \d",
                        LEFT + "was taken in",
                        named("keep"),
                    ],
                    "events": [
                        r"GET route .keep. \(ended\) has held a connection",
                        LEFT + TAKEN + named("keep"),
                    ],
                    "log": [
                        r"GET route 'keep' \(ended\) has held a connection for \d",
                        LEFT + TAKEN + named("keep"),
                    ],
                    "error": [
                        "no connection came free within",
                        r"GET route 'keep' \(ended\)",
                        "has not given its connection back: a leak",
                    ],
                    "page": [
                        "exhausted",
                        r"GET route 'keep' \(ended\) holds \d of \d",
                        "has not given back a connection",
                        TAKEN + named("keep"),
                    ],
                    "metrics": [shown("longest_hold_seconds"), shown("longest_wait_seconds")],
                },
            )
        ],
        app="culprits-traced",
    ),
    "export": Incident(
        "A leak: a thread keeps its connections for ever",
        "A client asks for a view that starts a thread, which takes a connection and waits; four"
        " ask for a quick one.",
        [
            Phase(
                "While they ask",
                [
                    ask("/export", 1),
                    ask("/quick", 4),
                ],
                {
                    "top": [
                        r"thread .exporter. +\d connections, longest",
                        named("wait_for_the_disk"),
                    ],
                    "stacks": [r"thread .exporter.: \d", named("wait_for_the_disk")],
                    "events": [
                        "thread .exporter. has held a connection",
                        named("wait_for_the_disk"),
                    ],
                    "log": [
                        r"thread 'exporter' has held a connection for \d",
                        named("wait_for_the_disk"),
                    ],
                    "error": ["no connection came free within", "thread 'exporter'"],
                    "page": [
                        "exhausted",
                        r"thread 'exporter' holds \d of \d",
                        named("wait_for_the_disk"),
                    ],
                    "metrics": [shown("longest_hold_seconds"), shown("longest_wait_seconds")],
                },
            )
        ],
    ),
    "drop": Incident(
        "A leak: a view drops its connections, and the collector finds them",
        "A client asks for a view that forgets its connection in a cycle; four ask for a quick"
        " one.",
        [
            Phase(
                "While they ask",
                [ask("/drop", 1), ask("/quick", 4)],
                {
                    "log": [DROPPED, TAKEN + named("drop")],
                    "events": [DROPPED, TAKEN + named("drop")],
                    "page": [DROPPED, TAKEN + named("drop")],
                },
            )
        ],
        app="culprits-traced",
    ),
    "second": Incident(
        "Two views that each hold one connection and wait for another",
        "Four clients ask for the one, four for the other, four for a quick one.",
        [
            Phase(
                "While they ask",
                [
                    ask("/order", 4),
                    ask("/invoice", 4),
                    ask("/quick", 4),
                ],
                {
                    "top": [r"holds? one already", named("next_number")],
                    "stacks": ["holds one already", named("next_number")],
                    "events": ["waits for a second connection", named("next_number")],
                    "log": [
                        r"GET route '(order|invoice)' waits for a second connection",
                        named("next_number"),
                    ],
                    "error": ["of those who wait hold", "GET route '(order|invoice)'"],
                    "page": ["hold a connection already", named("next_number")],
                    "metrics": [shown("waiting_holders")],
                },
            )
        ],
    ),
    "away": Incident(
        "The database goes away",
        "The server vanishes: its connections are reset, and so is who connects.",
        [
            Phase(
                "While it is away",
                [ask("/quick", 4), go_away],
                {
                    "top": [r"away \d"],
                    "events": ["the database server is unreachable"],
                    "log": ["the database server is unreachable"],
                    "error": ["has been unreachable for"],
                    "page": [r"has been away for \d"],
                    "metrics": [shown("outage_seconds")],
                },
            ),
            Phase(
                "When it is back",
                [come_back],
                {
                    "log": [r"the database server is back after \d"],
                    "page": [r"the database server is back after \d"],
                    "metrics": [shown("outages_total"), shown("outage_time_seconds_total")],
                },
            ),
        ],
    ),
    "failover": Incident(
        "A failover",
        "The primary crashes, its standby is promoted, and the old one comes back as a standby at"
        " the address where the app still looks for its primary.",
        [
            Phase(
                "While the address leads to the old one",
                [
                    ask("/write", 4, "POST"),
                    ask("/quick", 4),
                    fail_over,
                ],
                {
                    "top": ["read-only"],
                    "events": ["the server is read-only"],
                    "log": ["the server is read-only"],
                    "error": ["POST route .write.", "the server has been read-only for"],
                    "page": [r"has taken no writes for \d", "the server is read-only"],
                    "metrics": [shown("write_outage_seconds")],
                },
            ),
            Phase(
                "When it leads to the new one",
                [lead_to_the_new],
                {
                    "log": [r"the server takes writes after \d"],
                    "page": [r"the server takes writes after \d"],
                },
            ),
        ],
        pair=True,
    ),
    "development": Incident(
        "The same views, one request at a time, in development",
        "Nothing goes wrong yet: somebody writes the views, and has the debug toolbar.",
        [
            Phase(
                "After one order",
                [ask_once("/order")],
                {"panel": ["asked for a connection of pool 'default' while"]},
            ),
            Phase(
                "After one slow request",
                [ask_once("/slow")],
                {"panel": [r"held a connection .* without a statement", named("slow")]},
            ),
        ],
        app="culprits-in-development",
        workers=1,
    ),
    "message": Incident(
        "A message whose handler takes its time",
        "A worker's handler holds its connection while it does something else.",
        [
            Phase(
                "While it is handled",
                [publish],
                {
                    "top": ["message .pictures-17. +1 connection", named("shrink_pictures")],
                    "stacks": ["message .pictures-17.: 1", named("shrink_pictures")],
                    "events": [
                        "message .pictures-17. has held a connection",
                        named("shrink_pictures"),
                    ],
                    "page": ["message .pictures-17.", named("shrink_pictures")],
                    "log": [
                        r"message 'pictures-17' has held a connection for \d",
                        named("shrink_pictures"),
                    ],
                    "metrics": [r'^dbpool_longest_hold_seconds\{.*role="worker".* [1-9]'],
                },
            )
        ],
        worker=True,
    ),
}


def drill(names: Sequence[str] = (), report: Path | None = REPORT) -> list[Figure]:
    """Run them; write what each window said."""
    figures: list[Figure] = []
    in_full: list[str] = []
    in_brief: list[str] = []
    if report is not None:
        report.parent.mkdir(parents=True, exist_ok=True)
    with windows.camera(report and report.parent) as take:
        for name in names or INCIDENTS:
            incident = INCIDENTS[name]
            said = [*play(incident, partial(named_picture, take, name))]
            figures += windows.figures(name, said)
            in_full.append(windows.section(incident.title, incident.story, said))
            in_brief.append(windows.section(incident.title, incident.story, said, brief=True))
    if report is not None:
        report.write_text("\n".join([HEAD, *in_full]))
        brief = report.with_name(f"{report.stem}-in-brief{report.suffix}")
        brief.write_text("\n".join([HEAD, *in_brief]))
    return figures


def named_picture(take: Callable[[Scene, str], None], name: str, scene: Scene, part: int) -> None:
    """Take a picture of a part of an incident."""
    take(scene, f"{name}-{part}")


def play(incident: Incident, take: Callable[[Scene, int], None]) -> Iterator[Said]:
    """Let an incident happen, and look at it through every window.

    :param take: takes a picture of a part of it.
    """
    with scene_of(incident) as scene, ExitStack() as ends:
        for part, phase in enumerate(incident.phases, 1):
            scene.mark()
            for step in phase.steps:
                step(scene, ends)
            yield from windows.watch(scene, phase.name, phase.expected)
            take(scene, part)
        # Nobody waits for what is held for long.
        os.kill(scene.web.pid, signal.SIGQUIT)


@contextmanager
def scene_of(incident: Incident) -> Iterator[Scene]:
    """Start the database, the app and, if it has a part, the worker."""
    with ExitStack() as servers:
        programs, proxy, pair = started(incident, servers)
        for sql in culprits.TABLES:
            programs.execute(sql)
        worker = programs.start_worker("drills.culprits") if incident.worker else None
        web, port = programs.start_web(workers=incident.workers, threads=THREADS, path="/quick")
        yield Scene(programs, web, port, worker, proxy, pair)


def started(
    incident: Incident, servers: ExitStack
) -> tuple[Programs, FaultProxy | None, PostgresPair | None]:
    """Start what the app needs."""
    if not incident.pair:
        made = servers.enter_context(stack(incident.app, patience=TIMEOUT, grace=GRACE))
        return made, made.proxy, None
    folder, ends = servers.enter_context(ending())
    pair = PostgresPair(folder, synchronous=True)
    ends.callback(pair.stop)
    return Programs(folder, APP, pair.url(), ends, TIMEOUT, GRACE), None, pair
