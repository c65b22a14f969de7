"""Run some programs beside each other, show what they print, stop them in order."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from time import monotonic
from types import FrameType

from pyramid_dbpool.embedded import lifeline

PATIENCE = 10.0  # seconds that a program has for its end
# `make` hands on the signal that it got: one stop can arrive twice.
SAME_STOP = 0.5  # seconds


class Stopped(Exception):
    """Somebody asked for the end: Ctrl-C, SIGTERM or a closed terminal."""


class ProgramEnded(Exception):
    """A program ended that nobody had stopped."""


@dataclass
class Program:
    """A running program; `last` are the last lines that it printed."""

    name: str
    process: "subprocess.Popen[str]"
    stop_signal: signal.Signals
    last: deque[str] = field(default_factory=lambda: deque(maxlen=10))
    ended: bool = False


# What the readers of the programs' output, and the signal handler, tell the main
# thread: a line, the end of a program (None), or a wish to stop.
News = tuple[Program, str | None] | None


class Programs:
    """The programs that are running, in the order in which they were started.

    Only the main thread shows lines and decides, in `wait_for` and `stop`.
    """

    def __init__(self) -> None:
        self._programs: list[Program] = []
        # A SimpleQueue, because it may be put to in a signal handler.
        self._news: SimpleQueue[News] = SimpleQueue()
        self._stop_asked_at: float | None = None

    @property
    def stop_asked(self) -> bool:
        """Tell whether somebody asked for the end."""
        return self._stop_asked_at is not None

    def listen_to_signals(self) -> None:
        """Take the first signal as a wish to stop, a second one as an order to die at once."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def start(self, name: str, command: Sequence[str], stop_signal: signal.Signals) -> Program:
        """Start a program; it also ends if this process is killed (on Linux)."""
        process = subprocess.Popen(
            lifeline(command, death=stop_signal),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            # Ctrl-C in the terminal is for us alone, so that the order of stopping is ours.
            start_new_session=True,
        )
        program = Program(name, process, stop_signal)
        self._programs.append(program)
        threading.Thread(target=self._read, args=(program,), daemon=True).start()
        return program

    def wait_for(self, seen: Callable[[Program, str], bool], seconds: float | None) -> bool:
        """Show what the programs print until a line is `seen`; False if there was none in time.

        Raises Stopped when somebody asked for the end, ProgramEnded when a program ended.
        """
        end = None if seconds is None else monotonic() + seconds
        while end is None or monotonic() < end:
            try:
                news = self._news.get(timeout=None if end is None else max(0.0, end - monotonic()))
            except Empty:
                break
            if news is None:
                raise Stopped
            program, line = news
            self._take(program, line)
            if line is None:
                raise ProgramEnded(self._obituary(program))
            if seen(program, line):
                return True
        return False

    def stop(self) -> None:
        """Stop the programs, the last started first, and show what they still print."""
        for program in reversed(self._programs):
            with contextlib.suppress(ProcessLookupError):
                program.process.send_signal(program.stop_signal)
            if not self._wait_for_end(program):
                show(f"{program.name} does not end: killing it")
                program.process.kill()
                self._wait_for_end(program)

    def _read(self, program: Program) -> None:
        assert program.process.stdout is not None
        for line in program.process.stdout:
            self._news.put((program, line.rstrip("\n")))
        program.process.wait()
        self._news.put((program, None))

    def _take(self, program: Program, line: str | None) -> None:
        if line is None:
            program.ended = True
        else:
            program.last.append(line)
            show(f"{program.name:8} | {line}")

    def _wait_for_end(self, program: Program) -> bool:
        end = monotonic() + PATIENCE
        while not program.ended:
            try:
                news = self._news.get(timeout=max(0.0, end - monotonic()))
            except Empty:
                return False
            if news is not None:
                self._take(*news)
        return True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = monotonic()
        if self._stop_asked_at is None:
            self._stop_asked_at = now
            self._news.put(None)
        elif now - self._stop_asked_at > SAME_STOP:
            for program in self._programs:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(program.process.pid, signal.SIGKILL)
            os._exit(128 + number)

    @staticmethod
    def _obituary(program: Program) -> str:
        lines = "".join(f"\n    {line}" for line in program.last) or " nothing"
        code = program.process.returncode
        return f"{program.name} ended with exit code {code}. The last that it printed:{lines}"


class Keys:
    """What somebody types, a line at a time; from `/dev/null` and the like nothing comes."""

    def __init__(self) -> None:
        self._lines: SimpleQueue[str] = SimpleQueue()
        self.can_come = True
        # In the background, where a terminal must not be read, this would stop the demo.
        signal.signal(signal.SIGTTIN, signal.SIG_IGN)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def pressed(self, key: str) -> bool:
        """Tell whether a key has come since this was asked last."""
        lines = [self._lines.get() for _ in range(self._lines.qsize())]
        return key in lines

    def _read(self) -> None:
        # By the descriptor: a reader of sys.stdin would hold its lock at the end of the process.
        typed = b""
        with contextlib.suppress(OSError):
            while more := os.read(0, 1024):
                *lines, typed = (typed + more).split(b"\n")
                for line in lines:
                    self._lines.put(line.decode(errors="replace").strip().lower())
        self.can_come = False


def show(line: str) -> None:
    """Print a line, also when nobody reads it any more."""
    try:
        print(line, flush=True)
    except OSError:
        # A pipe that was closed, as by `| head`, must not prevent the orderly end.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (open until the end)
