"""The live view of `pdbpool top`, with rich: the one module that needs it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from ..clock import monotonic, sleep
from .errors import OK, Failed
from .frames import BAD, HELP, Line, View, frame, wrapped
from .overview import SORTS, Overview
from .terminal import Keys, StopKey, ends_cleanly, keys
from .watch import Watch

__all__ = ["Screen"]

# How often it is looked whether the terminal has another size, in seconds.
GLANCE = 0.25


class Screen:
    """The screen that is painted again and again, and what the keys do to it."""

    def __init__(self, watch: Watch, seconds: float, sort: str) -> None:
        self._watch, self._seconds = watch, seconds
        self._view = View(sort=sort)
        self._help = self._over = False
        self._seen: Overview | None = None
        self._problem = ""

    def run(self) -> int:
        """Paint until somebody ends it; then the terminal is as it was."""
        live = Live(
            console=Console(highlight=False),
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with (
            suppress(KeyboardInterrupt, EOFError),
            ends_cleanly(),
            keys() as pressed,
            StopKey() as stop_key,
            live,
        ):
            while not self._over:
                self._look()
                self._until_next(pressed, live, stop_key)
        return OK

    def _look(self) -> None:
        try:
            self._seen, self._problem = self._watch.look(), ""
        except Failed as error:
            # They may be about to start anew; who watches them wants to see that.
            self._problem = str(error)

    def _until_next(self, pressed: Keys, live: Live, stop_key: StopKey) -> None:
        """Paint, and again at each key and with each other size, until it is time to look."""
        until, painted = monotonic() + self._seconds, None
        while not self._over:
            if stop_key.pressed:
                _stop(pressed, live, stop_key)
                return
            if live.console.size != painted:
                painted = live.console.size
                live.update(_painted(self.lines(*painted)), refresh=True)
            left = until - monotonic()
            if left <= 0:
                return
            for key in pressed.wait(min(left, GLANCE), sleep):
                if key == " ":
                    return
                self.press(key)
                painted = None

    def press(self, key: str) -> None:
        """Do what a key says."""
        step = {"up": -1, "down": 1, "page up": -10, "page down": 10}.get(key, 0)
        if key in ("q", "Q"):
            self._over = True
        elif key == "?":
            self._help = not self._help
        elif key in SORTS:
            self._view = replace(self._view, sort=key, first=0)
        elif step:
            most = len(self._seen.rows) - 1 if self._seen else 0
            first = max(0, min(self._view.first + step, most))
            self._view = replace(self._view, first=first)

    def lines(self, width: int, height: int) -> list[Line]:
        """Return what is to be seen now."""
        if self._help:
            return [[(f"  {key:<12} {text}"[:width], "")] for key, text in HELP][: height - 1]
        if self._seen is None or self._problem:
            return wrapped(self._problem, width, BAD)
        view = replace(self._view, width=width, height=height)
        return frame(self._seen, view, self._watch.events)


def _stop(pressed: Keys, live: Live, stop_key: StopKey) -> None:
    """Leave the terminal to the shell for as long as it wants."""
    live.stop()
    pressed.give_back()
    stop_key.stop()
    pressed.take()
    live.start()


def _painted(lines: Sequence[Line]) -> Group:
    return Group(*(Text.assemble(*line, no_wrap=True, overflow="crop") for line in lines))
