"""Whom to ask: the folder of the processes' sockets, and what to say if nobody answers."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence

from ..settings.declaration import BY_KEY
from ..settings.values import coerce
from ..telemetry import host
from ..telemetry.host import Answer, RunDirError
from .errors import Failed, Misconfigured
from .ini import read

__all__ = ["advice", "answers", "chosen", "run_dir", "with_pool"]

SETTING = "dbpool.run_dir"
# Seconds that processes may take to answer.
TIMEOUT = host.TIMEOUT


def run_dir(args: argparse.Namespace) -> str:
    """Return the folder in which the processes answer.

    :raises Misconfigured: nobody has said which.
    """
    if args.run_dir is not None:
        return os.path.abspath(str(args.run_dir))
    if args.config_uri is None:
        raise Misconfigured("name the ini file of the app, or its folder with --run-dir.")
    settings, _ = read(args.config_uri, args.config_vars)
    found = coerce(BY_KEY[SETTING], settings.get(SETTING), SETTING)
    if found is None:
        file, _, name = args.config_uri.partition("#")
        raise Misconfigured(
            f"{file}: {SETTING} is not set, so no process answers. Set it in"
            f" [app:{name or 'main'}] to a folder that only the app's user may enter, such as"
            f" {SETTING} = /run/notes, and start the processes anew."
        )
    return str(found)


def answers(
    folder: str,
    *,
    timeout: float | None = None,
    stacks: bool = True,
    after: Mapping[int, int] | None = None,
) -> list[Answer]:
    """Ask all processes of this host; at least one is there.

    :param timeout: how long they may take, in seconds; None: as usual.
    :raises Failed: none is, or the folder cannot be used.
    """
    try:
        found = host.ask(folder, stacks=stacks, after=after, timeout=timeout or TIMEOUT)
    except RunDirError as error:
        raise Failed(str(error)) from None
    if not found:
        raise Failed(_nobody(folder))
    return found


def chosen(found: Sequence[Answer], pids: Sequence[int] | None) -> list[Answer]:
    """Return those that were asked for by their process id; all if none was named.

    :raises Failed: one of them does not exist.
    """
    missing = sorted(set(pids or ()) - {each.pid for each in found})
    if missing:
        there = ", ".join(str(each.pid) for each in found)
        raise Failed(f"no process {', '.join(map(str, missing))} answers here; there are {there}.")
    return [each for each in found if not pids or each.pid in pids]


def with_pool(found: Sequence[Answer], pool: str | None) -> list[Answer]:
    """Return the processes that have a pool of this name, and those that do not say.

    :param pool: None: any.
    :raises Failed: none has it, and others they have.
    """
    there = sorted({name for each in found for name in _names(each)})
    if pool is not None and there and pool not in there:
        raise Failed(f"no process has a pool {pool!r}; there are {', '.join(there)}.")
    return [each for each in found if each.report is None or pool in (None, *_names(each))]


def _names(answer: Answer) -> list[str]:
    return [pool["name"] for pool in answer.report["pools"]] if answer.report else []


def advice(pid: int, why: str) -> str:
    """Say what to do about a process that does not answer; without a full stop."""
    why = why.rstrip(".")
    if not why.startswith("does not answer within"):
        return why
    return (
        f"{why}: stuck, stopped, or without a core to run on. `ps -o stat,pcpu,args -p {pid}`"
        f" says which, `py-spy dump --pid {pid}` where in the code; `kill {pid}` ends it"
    )


def _nobody(folder: str) -> str:
    return (
        f"no process answers in {folder}. None may be running; or they were started before"
        f" {SETTING} was set, with another value of it, or in a container of their own; or they"
        " have not used the database yet."
    )
