"""What this process says of its pools: numbers, who has what, what happened. No secret.

Plain data, as JSON has it. A field that is added needs no other `VERSION`; one that goes, or comes
to mean something else, does.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..clock import monotonic
from ..engines import registry
from ..engines.application_name import app_name, application_name, program, role
from ..engines.registry import ProcessEngine
from ..events import Event, recent
from ..pool.managed import ManagedPool
from ..pool.stats import HistogramSnapshot, PoolSnapshot
from ..pool.view import PoolView

__all__ = ["VERSION", "process_report"]

VERSION = 1

# For how long, in seconds, the last attempt to connect says how it is.
QUIET = 60.0


def process_report(*, stacks: bool = True, after: int = 0) -> dict[str, Any]:
    """Return all that this process has to say.

    :param stacks: whether to say where in the code holders and waiters are.
    :param after: only the events with a higher number.
    """
    engines = registry.process_engines()
    # As in the server's list of sessions, of the first pool.
    given = engines[0].settings.options.application_name if engines else None
    return {
        "version": VERSION,
        "package": _package(),
        "pid": os.getpid(),
        "started_at": _started_at(os.getpid()),
        "at": time.time(),
        "app": given or app_name(),
        "role": role(),
        "name": application_name(given),
        "program": program(),
        "host": platform.node(),
        "engines": len(engines),
        "pools": [_pool(made, stacks=stacks) for made in engines],
        "events": [_event(each) for each in recent(after)],
    }


def _pool(made: ProcessEngine, *, stacks: bool) -> dict[str, Any]:
    pool, managed = made.engine.pool, made.settings.managed
    # Where nobody writes any more, nobody sees that it is over.
    made.writes.look_beside()
    about = {
        "name": made.settings.name,
        "number": made.number,
        "database": made.settings.masked_url,
        "managed": isinstance(pool, ManagedPool),
        "write_outage_seconds": made.writes.lasted,
    }
    if isinstance(pool, ManagedPool):
        own = {"name": made.settings.name, "min_idle": managed.min_idle if managed else None}
        return about | _view(pool.view(stacks=stacks)) | own | _forgotten(pool)
    leased = getattr(pool, "checkedout", None)
    # A class of the app's own may fail in any way, and the others' numbers are to be seen.
    with suppress(Exception):
        return about | {"leased": None if leased is None else leased()}
    return about


def _forgotten(pool: ManagedPool) -> dict[str, Any]:
    """Say that there is no outage, if nobody has wanted a connection for long.

    Nobody looks then, and an app that sleeps would seem to be without its database all night.
    """
    outage = pool.outage
    if outage is None or monotonic() < outage.known_until + QUIET:
        return {}
    return {"outage_seconds": None}


def _view(view: PoolView) -> dict[str, Any]:
    people = {
        "holders": [asdict(each) for each in view.holders],
        "waiters": [asdict(each) for each in view.waiters],
    }
    return _numbers(view.snapshot) | people


def _numbers(snapshot: PoolSnapshot) -> dict[str, Any]:
    return {name: _plain(value) for name, value in vars(snapshot).items() if name != "holders"}


def _plain(value: object) -> object:
    if isinstance(value, HistogramSnapshot):
        return {
            "bounds_seconds": list(value.bounds_seconds),
            "counts": list(value.counts),
            "sum_seconds": value.sum_seconds,
        }
    return dict(value) if isinstance(value, Mapping) else value


def _event(event: Event) -> dict[str, Any]:
    return vars(event) | {"kind": str(event.kind), "fields": dict(event.fields)}


@cache
def _package() -> str:
    try:
        return version("pyramid_dbpool")
    except PackageNotFoundError:  # a tree that is not installed
        return "unknown"


# When this was imported, in seconds since the epoch.
_IMPORTED_AT = time.time()


@cache
def _started_at(pid: int) -> float:
    """Say when this process began, in seconds since the epoch.

    :param pid: its id: a child began later than its parent.
    """
    with suppress(OSError, ValueError, IndexError, AttributeError):
        # See proc(5). Behind the program's name, which may contain anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        since_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot
    return _IMPORTED_AT
