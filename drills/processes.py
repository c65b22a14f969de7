"""The programs under drill: gunicorn and the streamer, and what the system knows of them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pyramid_dbpool.embedded import lifeline

ROOT = Path(__file__).parents[1]
INI = Path(__file__).with_name("drill.ini")
PATIENCE = 60.0  # seconds for a program to start, or to end
TICKS = os.sysconf("SC_CLK_TCK")


class Process:
    """A running program; what it prints goes into a file."""

    def __init__(
        self,
        log: Path,
        words: Sequence[str],
        variables: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
    ) -> None:
        self.log = log
        paths = [str(ROOT), str(ROOT / "example_app"), os.environ.get("PYTHONPATH", "")]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                lifeline([*before, sys.executable, *words], death=signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(variables or {})},
                start_new_session=True,
            )

    def __repr__(self) -> str:
        return f"<Process {self._process.pid}, {self.log.name}>"

    @property
    def pid(self) -> int:
        """Give its number."""
        return self._process.pid

    def printed(self) -> str:
        """Give what it has printed so far."""
        return self.log.read_text(errors="replace")

    def explain(self, statuses: Iterable[int]) -> None:
        """Show the end of what it has printed, if it has answered with an error of its own."""
        if 500 in statuses:
            print(self.printed()[-20_000:], file=sys.stderr)

    def wait_for(self, words: str) -> None:
        """Wait until it has printed them."""
        end = time.monotonic() + PATIENCE
        while words not in self.printed():
            self.check(end, f"{words!r} was not printed")
            time.sleep(0.05)

    def check(self, end: float, complaint: str) -> None:
        """Raise RuntimeError if it has ended, or the time is over."""
        if self._process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"{complaint} by\n{self.printed()[-3000:]}")

    def stop(self) -> int:
        """End it in order, and give its exit code."""
        self._process.terminate()
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            return self._process.wait()


def gunicorn(port: int, *options: str) -> list[str]:
    """Give Python's words for gunicorn, with threads."""
    words = ["-m", "gunicorn", "drills.apps:serve()", "--bind", f"127.0.0.1:{port}"]
    return [*words, "--worker-class", "gthread", "--no-control-socket", *options]


def named(app: str, variables: Mapping[str, str]) -> dict[str, str]:
    """Give the environment that names an app of drill.ini."""
    return {"DRILL_INI": f"{INI}#{app}", "DRILL_VARIABLES": json.dumps(dict(variables))}


def children(pid: int) -> list[int]:
    """List the processes that a process has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def cpu_seconds(pid: int) -> float:
    """Give the processor time that a process has used."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / TICKS


def memory_megabytes(pid: int) -> float:
    """Give the memory that a process has to itself."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    private = (line.split()[1] for line in lines if line.startswith("Private_"))
    return sum(map(int, private)) / 1024
