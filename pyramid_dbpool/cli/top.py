"""`pdbpool top`: all pools of all processes of a host, as they are now."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Mapping
from typing import Any

from ..clock import sleep
from ..telemetry.host import Answer
from .asking import answers, run_dir
from .errors import FAILED, OK, complain
from .frames import ENDLESS, View, frame, plain_text, row_as_json
from .overview import Overview
from .watch import Watch
from .wording import shown

__all__ = ["top"]


def top(args: argparse.Namespace) -> int:
    """Show all pools of all processes, live at a terminal and once elsewhere."""
    folder = run_dir(args)

    def ask(after: Mapping[int, int]) -> list[Answer]:
        found = answers(folder, timeout=args.timeout, after=after)
        return found if args.format == "json" else [shown(each) for each in found]

    watch = Watch(ask)
    if args.format == "plain" and not args.once and args.count is None and sys.stdout.isatty():
        if _has_rich():
            screen = importlib.import_module(".screen", __package__)
            return int(screen.Screen(watch, args.seconds or 1.0, args.sort).run())
        complain("for the live view: pip install 'pyramid_dbpool[cli]'; until then, --seconds 1.")
    return _on_paper(watch, args)


def _has_rich() -> bool:
    return importlib.util.find_spec("rich") is not None and os.environ.get("TERM") != "dumb"


def _on_paper(watch: Watch, args: argparse.Namespace) -> int:
    """Print one frame after the other."""
    count = 1 if args.once or (args.count is None and args.seconds is None) else args.count
    number = 0
    while True:
        seen = watch.look()
        number += 1
        if args.format == "json":
            print(json.dumps(_as_json(seen)))
        else:
            width = shutil.get_terminal_size().columns if sys.stdout.isatty() else ENDLESS
            lines = frame(seen, View(width, sort=args.sort), watch.events)
            print(plain_text([*([[]] if number > 1 else []), *lines]))
        sys.stdout.flush()
        if number == count:
            return FAILED if seen.troubled else OK
        sleep(args.seconds or 1.0)


def _as_json(seen: Overview) -> dict[str, Any]:
    return {
        "at": seen.at,
        "interval_seconds": seen.interval,
        "rows": [row_as_json(row) for row in seen.rows],
        "total": row_as_json(seen.total),
        "silent": {str(pid): why for pid, why in seen.silent.items()},
        "holders": [vars(each) for each in seen.holders],
        "waiters": [vars(each) for each in seen.waiters],
        "notes": list(seen.notes),
    }
