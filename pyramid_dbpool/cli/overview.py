"""What all processes of a host have said, put together: a row for each pool of each process.

Pure: it gets the answers, and those of the time before, and hands back what there is to show.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..telemetry.host import Answer
from ..telemetry.numbers import merged, minus, quantile
from ..telemetry.wording import where_text
from .wording import duration

__all__ = ["SORTS", "Overview", "People", "Row", "Times", "overview"]

Report = Mapping[str, Any]


@dataclass(frozen=True)
class Times:
    """How long something took, in seconds: half of the times, and nearly all of them."""

    p50: float | None = None
    p99: float | None = None
    # Longer than the highest bound: nobody knows how long.
    over: bool = False


@dataclass(frozen=True)
class Row:
    """The engines of one process that have one name and one database; usually one.

    `errors` are refusals and failed openings since the process began, `new_errors` those of the
    last interval. `capacity` is None where there is no limit.
    """

    pid: int | None
    app: str
    pool: str
    database: str
    engines: int = 1
    size: int = 0
    capacity: int | None = 0
    idle: int = 0
    used: int = 0
    opening: int = 0
    waiting: int = 0
    longest: float | None = None
    wait: Times = Times()
    hold: Times = Times()
    connect: Times = Times()
    errors: int = 0
    new_errors: int = 0
    state: str = ""
    managed: bool = True


@dataclass(frozen=True)
class People:
    """Those who hold or wait for a connection under one label.

    - `seconds`: of the one who does so for the longest, and `where` that one is, in words.
    - `holding`: how many of those who wait hold a connection already.
    """

    label: str
    pool: str
    count: int
    seconds: float
    where: str
    holding: int = 0


@dataclass(frozen=True)
class Overview:
    """One look at all processes.

    - `at`: when, in seconds since the epoch; `interval`: seconds since the look before, None if
      this is the first: then all is since the processes began.
    - `silent`: who does not answer, and why.
    - `notes`: what is wrong, in sentences for people.
    """

    at: float
    interval: float | None
    rows: Sequence[Row]
    total: Row
    silent: Mapping[int, str]
    holders: Sequence[People]
    waiters: Sequence[People]
    notes: Sequence[str] = field(default=())

    @property
    def troubled(self) -> bool:
        """Whether a process is silent, or a database away."""
        return bool(self.silent) or any("away" in row.state for row in self.rows)


def overview(
    answers: Iterable[Answer],
    before: Mapping[int, Report],
    at: float,
    interval: float | None,
) -> Overview:
    """Put answers together.

    :param before: the reports of the look before, by process.
    """
    answers = list(answers)
    reports = [each.report for each in answers if each.report is not None]
    silent = {each.pid: each.silent or "" for each in answers if each.report is None}
    rows = [row for report in reports for row in _rows(report, before.get(report["pid"]))]
    pools = [pool for report in reports for pool in report["pools"]]
    olds = [pool for report in reports for pool in _olds(report, before.get(report["pid"]))]
    return Overview(
        at=at,
        interval=interval,
        rows=rows,
        total=_total(pools, olds),
        silent=silent,
        holders=_people(reports, "holders"),
        waiters=_people(reports, "waiters"),
        notes=[note for report in reports for note in _notes(report)],
    )


def _rows(report: Report, old: Report | None) -> list[Row]:
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for pool in report["pools"]:
        groups.setdefault((pool["name"], pool["database"]), []).append(pool)
    app = f"{report['app'] or report['program']} {report['role']}"
    found = []
    for (name, database), pools in groups.items():
        base = Row(report["pid"], app, name, database, engines=len(pools))
        found.append(_filled(base, pools, _olds(report, old, pools)))
    return found


def _olds(
    report: Report, old: Report | None, pools: Sequence[Mapping[str, Any]] | None = None
) -> list[Mapping[str, Any]]:
    """Return the same engines' numbers of the time before; none of another process."""
    # A new process may have come to an old one's number.
    if old is None or old["started_at"] != report["started_at"]:
        return []
    known = {(p["name"], p["database"], p["number"]): p for p in old["pools"]}
    keys = [(p["name"], p["database"], p["number"]) for p in pools or report["pools"]]
    return [known[key] for key in keys if key in known]


