"""The page: an `Overview` as elements, and the document around them."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from html import escape
from importlib.resources import files
from typing import Any

from ..telemetry.numbers import quantile
from ..telemetry.wording import counted, duration
from .elements import Element, el, html
from .overview import NAMED, Finding, HostPool, Overview, is_full

__all__ = ["POLICY", "content", "document", "numbers"]

_DOCUMENT = files(__package__).joinpath("page.html").read_text(encoding="utf-8")

# How many holders, waiters and events there are to be seen; the worst ones.
SHOWN = 50
_TODAY = 12 * 3600.0  # in seconds; after so long a time alone may be of any day
_TOGETHER = 5.0  # in seconds; what processes say alike within so long is one thing
_NOTHING = "\N{EN DASH}"
_TIMES = "\N{MULTIPLICATION SIGN}"
# Somebody with a connection, or in the line for one.
_Person = tuple[HostPool, Mapping[str, Any], Mapping[str, Any]]
# An event, and the processes that have told it.
_Told = tuple[Mapping[str, Any], list[int]]
_OVER = el("span.badge", {"data-level": "bad"}, "not given back")
_HOLDS = el("span.badge", {"data-level": "bad"}, "holds one already")

# What is at the top of each tab's title: it is seen where the page is not.
_SIGNS = {"bad": "✕", "warn": "!", "paused": "‖", "good": "✓"}


def _hash_of(tag: str) -> str:
    """Name the one script or style of the page by what is in it: nothing else runs."""
    (inside,) = re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", _DOCUMENT, re.DOTALL)
    digest = hashlib.sha256(inside.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


POLICY = "; ".join(
    [
        "default-src 'none'",
        f"script-src {_hash_of('script')}",
        f"style-src {_hash_of('style')}",
        # The icon that keeps browsers from asking for one.
        "img-src data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ]
)


def document(overview: Overview, path: str, *, may_command: bool, still: bool, said: str) -> str:
    """Return the page as a document, which needs no script.

    :param path: the URL of the page.
    :param may_command: whether the commands are there.
    :param still: whether it is not to be reloaded by itself, where there is no script.
    :param said: what there is to say of a command.
    """
    view = content(overview, path, may_command=may_command)
    other = el("a", {"href": path}, "reload by itself") if still else None
    other = other or el("a", {"href": f"{path}?still"}, "stop reloading")
    reload = "" if still else '<noscript><meta http-equiv="refresh" content="5"></noscript>'
    parts = {
        "title": escape(title(overview)),
        "refresh": reload,
        "path": escape(path),
        "said": escape(said),
        "content": "".join(map(html, view)),
        "reload": html(el("p.reload", {}, el("a", {"href": path}, "Reload"), " · ", other)),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _DOCUMENT)


def title(overview: Overview) -> str:
    """Return the document's title, the verdict in short."""
    first = overview.findings()[0]
    return f"{_SIGNS[first.level]} {first.text}"


def content(overview: Overview, path: str, *, may_command: bool) -> list[Element]:
    """Return what is in the page's `main`."""
    sections = [
        _verdict(overview, overview.findings()),
        _pools(overview, path if may_command else None) if overview.pools else None,
        _people(overview, "holders"),
        _people(overview, "waiters"),
        _processes(overview),
        _events(overview),
    ]
    return [each for each in sections if each is not None]


def numbers(overview: Overview) -> dict[str, Any]:
    """Return what the browser draws its lines from: for each pool, each process's numbers."""
    return {
        pool.key: {
            f"{report['pid']}/{part.get('number', 0)}": {
                "used": part.get("leased") or 0,
                "waiting": part.get("waiting") or 0,
                "wait": part.get("wait"),
                # They are counted when they have waited.
                "lines": [one["seconds"] for one in part.get("waiters", ())],
            }
            for report, part in pool.parts
        }
        for pool in overview.pools
    }


