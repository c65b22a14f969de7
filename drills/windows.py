"""What each window says of an incident, how soon, and the report of it."""

import http.client
import math
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import groupby
from pathlib import Path
from textwrap import indent

from playwright.sync_api import sync_playwright

from drills.load import TIMEOUT
from drills.processes import ROOT, Process
from drills.report import Figure, at_most
from drills.stack import Programs
from tests.support.servers.failover import PostgresPair
from tests.support.servers.proxy import FaultProxy

PAUSE = 0.2  # seconds between two looks
# For how long a window is looked at, in seconds, before it counts as one that said nothing.
PATIENCE = 60.0
SETTLE = 3000  # milliseconds in which the page draws its first lines
SOON = 10.0  # seconds after which a window has to name who is to blame
# Lines of metrics: comments, sizes of durations, and what is zero.
UNINTERESTING = re.compile(r"^#|_bucket\{|_sum\{|_created\{| 0\.0$")
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

    `telling`: the lines of its text that name who is to blame.
    `seconds` after the incident's beginning it named who is to blame; infinite: it did not.
    """

    phase: str
    window: str
    seconds: float
    text: str
    telling: str = ""
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


def top(scene: Scene) -> str:
    """Look at what `pdbpool top` shows of all processes."""
    return pdbpool(scene, "top", "--once")


def stacks(scene: Scene) -> str:
    """Look at who holds and who waits, and where in the code."""
    return pdbpool(scene, "stacks")


def events(scene: Scene) -> str:
    """Look at what has happened."""
    return pdbpool(scene, "events")


def pdbpool(scene: Scene, *words: str) -> str:
    """Run `pdbpool`; give what it prints, as it would into a file."""
    command = [sys.executable, "-m", "pyramid_dbpool.cli.pdbpool", *words]
    command += ["--run-dir", str(scene.programs.run_dir)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    return (ran.stdout + ran.stderr).replace(f"{ROOT}/", "")


def metrics(scene: Scene) -> str:
    """Look at the metrics that are not zero, but for the sizes of durations."""
    lines = fetch(scene.port, "/dbpool/metrics").splitlines()
    return "\n".join(line for line in lines if not UNINTERESTING.search(line))


def panel(scene: Scene) -> str:
    """Look at the debug toolbar's panel of the last request."""
    reader = Reader()
    reader.feed(fetch(scene.port, "/_debug_toolbar/"))
    ours = reader.text.partition("\nDatabase connections\n")[2]
    return ours.partition("\nIntrospection\n")[0]


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


@contextmanager
def camera(folder: Path | None) -> Iterator[Callable[[Scene, str], None]]:
    """Give what takes pictures of the live page into a folder, where there is a Chromium."""
    program = shutil.which("chromium")
    if folder is None or program is None:
        yield lambda scene, name: None
        return
    with sync_playwright() as playwright:
        # In a container, as root, its sandbox cannot be had.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])

        def take(scene: Scene, name: str) -> None:
            seen = browser.new_page(viewport={"width": 1200, "height": 1000})
            seen.goto(f"http://127.0.0.1:{scene.port}/dbpool")
            seen.wait_for_timeout(SETTLE)
            seen.screenshot(path=folder / f"{name}.png")
            seen.close()

        yield take
        browser.close()


WINDOWS: dict[str, Window] = {
    "log": log,
    "error": error,
    "top": top,
    "stacks": stacks,
    "events": events,
    "page": page,
    "metrics": metrics,
    "panel": panel,
}


def watch(
    scene: Scene, phase: str, expected: Mapping[str, Sequence[str]], patience: float = PATIENCE
) -> list[Said]:
    """Look through the windows until each has said what it has to, or nobody waits any more.

    :param expected: by the window's name, what it has to say: regular expressions.
    """
    with ThreadPoolExecutor(len(expected)) as side_by_side:
        looks = [
            side_by_side.submit(look, scene, phase, name, wanted, patience)
            for name, wanted in expected.items()
        ]
    return [each.result() for each in looks]


def look(scene: Scene, phase: str, window: str, wanted: Sequence[str], patience: float) -> Said:
    """Look through one window until it says all that it has to."""
    began = time.monotonic()
    while True:
        text = WINDOWS[window](scene)
        seconds, missing = time.monotonic() - began, missing_in(text, wanted)
        if not missing:
            return Said(phase, window, seconds, text, telling_lines(text, wanted))
        if seconds > patience:
            told = telling_lines(text, wanted)
            return Said(phase, window, math.inf, text, told, missing)
        time.sleep(PAUSE)


def missing_in(text: str, wanted: Sequence[str]) -> tuple[str, ...]:
    """List what a text does not say."""
    return tuple(each for each in wanted if not re.search(each, text, re.MULTILINE))


def figures(incident: str, said: Sequence[Said]) -> list[Figure]:
    """Say how soon each window has said it."""
    return [
        at_most(f"{incident}, {each.phase.lower()}: {each.window}", each.seconds, SOON, "s")
        for each in said
    ]


def section(title: str, story: str, said: Sequence[Said], *, brief: bool = False) -> str:
    """Write what each window said of an incident.

    :param brief: only the lines that name who is to blame.
    """
    parts = [f"{title}\n{'-' * len(title)}", story]
    for phase, of_phase in groupby(said, lambda each: each.phase):
        parts.append(f"{phase}:")
        parts += [_entry(each, each.telling if brief else each.text) for each in of_phase]
    return "\n\n".join(parts) + "\n"


def _entry(said: Said, text: str) -> str:
    when = f"after {said.seconds:.1f} s"
    if said.missing:
        when = f"never said {', '.join(map(repr, said.missing))}"
    return f"*{said.window}*, {when}::\n\n{indent(text.strip() or '(nothing)', '    ')}"


def telling_lines(text: str, wanted: Sequence[str]) -> str:
    """Give the first line for each of what a window has to say."""
    lines = text.splitlines()
    found = (next((line for line in lines if re.search(each, line)), None) for each in wanted)
    return "\n".join(line.strip() for line in dict.fromkeys(filter(None, found)))
