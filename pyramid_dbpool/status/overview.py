"""What the reports of a host say together: is anything wrong, what, since when, who."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..pool.leases import Group, groups
from ..pool.stats import Holder
from ..telemetry.wording import counted, duration

__all__ = ["Finding", "HostPool", "Overview", "is_full"]

# A process's report, and the part of it that is about one pool: see `telemetry.report`.
Report = Mapping[str, Any]
Part = Mapping[str, Any]
Event = Mapping[str, Any]

# Seconds. Whoever holds a connection for longer is worth a look; it is the default of
# `dbpool.hold_warning`.
LONG_HOLD = 60.0
# Callers that wait for less have met others, as they do where there is traffic.
SHORT_WAIT = 0.1
# How many holders the verdict names, if the others hold nearly as much as the first.
NAMED = 3
# From when on, in seconds, a connection that its holder has left behind is worth a word: one whose
# answer is still being sent may be about to come back.
LEFT_BEHIND = 2.0
# For so long, in seconds, what is over already is still told at the top.
RECENT = 60.0

BAD, WARN, PAUSED, GOOD = "bad", "warn", "paused", "good"
_RANKS = (BAD, PAUSED, WARN, GOOD)
# What somebody has felt, by the kind of event.
_FELT = {"refused": "refused a caller", "leak": "lost track of a connection"}


@dataclass(frozen=True)
class Finding:
    """One thing that there is to say.

    - `level`: "bad", "warn", "paused" or "good".
    - `kind`: what it is about, the same while only its numbers change.
    - `text`: a sentence.
    - `more`: what is known of its cause.
    """

    level: str
    kind: str
    text: str
    more: str = ""


@dataclass
class HostPool:
    """The pools of one name and database in all processes of the host.

    - `title`: what people call it: with its app, where the host has more than one.
    - `parts`: the report of each process with its part about the pool; one process may have more
      than one, where an engine was made more than once.
    """

    app: str
    name: str
    database: str
    title: str
    parts: list[tuple[Report, Part]] = field(default_factory=list)

    @property
    def key(self) -> str:
        """What tells it from the others of the host."""
        return f"{self.name} {self.app} {self.database}"

    @property
    def pids(self) -> list[int]:
        """The processes that have it."""
        return sorted({report["pid"] for report, _part in self.parts})

    @property
    def capacity(self) -> int | None:
        """How many connections there may be; None: no limit."""
        each = [part.get("capacity") for _report, part in self.parts]
        return None if None in each else sum(limit for limit in each if limit is not None)

    def total(self, number: str) -> int:
        """Add up a number over the processes."""
        return sum(part.get(number) or 0 for _report, part in self.parts)

    def longest(self, seconds: str) -> float | None:
        """Return the longest of the durations that processes have under this name."""
        known = [part.get(seconds) for _report, part in self.parts]
        return max((each for each in known if each is not None), default=None)

    def holders(self) -> list[tuple[Report, Mapping[str, Any]]]:
        """List who holds a connection and in which process, the longest first."""
        return self._people("holders")

    def held_by(self) -> list[Group]:
        """Group the holders by their labels, in the order of the pool's own errors."""
        return groups(Holder(one["label"], float(one["seconds"])) for _, one in self.holders())

    def waiters(self) -> list[tuple[Report, Mapping[str, Any]]]:
        """List who waits for a connection and in which process, the longest first."""
        return self._people("waiters")

    def _people(self, which: str) -> list[tuple[Report, Mapping[str, Any]]]:
        each = [(report, one) for report, part in self.parts for one in part.get(which, ())]
        return sorted(each, key=lambda found: -found[1]["seconds"])

    def among(self, parts: Callable[[Part], bool]) -> HostPool:
        """Return that of it for which something is true."""
        kept = [(report, part) for report, part in self.parts if parts(part)]
        return replace(self, parts=kept)