def _verdict(overview: Overview, findings: Sequence[Finding]) -> Element:
    first, *others = findings
    more = [
        el("li", {"class": each.level}, el("b", {}, each.text), ". ", each.more) for each in others
    ]
    return el(
        "section",
        {"class": f"verdict {first.level}", "id": "verdict", "data-kind": first.kind},
        el("span.sign", {"aria-hidden": "true"}, _SIGNS[first.level]),
        el("div", {}, el("h1", {}, first.text), el("p", {}, first.more) if first.more else None),
        el("ul", {}, *more) if more else None,
        el("p.note", {}, overview.note) if overview.note else None,
    )


def _section(name: str, heading: str, *children: Any) -> Element:
    return el(
        "section",
        {"id": name, "aria-labelledby": f"{name}-heading"},
        el("h2", {"id": f"{name}-heading"}, heading),
        *children,
    )


def _pools(overview: Overview, path: str | None) -> Element:
    cards = [_card(pool, path) for pool in overview.pools]
    return _section("pools", "Pools", el("div.cards", {}, *cards))


def _card(pool: HostPool, path: str | None) -> Element:
    used, capacity, waiting = pool.total("leased"), pool.capacity, pool.total("waiting")
    of = "" if capacity is None else f"of {capacity}"
    full = [report["pid"] for report, part in pool.parts if is_full(part)]
    state = "bad" if waiting and full else ""
    who = ", ".join(f"{each.label} holds {each.connections}" for each in pool.held_by()[:NAMED])
    idle, opening = pool.total("idle"), pool.total("opening")
    rest = f"{idle} idle" + (f", {opening} being opened" if opening else "")
    if full and len(pool.parts) > 1:
        # "8 of 15" would seem to leave room, and a process cannot use another's.
        rest += f"; full in {len(set(full))} of {counted(len(pool.pids), 'process', 'processes')}"
    return el(
        "article.card",
        {"data-key": pool.key, "aria-label": f"Pool {pool.title}"},
        el(
            "header",
            {},
            el("h3", {}, pool.title),
            el("span.faint", {}, counted(len(pool.pids), "process", "processes")),
            _badge(pool),
        ),
        el("p.database", {}, pool.database),
        el(
            "dl.figures",
            {},
            _figure(pool, "In use", used, of, series="used", state=state, top=capacity),
            _figure(pool, "Waiting", waiting, series="waiting", state=state),
            _figure(pool, "Wait, p99", _NOTHING, series="p99"),
        ),
        el("p.faint", {}, f"{who}; {rest}" if who else rest),
        _commands(pool, path) if path else None,
    )


def _badge(pool: HostPool) -> Element | None:
    for name, words, level in (
        ("outage_seconds", "away", "bad"),
        ("write_outage_seconds", "read-only", "bad"),
        ("paused_seconds", "paused", "paused"),
    ):
        seconds = pool.longest(name)
        if seconds is not None:
            return el("span.badge", {"data-level": level}, f"{words} {duration(seconds)}")
    return None


def _figure(
    pool: HostPool,
    name: str,
    value: Any,
    of: str = "",
    *,
    series: str,
    state: str = "",
    top: int | None = None,
) -> Element:
    line = {"data-pool": pool.key, "data-series": series, "data-top": top, "aria-hidden": "true"}
    return el(
        "div",
        {"class": f"{state} {series}".strip()},
        el("dt", {}, name),
        el("dd", {}, el("b", {}, value), el("span.faint", {}, f" {of}") if of else None),
        el("svg.trend", line | {"viewBox": "0 0 100 30", "preserveAspectRatio": "none"}),
    )


def _commands(pool: HostPool, path: str) -> Element:
    is_paused = pool.longest("paused_seconds") is not None
    sizes = [part.get("size") or 0 for _report, part in pool.parts]
    limits = [part.get("capacity") for _report, part in pool.parts]
    size, limit = max(sizes), limits[0] if limits else None
    overflow = -1 if limit is None else max(0, limit - size)
    pause = ("resume", "Resume") if is_paused else ("pause", "Pause")
    return el(
        "details.commands",
        {},
        el("summary", {}, "Refresh, pause, resize"),
        _form(
            pool,
            path,
            "refresh",
            el("button", {}, "Refresh"),
            el("small", {}, "Each connection is replaced as it comes back, idle ones now."),
        ),
        _form(
            pool,
            path,
            pause[0],
            el("button", {}, pause[1]),
            el("small", {}, "Callers wait in line while the database is maintained."),
        ),
        _form(
            pool,
            path,
            "resize",
            _number("size", "Size", size, 0),
            _number("max_overflow", "Overflow", overflow, -1),
            el("button", {}, "Resize"),
            el("small", {}, "In each process, until it ends; the ini file is not changed."),
        ),
    )


