"""Where the reports come from, and who does what a command says: the processes of the host."""

from __future__ import annotations

import os
from typing import Any

from ..telemetry import commands
from ..telemetry.host import RunDirError, ask, command
from ..telemetry.http_messages import Refused
from ..telemetry.report import process_report
from .overview import Overview

__all__ = ["Source"]

_ALONE = (
    "Only the process that has answered is shown: with dbpool.run_dir, all processes of this host"
    " would be."
)


class Source:
    """Asks the processes in a folder, or this one alone.

    :param run_dir: the setting `dbpool.run_dir`.
    """

    def __init__(self, run_dir: str | None) -> None:
        self._run_dir = run_dir

    def overview(self) -> Overview:
        """Ask, and wait for the answers: half a second at the longest."""
        if self._run_dir is None:
            return Overview([process_report()], note=_ALONE)
        try:
            answers = ask(self._run_dir)
        except RunDirError as error:
            return Overview([process_report()], note=f"Only one process is shown: {error}")
        reports = [each.report for each in answers if each.report is not None]
        silent = {each.pid: each.silent for each in answers if each.silent is not None}
        if os.getpid() not in (report["pid"] for report in reports):
            # Its own socket is closed, or its thread cannot run just now; but here it is.
            reports.append(process_report())
            silent.pop(os.getpid(), None)
        return Overview(reports, silent)

    def command(self, name: str, key: str, by: str, **arguments: int) -> dict[int, str | None]:
        """Have each process that has a pool do something with it.

        :param name: "refresh", "resize", "pause" or "resume".
        :param key: the pool's, `HostPool.key`.
        :param by: who asks.
        :return: for each process what went wrong, as its predicate; None: nothing.
        :raises ValueError: there is no such pool, or nobody can be told.
        """
        pool = next((each for each in self.overview().pools if each.key == key), None)
        if pool is None:
            raise ValueError("There is no such pool any more.")
        others = set(pool.pids) - {os.getpid()}
        done: dict[int, str | None] = {}
        if others != set(pool.pids):
            done[os.getpid()] = _here(name, {"pool": pool.name, "by": by} | arguments)
        if others and self._run_dir is not None:
            try:
                answers = command(
                    self._run_dir, name, pool=pool.name, pids=others, by=by, **arguments
                )
            except RunDirError as error:
                raise ValueError(str(error)) from error
            done |= {each.pid: each.silent for each in answers}
        return done


def _here(name: str, told: dict[str, Any]) -> str | None:
    try:
        commands.run(name, told)
    except Refused as error:
        return f"says: {error}"
    return None
