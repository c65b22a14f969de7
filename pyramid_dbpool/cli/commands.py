"""`pdbpool refresh`, `resize`, `pause` and `resume`: told to all processes of a host."""

from __future__ import annotations

import argparse
import getpass
import re
from collections.abc import Sequence

from ..telemetry import host
from ..telemetry.host import Answer, RunDirError
from . import asking
from .asking import advice, answers, chosen, run_dir
from .errors import FAILED, OK, Failed, Misconfigured, complain
from .tables import print_json, print_table

__all__ = ["command"]

# What may stand in a log's line; a name of a user can be anything.
_STRANGE = re.compile(r"[^\w.@-]+", re.ASCII)
# Letters of a user's name.
LONGEST = 40


def command(args: argparse.Namespace) -> int:
    """Tell it to the processes, and say what each has answered."""
    arguments = {}
    if args.name == "resize":
        arguments = {"size": args.size, "max_overflow": args.max_overflow}
        arguments = {name: value for name, value in arguments.items() if value is not None}
        if not arguments:
            raise Misconfigured("resize needs --size N, --max-overflow N, or both.")
    folder = run_dir(args)
    pids = _with_pool(
        chosen(answers(folder, timeout=args.timeout, stacks=False), args.pid), args.pool
    )
    try:
        found = host.command(
            folder,
            args.name,
            pool=args.pool,
            pids=pids,
            by=_by(),
            timeout=args.timeout or asking.TIMEOUT,
            **arguments,
        )
    except RunDirError as error:
        raise Failed(str(error)) from None
    _tell(found, args.format)
    return FAILED if any(each.silent is not None for each in found) else OK


def _with_pool(found: Sequence[Answer], pool: str | None) -> list[int]:
    """Return the processes that have a pool of this name, and those that do not say.

    :raises Failed: none has.
    """
    names = {each.pid: _names(each) for each in found}
    having = [pid for pid, known in names.items() if known is None or pool in (None, *known)]
    if pool is not None and not any(pool in (known or ()) for known in names.values()):
        there = sorted({name for known in names.values() for name in known or ()})
        if there:
            raise Failed(f"no process has a pool {pool!r}; there are {', '.join(there)}.")
    return having


def _names(answer: Answer) -> list[str] | None:
    return None if answer.report is None else [pool["name"] for pool in answer.report["pools"]]


def _tell(found: Sequence[Answer], form: str) -> None:
    if form == "json":
        print_json(
            [{"pid": each.pid, "answer": each.report, "silent": each.silent} for each in found]
        )
    else:
        rows = [(str(each.pid), _answer(each)) for each in found if each.report is not None]
        if rows:
            print_table([("PID", "Pools"), *rows])
    for each in found:
        if each.silent is not None:
            complain(f"pid {each.pid} {advice(each.pid, each.silent)}.")


def _answer(answer: Answer) -> str:
    pools = answer.report["pools"] if answer.report else []
    return ", ".join(pools) or "nothing: it has no pool yet"


def _by() -> str:
    """Say who asks, for the log of the processes."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # A container's user has no name.
        user = "somebody"
    return f"{_STRANGE.sub('_', user)[:LONGEST] or 'somebody'} with pdbpool"
