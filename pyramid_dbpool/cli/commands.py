"""`pdbpool refresh`, `resize`, `pause` and `resume`: told to all processes of a host."""

from __future__ import annotations

import argparse
import getpass
import os
import re
from collections.abc import Sequence

from ..telemetry import host
from ..telemetry.host import Answer, RunDirError
from . import asking
from .asking import advice, answers, chosen, run_dir, with_pool
from .errors import FAILED, OK, Failed, Misconfigured, complain
from .tables import print_json, print_table
from .wording import printable

__all__ = ["command"]

# What stands over the pools that have done it.
DONE = {"refresh": "Refreshed", "resize": "Resized", "pause": "Paused", "resume": "Resumed"}
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
    asked = chosen(answers(folder, timeout=args.timeout, stacks=False), args.pid)
    pids = [each.pid for each in with_pool(asked, args.pool)]
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
    _tell(found, args.name, args.format)
    return FAILED if any(each.silent is not None for each in found) else OK


def _tell(found: Sequence[Answer], name: str, form: str) -> None:
    if form == "json":
        print_json(
            [{"pid": each.pid, "answer": each.report, "silent": each.silent} for each in found]
        )
    else:
        rows = [(str(each.pid), _answer(each)) for each in found if each.report is not None]
        if rows:
            print_table([("PID", DONE[name]), *rows])
    for each in found:
        if each.silent is not None:
            complain(f"pid {each.pid} {advice(each.pid, each.silent)}.")


def _answer(answer: Answer) -> str:
    pools = answer.report["pools"] if answer.report else []
    return printable(", ".join(pools)) or "nothing: it has no pool yet"


def _by() -> str:
    """Say who asks, for the log of the processes."""
    try:
        # "root" does not say who it was, and sudo does.
        user = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        # A container's user has no name.
        user = "somebody"
    return f"{_STRANGE.sub('_', user)[:LONGEST] or 'somebody'} with pdbpool"
