"""Reports of processes, as their sockets give them: made by hand, for what shows them."""

from collections.abc import Mapping, Sequence
from typing import Any

from pyramid_dbpool.pool.stats import BOUNDS_SECONDS

__all__ = ["event", "histogram", "holder", "pool", "report", "waiter"]

# Seconds since the epoch: a quiet hour in 2025.
NOW = 1764558000.0
URL = "postgresql+psycopg://notes:***@db.example/notes"
PLACES = ("render (views.py:41)", "show (views.py:12)")


def report(pid: int = 4711, pools: Sequence[Mapping[str, Any]] = (), **changed: Any) -> Any:
    """Return the report of a process; one quiet pool if none is given."""
    return {
        "version": 1,
        "package": "0.1.dev0",
        "pid": pid,
        "started_at": NOW - 3600,
        "at": NOW,
        "app": "notes",
        "role": "web",
        "name": f"notes web {pid}",
        "program": "gunicorn",
        "host": "web1",
        "engines": len(pools) or 1,
        "pools": list(pools) or [pool()],
        "events": [],
    } | changed


def pool(name: str = "default", **changed: Any) -> Any:
    """Return a pool's part of a report: calm, unless something is changed."""
    return {
        "name": name,
        "number": 0,
        "database": URL,
        "managed": True,
        "size": 5,
        "capacity": 15,
        "min_idle": 1,
        "idle": 2,
        "leased": len(changed.get("holders", ())),
        "held": 0,
        "opening": 0,
        "waiting": len(changed.get("waiters", ())),
        "checkouts": 1000,
        "waited": 10,
        "returns": 1000,
        "opened": 3,
        "pings": 2,
        "fallback_pings": 0,
        "suspicions": 0,
        "unreceived": 0,
        "disowned": 0,
        "open_failed": {},
        "refused": {},
        "closed": {"idle": 1},
        "wait": histogram({0.0001: 990, 0.01: 10}),
        "hold": histogram({0.005: 900, 0.1: 100}),
        "connect": histogram({0.01: 3}),
        "outage_seconds": None,
        "outages": 0,
        "outage_seconds_total": 0.0,
        "dead_avoided": 0,
        "paused_seconds": None,
        "write_outage_seconds": None,
        "holders": [],
        "waiters": [],
    } | changed


def histogram(counted: Mapping[float, int]) -> Any:
    """Return durations as a report has them: how many (value) took so many seconds (key).

    A key is the upper bound of a bucket; one above all bounds is in the last bucket.
    """
    bounds = list(BOUNDS_SECONDS)
    counts = [counted.get(bound, 0) for bound in bounds]
    counts.append(sum(count for bound, count in counted.items() if bound > bounds[-1]))
    total = sum(bound * count for bound, count in counted.items())
    return {"bounds_seconds": bounds, "counts": counts, "sum_seconds": total}


def holder(
    label: str = "GET route 'notes'",
    seconds: float = 0.02,
    stack: Sequence[str] = PLACES,
    **changed: Any,
) -> Any:
    """Return one who holds a connection."""
    return {
        "label": label,
        "seconds": seconds,
        "worker": "thread 'waitress-0'",
        "ident": 140001,
        "server_pid": 900,
        "stack": list(stack),
        "over": False,
        "taken": [],
    } | changed


def waiter(
    label: str = "GET route 'notes'",
    seconds: float = 0.5,
    holds: bool = False,
    stack: Sequence[str] = PLACES,
    **changed: Any,
) -> Any:
    """Return one who waits for a connection."""
    return {
        "label": label,
        "seconds": seconds,
        "worker": "thread 'waitress-1'",
        "ident": 140002,
        "holds": holds,
        "stack": list(stack),
    } | changed


def event(number: int = 1, kind: str = "held", text: str = "held for 60 s", **changed: Any) -> Any:
    """Return an event of a process."""
    return {
        "number": number,
        "at": NOW - 10,
        "kind": kind,
        "pool": "default",
        "level": "WARNING",
        "text": text,
        "fields": {},
    } | changed