def _filled(
    row: Row, pools: Sequence[Mapping[str, Any]], olds: Sequence[Mapping[str, Any]]
) -> Row:
    """Add up the numbers of some pools."""
    capacities = [pool.get("capacity", 0) for pool in pools]
    holders = [each["seconds"] for pool in pools for each in pool.get("holders", ())]
    errors = sum(map(_errors, pools))
    return replace(
        row,
        size=_sum(pools, "size"),
        capacity=None if None in capacities else sum(capacities),
        idle=_sum(pools, "idle"),
        used=_sum(pools, "leased"),
        opening=_sum(pools, "opening"),
        waiting=_sum(pools, "waiting"),
        longest=max(holders, default=None),
        wait=_times(pools, olds, "wait"),
        hold=_times(pools, olds, "hold"),
        connect=_times(pools, olds, "connect"),
        errors=errors,
        new_errors=max(0, errors - sum(map(_errors, olds))) if olds else 0,
        state=_state(pools),
        managed=all(pool.get("managed", True) for pool in pools),
    )


def _sum(pools: Iterable[Mapping[str, Any]], key: str) -> int:
    return sum(pool.get(key) or 0 for pool in pools)


def _errors(pool: Mapping[str, Any]) -> int:
    counted = (pool.get("refused"), pool.get("open_failed"))
    return sum(sum(each.values()) for each in counted if each)


def _times(
    pools: Sequence[Mapping[str, Any]], olds: Sequence[Mapping[str, Any]], name: str
) -> Times:
    new = merged(pool[name] for pool in pools if pool.get(name))
    old = merged(pool[name] for pool in olds if pool.get(name))
    if new is None:
        return Times()
    counted = new if old is None else minus(new, old)
    p99 = quantile(counted, 0.99)
    over = p99 is not None and p99 >= counted["bounds_seconds"][-1]
    return Times(quantile(counted, 0.5), p99, over)


def _state(pools: Sequence[Mapping[str, Any]]) -> str:
    words = []
    for key, word in (
        ("outage_seconds", "away"),
        ("write_outage_seconds", "read-only"),
        ("paused_seconds", "paused"),
    ):
        lasted = [pool[key] for pool in pools if pool.get(key) is not None]
        if lasted:
            words.append(f"{word} {duration(max(lasted))}")
    return ", ".join(words)


def _total(pools: Sequence[Mapping[str, Any]], olds: Sequence[Mapping[str, Any]]) -> Row:
    return replace(_filled(Row(None, "", "", "", engines=len(pools)), pools, olds), state="")


def _people(reports: Iterable[Report], kind: str) -> list[People]:
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for report in reports:
        for pool in report["pools"]:
            for each in pool.get(kind, ()):
                groups.setdefault((each["label"], pool["name"]), []).append(each)
    totals = {key: sum(each["seconds"] for each in of) for key, of in groups.items()}
    found = []
    for (label, pool_name), each_of in groups.items():
        longest = max(each_of, key=lambda each: float(each["seconds"]))
        where = where_text(longest)
        holding = sum(bool(each.get("holds")) for each in each_of)
        found.append(People(label, pool_name, len(each_of), longest["seconds"], where, holding))
    # As in the pool's own errors: what has kept most from others comes first.
    return sorted(found, key=lambda each: (-totals[each.label, each.pool], each.label))


def _notes(report: Report) -> list[str]:
    """Say of a process what is the oldest mistake of all."""
    made = Counter((pool["name"], pool["database"]) for pool in report["pools"])
    return [
        f"pid {report['pid']} has {count} engines for pool {name!r} and one database: each has a"
        " pool of its own. Make one per process, with get_engine()"
        for (name, _), count in made.items()
        if count > 1
    ]


def _full(row: Row) -> float:
    return row.used / row.capacity if row.capacity else 0.0


# What comes first, by the key that is pressed.
SORTS: Mapping[str, tuple[str, Any]] = {
    "w": (
        "waiting",
        lambda row: (not row.state, -row.waiting, -_full(row), -row.used, row.pid, row.pool),
    ),
    "u": ("used", lambda row: (-row.used, -row.waiting, row.pid, row.pool)),
    "h": ("longest hold", lambda row: (-(row.longest or 0), -row.used, row.pid, row.pool)),
    "p": ("pid", lambda row: (row.pid, row.pool)),
}