def _form(pool: HostPool, path: str, command: str, *children: Any) -> Element:
    hidden = [
        el("input", {"type": "hidden", "name": name, "value": value})
        for name, value in (("command", command), ("pool", pool.key))
    ]
    attributes = {"method": "post", "action": path, "data-key": command.replace("resume", "pause")}
    return el("form", attributes, *hidden, *children)


def _number(name: str, label: str, value: int, least: int) -> Element:
    attributes = {"type": "number", "name": name, "value": value, "min": least, "required": True}
    return el("label", {}, f"{label} ", el("input", attributes))


def _people(overview: Overview, which: str) -> Element | None:
    groups: dict[tuple[Any, ...], list[_Person]] = {}
    for pool in overview.pools:
        for report, one in getattr(pool, which)():
            # Who does the same at the same place is one row: a line may be hundreds long.
            key = (pool.key, one["label"], bool(one.get("holds")), *_places(one))
            groups.setdefault(key, []).append((pool, report, one))
    heading = "Who holds a connection" if which == "holders" else "Who waits for one"
    if not groups:
        return _section(which, heading, el("p.faint", {}, "Nobody, just now."))
    ordered = sorted(groups.items(), key=lambda group: -group[1][0][2]["seconds"])
    rows = [_group(" ".join(map(str, key)), people) for key, people in ordered[:SHOWN]]
    left = sum(len(people) for _key, people in ordered[SHOWN:])
    more = el("p.faint", {}, f"and {left} more") if left else None
    count = sum(map(len, groups.values()))
    return _section(which, f"{heading} ({count})", el("div.rows", {}, *rows), more)


def _group(key: str, people: list[_Person]) -> Element:
    _pool, _report, first = people[0]
    stack = _places(first)
    places = [el("li", {}, el("code", {}, each)) for each in stack]
    each = [el("li", {}, *_person(*one)) for one in people[:SHOWN]]
    if len(people) > SHOWN:
        each.append(el("li", {}, f"and {len(people) - SHOWN} more"))
    return el(
        "details",
        {"data-key": key},
        el(
            "summary",
            {},
            el("span.seconds", {}, duration(first["seconds"])),
            el("b", {}, first["label"]),
            el("span.times", {}, f"{_TIMES} {len(people)}") if len(people) > 1 else None,
            _HOLDS if first.get("holds") else None,
            _OVER if first.get("over") else None,
            el("code", {}, stack[0]) if stack else None,
        ),
        el("ol.stack", {}, *places) if places else None,
        el("p.faint", {}, _about(first)) if first.get("over") or not places else None,
        el("ul.faint", {}, *each),
    )


def _places(one: Mapping[str, Any]) -> tuple[str, ...]:
    """List where somebody is now; of one who has ended, where the connection was taken."""
    return tuple(one.get("taken" if one.get("over") else "stack") or ())


def _about(one: Mapping[str, Any]) -> str:
    """Say what is known of a place, or that none is."""
    if not one.get("over"):
        return "Where it is now cannot be found."
    if one.get("taken"):
        return "It has ended without giving its connection back, which it has taken here."
    return (
        "It has ended without giving its connection back. With dbpool.trace_checkouts = true,"
        " here stands where it was taken."
    )


def _person(pool: HostPool, report: Mapping[str, Any], one: Mapping[str, Any]) -> Iterator[Any]:
    where = [f"process {report['pid']}", str(one.get("worker") or ""), f"pool {pool.title}"]
    server = one.get("server_pid")
    where += [f"the server's process {server}"] if server else []
    yield el("b", {}, duration(one["seconds"]))
    yield f" {', '.join(filter(None, where))}"


