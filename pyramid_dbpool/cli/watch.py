"""Looks at all processes again and again, and knows what was before."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..clock import monotonic
from ..telemetry.host import Answer
from .asking import advice
from .overview import Overview, overview
from .wording import clock_text

__all__ = ["Watch"]

# How many events are kept, and how many shown.
KEPT, SHOWN = 50, 4


class Watch:
    """The looks at all processes.

    :param ask: asks them all: `ask(after={pid: number of the last event})`.
    """

    def __init__(self, ask: Callable[..., Sequence[Answer]]) -> None:
        self._ask = ask
        self._before: dict[int, Mapping[str, Any]] = {}
        self._looked: float | None = None
        self._heard: dict[int, int] = {}
        self._events: deque[tuple[float, str]] = deque(maxlen=KEPT)

    def look(self) -> Overview:
        """Ask all of them now."""
        found = self._ask(after=self._heard)
        now = monotonic()
        interval = None if self._looked is None else now - self._looked
        told = [_with_advice(each) for each in found]
        seen = overview(told, self._before, time.time(), interval)
        reports = [each.report for each in found if each.report is not None]
        for pid in self._heard.keys() - {each.pid for each in found}:
            # Another process may come to have its number, and begins to count anew.
            del self._heard[pid]
        for report in reports:
            self._hear(report)
        self._before = {report["pid"]: report for report in reports}
        self._looked = now
        return seen

    def _hear(self, report: Mapping[str, Any]) -> None:
        for event in report["events"]:
            self._heard[report["pid"]] = event["number"]
            words = f"{clock_text(event['at'])} {report['pid']} {event['text']}"
            self._events.append((event["at"], words))

    @property
    def events(self) -> list[str]:
        """The last events, the youngest first."""
        return [text for _, text in sorted(self._events, reverse=True)[:SHOWN]]


def _with_advice(answer: Answer) -> Answer:
    """Say of one that is missing what to do."""
    silent = answer.silent
    return answer if silent is None else replace(answer, silent=advice(answer.pid, silent))
