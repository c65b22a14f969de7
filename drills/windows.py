"""What each window says of an incident, how soon, and the report of it."""

import http.client
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from textwrap import indent

from drills.load import TIMEOUT
from drills.processes import ROOT, Process
from drills.report import Figure, at_most
from drills.stack import Programs
from pyramid_dbpool.telemetry.host import ask
from tests.support.servers.failover import PostgresPair
from tests.support.servers.proxy import FaultProxy

PAUSE = 0.2  # seconds between two looks
# For how long a window is looked at, in seconds, before it counts as one that said nothing.
PATIENCE = 30.0
SOON = 10.0  # seconds after which a window has to name who is to blame
# What of a process's report is not only a number.
SHOWN = ("holders", "waiters", "outage_seconds", "write_outage_seconds", "paused_seconds")
LOGS = re.compile(r"^\d\d:\d\d:\d\d\.\d+ \d+ (WARNING|ERROR|CRITICAL) ")


@dataclass
class Scene:
    """Where an incident takes place: the app under load, its worker, and their database."""

    programs: Programs
    web: Process
    port: int
    worker: Process | None = None
    proxy: FaultProxy | None = None
    pair: PostgresPair | None = None
    # What has been in the logs before the incident, in characters.
    marks: dict[Path, int] = field(default_factory=dict)

    @property
    def processes(self) -> list[Process]:
        """List the programs that write a log."""
        return [each for each in (self.web, self.worker) if each is not None]

    def mark(self) -> None:
        """Note that what is in the logs by now is none of the incident's."""
        self.marks = {each.log: len(each.printed()) for each in self.processes}


# A window is looked through, and gives what it says.
Window = Callable[[Scene], str]


@dataclass(frozen=True)
class Said:
    """What a window said.

    `seconds` after the incident's beginning it named who is to blame; infinite: it did not.
    """

    phase: str
    window: str
    seconds: float
    text: str
    missing: tuple[str, ...] = ()


def log_lines(scene: Scene) -> Iterator[str]:
    """Give what the logs say since the mark, from warnings on."""
    for process in scene.processes:
        for line in process.printed()[scene.marks.get(process.log, 0) :].splitlines():
            if LOGS.match(line):
                yield line.replace(f"{ROOT}/", "")


def log(scene: Scene) -> str:
    """Look into the log, but for what is said of single requests."""
    return "\n".join(line for line in log_lines(scene) if not is_of_a_request(line))


def error(scene: Scene) -> str:
    """Look at the errors that requests got: the log says each pool's and kind's once."""
    return "\n".join(filter(is_of_a_request, log_lines(scene)))


def is_of_a_request(line: str) -> bool:
    """Tell whether a line of the log says what a request was answered, and why."""
    return "pyramid_dbpool.web.incidents" in line


def report(scene: Scene) -> str:
    """Ask each process by its socket who holds and who waits; the rest are numbers."""
    said = []
    for each in ask(str(scene.programs.run_dir)):
        said.append(f"process {each.pid}: {each.silent}" if each.report is None else "")
        for pool in (each.report or {}).get("pools", ()):
            shown = {key: pool[key] for key in SHOWN if pool[key]}
            said.append(json.dumps({"pid": each.pid, "name": pool["name"], **shown}, indent=1))
    return "\n".join(filter(None, said)).replace(f"{ROOT}/", "")


def page(scene: Scene) -> str:
    """Look at the live page, as one who cannot see it would have it read to him."""
    reader = Reader()
    reader.feed(fetch(scene.port, "/dbpool"))
    return reader.text.replace(f"{ROOT}/", "")


class Reader(HTMLParser):
    """Reads a page: its text, a line for each block of it."""

    BLOCKS = frozenset({"div", "h1", "h2", "h3", "li", "p", "section", "summary", "table", "tr"})
    UNSEEN = frozenset({"head", "script", "style", "svg"})

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[list[str]] = [[]]
        self._unseen = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """Begin a line with a block."""
        self._unseen += tag in self.UNSEEN
        if tag in self.BLOCKS:
            self._lines.append([])

    def handle_endtag(self, tag: str) -> None:
        """End what is not seen."""
        self._unseen -= tag in self.UNSEEN
        if tag in self.BLOCKS:
            self._lines.append([])

    def handle_data(self, data: str) -> None:
        """Take a piece of text."""
        if not self._unseen and data.strip():
            self._lines[-1].append(" ".join(data.split()))

    @property
    def text(self) -> str:
        """Give what was read."""
        return "\n".join(" ".join(line) for line in self._lines if line)


def fetch(port: int, path: str) -> str:
    """Get a page."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)) as connection:
        connection.request("GET", path)
        return connection.getresponse().read().decode(errors="replace")


def metrics(scene: Scene) -> str:
    """Look at what Prometheus would get; not at what is zero, nor at every bucket."""
    lines = fetch(scene.port, "/dbpool/metrics").splitlines()
    unseen = re.compile(r"#|\w+_bucket\b|.* 0\.0$")
    return "\n".join(line for line in lines if not unseen.match(line))


WINDOWS: dict[str, Window] = {
    "log": log,
    "error": error,
    "report": report,
    "page": page,
    "metrics": metrics,
}


def watch(
    scene: Scene, phase: str, expected: Mapping[str, Sequence[str]], patience: float = PATIENCE
) -> list[Said]:
    """Look through the windows until each has said what it has to, or nobody waits any more.

    :param expected: by the window's name, what it has to say: regular expressions.
    """
    began = time.monotonic()
    said: dict[str, Said] = {}
    while len(said) < len(expected) and time.monotonic() - began < patience:
        for name in expected.keys() - said.keys():
            text = WINDOWS[name](scene)
            if not missing_in(text, expected[name]):
                said[name] = Said(phase, name, time.monotonic() - began, text)
        time.sleep(PAUSE)
    for name in expected.keys() - said.keys():
        text = WINDOWS[name](scene)
        said[name] = Said(phase, name, math.inf, text, missing_in(text, expected[name]))
    return [said[name] for name in expected]


def missing_in(text: str, wanted: Sequence[str]) -> tuple[str, ...]:
    """List what a text does not say."""
    return tuple(each for each in wanted if not re.search(each, text, re.MULTILINE))


def figures(incident: str, said: Sequence[Said]) -> list[Figure]:
    """Say how soon each window has said it."""
    return [at_most(f"{incident}, {each.window}", each.seconds, SOON, "s") for each in said]


def section(title: str, story: str, said: Sequence[Said]) -> str:
    """Write what each window said of an incident."""
    parts = [f"{title}\n{'-' * len(title)}", story]
    for each in said:
        when = f"after {each.seconds:.1f} s"
        if each.missing:
            when = f"never said {', '.join(map(repr, each.missing))}"
        text = indent(each.text.strip() or "(nothing)", "    ")
        parts.append(f"{each.phase}: *{each.window}*, {when}::\n\n{text}")
    return "\n\n".join(parts) + "\n"