class Overview:
    """All of a host, as people want to see it.

    :param reports: what the processes answered.
    :param silent: why there is no answer, for each process that gave none.
    :param note: a sentence about what is not to be seen here, and why.
    """

    def __init__(
        self, reports: Sequence[Report], silent: Mapping[int, str] | None = None, note: str = ""
    ) -> None:
        self.reports = sorted(reports, key=lambda report: int(report["pid"]))
        self.silent = dict(sorted((silent or {}).items()))
        self.note = note
        self.at = max((report["at"] for report in reports), default=0.0)
        self.pools = _pools(self.reports)
        self.events: list[tuple[Report, Event]] = sorted(
            ((report, event) for report in self.reports for event in report.get("events", ())),
            key=lambda found: (-found[1]["at"], -found[1]["number"]),
        )

    def findings(self) -> list[Finding]:
        """List what there is to say, the worst first; there is always something."""
        found = [each for pool in self.pools for each in self._of_pool(pool)]
        found += [*self._silences(), *self._second_engines(), *self._lately()]
        if not found:
            found = [Finding(GOOD, "good", "All is well", self._calm())]
        return sorted(found, key=lambda each: _RANKS.index(each.level))

    def _calm(self) -> str:
        used, pools = sum(pool.total("leased") for pool in self.pools), len(self.pools)
        limits = [pool.capacity for pool in self.pools]
        of = "" if None in limits else f" of {sum(filter(None, limits))}"
        processes = counted(len(self.reports), "process", "processes")
        if not pools:
            return f"{processes}, and no pool yet."
        waits = self._waits() or "nobody waits"
        return f"{processes}, {used}{of} connections in use, {waits}."

    def _waits(self) -> str:
        waiting = [_lines(pool) for pool in self.pools if pool.total("waiting")]
        return "; ".join(waiting)

    def _of_pool(self, pool: HostPool) -> Iterator[Finding]:
        yield from self._away(pool)
        yield from self._read_only(pool)
        yield from self._paused(pool)
        yield from _exhausted(pool)
        yield from _waiting(pool)
        yield from _left_behind(pool)
        yield from _held_long(pool)

    def _away(self, pool: HostPool) -> Iterator[Finding]:
        hit = pool.among(lambda part: part.get("outage_seconds") is not None)
        seconds = hit.longest("outage_seconds")
        if seconds is not None:
            text = f"The database of {_name(pool)} has been away for {duration(seconds)}"
            more = _join(self._last(pool, "outage"), _where(hit, pool), _lines(hit))
            yield Finding(BAD, f"away {pool.key}", text, more)

    def _read_only(self, pool: HostPool) -> Iterator[Finding]:
        hit = pool.among(lambda part: part.get("write_outage_seconds") is not None)
        seconds = hit.longest("write_outage_seconds")
        if seconds is not None:
            text = f"The database of {_name(pool)} has taken no writes for {duration(seconds)}"
            more = _join(self._last(pool, "read_only"), _where(hit, pool))
            yield Finding(BAD, f"read-only {pool.key}", text, more)

    def _paused(self, pool: HostPool) -> Iterator[Finding]:
        hit = pool.among(lambda part: part.get("paused_seconds") is not None)
        seconds = hit.longest("paused_seconds")
        if seconds is None:
            return
        event = self._last_event(pool, "pause")
        by = event and event.get("fields", {}).get("by")
        text = f"{_name(pool, start=True)} has been paused for {duration(seconds)}"
        text += f" by {by}" if by else ""
        waiting = hit.total("waiting")
        # A pause that nobody notices is no trouble; one in which callers run out of time is.
        more = _join(_where(hit, pool), _lines(hit), _still_out(hit))
        yield Finding(PAUSED, f"paused {pool.key} {waiting > 0}", text, more)

    def _last_event(self, pool: HostPool, kind: str) -> Event | None:
        pids = pool.pids
        for report, event in self.events:
            if (event["kind"], event["pool"]) == (kind, pool.name) and report["pid"] in pids:
                return event
        return None

    def _last(self, pool: HostPool, kind: str) -> str:
        event = self._last_event(pool, kind)
        return str(event["text"]) if event else ""

    def _silences(self) -> Iterator[Finding]:
        for pid, why in self.silent.items():
            yield Finding(WARN, f"silent {pid}", f"Process {pid} gives no answer", f"It {why}.")

    def _second_engines(self) -> Iterator[Finding]:
        for pool in self.pools:
            for pid in pool.pids:
                count = sum(report["pid"] == pid for report, _part in pool.parts)
                if count > 1:
                    yield Finding(
                        WARN,
                        f"engines {pool.key} {pid}",
                        f"Process {pid} has {count} engines for {_name(pool)}",
                        "Each has connections of its own. One for each process is enough: is it"
                        " made anew for each request?",
                    )

    def _lately(self) -> Iterator[Finding]:
        """Tell of refusals and leaks that are over, and that somebody has felt."""
        recent: dict[tuple[str, str], list[Event]] = {}
        for _report, event in self.events:
            if event["kind"] in _FELT and self.at - event["at"] < RECENT:
                recent.setdefault((event["kind"], event["pool"]), []).append(event)
        for (kind, pool), found in recent.items():
            # A line stands for those that were left out since the one before it, too.
            others = sum(1 + (each["fields"].get("left_out") or 0) for each in found) - 1
            first = found[0]
            ago = duration(max(0.0, self.at - first["at"]))
            text = f"{_pool(pool, start=True)} {_FELT[kind]} {ago} ago"
            text += f", and {others} more in the last minute" if others else ""
            # Who reads that a server is away must not take it for now.
            later = self._since_then(first) if kind == "refused" else None
            yield Finding(WARN, f"{kind} {pool}", text, later or first["text"])

    def _since_then(self, refusal: Event) -> str | None:
        """Return what was said last of the end of an outage after a refusal; None: nothing."""
        return next(
            (
                f"Since then: {event['text']}"
                for _report, event in self.events
                if event["kind"] in ("back", "writable")
                and event["pool"] == refusal["pool"]
                and event["at"] >= refusal["at"]
            ),
            None,
        )