def _processes(overview: Overview) -> Element:
    names = (
        "Process",
        "Pool",
        "In use",
        "Idle",
        "Opening",
        "Waiting",
        "Wait, p99",
        "Hold, p50",
        "Up",
    )
    head = el("tr", {}, *(el("th", {"scope": "col"}, name) for name in names))
    titles = {id(part): pool.title for pool in overview.pools for _report, part in pool.parts}
    rows = [row for report in overview.reports for row in _rows_of(report, titles)]
    rows += [
        el(
            "tr.bad",
            {"data-key": f"silent {pid}"},
            el("th", {"scope": "row"}, f"{pid}"),
            el("td.wide", {"colspan": len(names) - 1}, why),
        )
        for pid, why in overview.silent.items()
    ]
    table = el(
        "table",
        {},
        el("caption", {}, "Waits and holds: since the process began."),
        el("thead", {}, head),
        el("tbody", {}, *rows),
    )
    heading = f"Processes ({len(overview.reports) + len(overview.silent)})"
    return _section("processes", heading, el("div.scroll", {"tabindex": "0"}, table))


def _rows_of(report: Mapping[str, Any], titles: Mapping[int, str]) -> Iterator[Element]:
    parts = report.get("pools") or [{}]
    for place, part in enumerate(parts):
        cells = [
            ("Pool", titles.get(id(part), "none yet")),
            ("In use", _used(part)),
            ("Idle", part.get("idle", "")),
            ("Opening", part.get("opening", "")),
            ("Waiting", part.get("waiting", "")),
            ("Wait, p99", _quantile(part.get("wait"), 0.99)),
            ("Hold, p50", _quantile(part.get("hold"), 0.5)),
            ("Up", duration(max(0.0, report["at"] - report["started_at"]))),
        ]
        role = " ".join(filter(None, (report.get("role"), report.get("program"))))
        yield el(
            "tr",
            {
                "data-key": f"{report['pid']} {part.get('name')} {part.get('number', place)}",
                "class": "bad" if part.get("waiting") and is_full(part) else None,
            },
            el("th", {"scope": "row"}, report["pid"], el("span.faint", {}, f" {role}")),
            *(el("td", {"data-name": name}, value) for name, value in cells),
        )


def _used(part: Mapping[str, Any]) -> str:
    capacity = part.get("capacity")
    used = part.get("leased")
    if used is None:
        return ""
    return f"{used}" if capacity is None else f"{used} of {capacity}"


def _quantile(histogram: Mapping[str, Any] | None, share: float) -> str:
    seconds = quantile(histogram, share) if histogram else None
    return _NOTHING if seconds is None else duration(seconds)


def _events(overview: Overview) -> Element:
    told: dict[tuple[str, ...], list[_Told]] = {}
    ordered: list[_Told] = []
    for report, event in overview.events:
        same = told.setdefault((event["kind"], event["pool"], event["text"]), [])
        if same and same[-1][0]["at"] - event["at"] < _TOGETHER:
            same[-1][1].append(report["pid"])
        else:
            same.append((event, [report["pid"]]))
            ordered.append(same[-1])
    rows = [_event(event, pids, overview.at) for event, pids in ordered[:SHOWN]]
    if not rows:
        return _section("events", "What happened", el("p.faint", {}, "Nothing worth a line yet."))
    return _section("events", "What happened", el("ol.events", {}, *rows))


def _event(event: Mapping[str, Any], pids: Sequence[int], now: float) -> Element:
    at = datetime.fromtimestamp(event["at"]).astimezone()
    time = f"{at:%H:%M:%S}" if now - event["at"] < _TODAY else f"{at:%Y-%m-%d %H:%M}"
    level = "bad" if event["level"] in ("ERROR", "CRITICAL") else event["level"].lower()
    among = sorted(set(pids))
    who = f"process {among[0]}" if len(among) == 1 else f"{len(among)} processes"
    return el(
        "li",
        {"class": level, "data-key": f"{pids[0]} {event['number']}"},
        el("time", {"datetime": at.isoformat(timespec="seconds")}, time),
        el("b", {}, str(event["kind"]).replace("_", " ")),
        el("span", {}, event["text"]),
        el("span.faint", {"title": ", ".join(map(str, among))}, who),
    )