def _pools(reports: Sequence[Report]) -> list[HostPool]:
    found: dict[tuple[str, str, str], HostPool] = {}
    apps = {report.get("app") for report in reports if report.get("pools")}
    for report in reports:
        for part in report.get("pools", ()):
            key = (part["name"], str(report.get("app") or ""), str(part.get("database") or ""))
            title = f"{key[0]} of {key[1]}" if len(apps) > 1 else key[0]
            pool = found.setdefault(key, HostPool(key[1], key[0], key[2], title))
            pool.parts.append((report, part))
    # The default one first, as everywhere.
    return [found[key] for key in sorted(found, key=lambda key: (key[0] != "default", key))]


def is_full(part: Part) -> bool:
    """Tell whether a process's pool can open no more."""
    capacity = part.get("capacity")
    out = sum(part.get(number) or 0 for number in ("leased", "held", "opening"))
    return capacity is not None and out >= capacity


def _is_troubled(part: Part) -> bool:
    return part.get("outage_seconds") is not None or part.get("paused_seconds") is not None


def _is_felt(pool: HostPool) -> bool:
    return any(one["seconds"] >= SHORT_WAIT for _report, one in pool.waiters())


def _exhausted(pool: HostPool) -> Iterator[Finding]:
    hit = pool.among(
        lambda part: bool(part.get("waiting")) and is_full(part) and not _is_troubled(part)
    )
    if not _is_felt(hit):
        return
    text = f"{_name(pool, start=True)} is exhausted: {_lines(hit)}"
    held = hit.held_by()[:NAMED]
    if held:
        most = held[0].connections
        text += f"; {held[0].label} holds {most} of {hit.capacity}"
        # Of a pair that waits for each other, either is to blame.
        much = [each for each in held[1:] if 3 * each.connections >= most]
        text += "".join(f", {each.label} {each.connections}" for each in much)
    yield Finding(BAD, f"exhausted {pool.key}", text, _join(_where(hit, pool), _deadlock(hit)))


def _deadlock(pool: HostPool) -> str:
    both = sum(bool(one.get("holds")) for _report, one in pool.waiters())
    if not both:
        return ""
    who = "One of those who wait holds" if both == 1 else f"{both} of those who wait hold"
    return f"{who} a connection already: they may be waiting for each other."


def _waiting(pool: HostPool) -> Iterator[Finding]:
    hit = pool.among(
        lambda part: bool(part.get("waiting")) and not is_full(part) and not _is_troubled(part)
    )
    if _is_felt(hit):
        opening = counted(hit.total("opening"), "connection is", "connections are")
        text = f"{_name(pool, start=True)} has a line: {_lines(hit)}"
        yield Finding(WARN, f"line {pool.key}", text, f"{opening} being opened.")


def _left_behind(pool: HostPool) -> Iterator[Finding]:
    """Tell of connections whose holders have ended: nobody is going to give them back."""
    left = [
        (report, one)
        for report, one in pool.holders()
        if one.get("over") and one["seconds"] >= LEFT_BEHIND
    ]
    if not left:
        return
    report, first = left[0]
    others = len(left) - 1
    text = f"{first['label']} has not given back a connection of {_name(pool)},"
    text += f" held for {duration(first['seconds'])}"
    more = f"So have {counted(others, 'other', 'others')}." if others else ""
    taken = first.get("taken")
    place = f"It was taken in {taken[0]}, process {report['pid']}." if taken else ""
    hint = "" if taken else "With dbpool.trace_checkouts = true, here stands where it was taken."
    yield Finding(WARN, f"left {pool.key}", text, _join(place, more, hint))


def _held_long(pool: HostPool) -> Iterator[Finding]:
    long = [
        (report, one)
        for report, one in pool.holders()
        if one["seconds"] >= LONG_HOLD and not one.get("over")
    ]
    if not long:
        return
    report, first = long[0]
    text = f"{first['label']} has held a connection of {_name(pool)} for"
    text += f" {duration(first['seconds'])}"
    others = len(long) - 1
    place = f"It is in {first['stack'][0]}, process {report['pid']}." if first["stack"] else ""
    more = f"{counted(others, 'other', 'others')} for more than a minute." if others else ""
    yield Finding(WARN, f"held {pool.key}", text, _join(place, more))


def _lines(pool: HostPool) -> str:
    """Say how many wait, and how long."""
    waiting = pool.total("waiting")
    if not waiting:
        return ""
    people = pool.waiters()
    longest = f", the longest for {duration(people[0][1]['seconds'])}" if people else ""
    return f"{waiting} {'waits' if waiting == 1 else 'wait'}{longest}"


def _still_out(pool: HostPool) -> str:
    leased = pool.total("leased")
    return f"{counted(leased, 'connection is', 'connections are')} still in use" if leased else ""


def _where(hit: HostPool, pool: HostPool) -> str:
    some, all_ = len(hit.pids), len(pool.pids)
    return f"In {some} of {all_} processes" if some < all_ else ""


def _name(pool: HostPool, start: bool = False) -> str:
    return _pool(pool.title, start)


def _pool(name: str, start: bool = False) -> str:
    return f"{'Pool' if start else 'pool'} {name}"


def _join(*sentences: str) -> str:
    """Put what there is to say into sentences."""
    there = [each.rstrip(".") for each in sentences if each]
    return "".join(f"{each[0].upper()}{each[1:]}. " for each in there).rstrip()
