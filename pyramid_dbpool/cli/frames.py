"""One frame of `pdbpool top`: lines of styled text that fit a terminal.

Pure: it knows neither a terminal nor rich. What a colour says is said by a word or a sign as well.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..telemetry.wording import counted
from .overview import SORTS, Overview, People, Row, Times
from .wording import clock_text, cut, duration

__all__ = [
    "BAD",
    "ENDLESS",
    "HELP",
    "Line",
    "View",
    "frame",
    "plain_text",
    "row_as_json",
    "wrapped",
]

# Pieces of text, each with a style of rich's; "" is none.
Line = list[tuple[str, str]]

HEADING, BAD, WARN, DIM = "reverse", "bold red", "yellow", "dim"
# Of what is no terminal: nothing is cut, and the next program can find it.
ENDLESS = 100_000
# So many rows are shown before whatever stands below them.
LEAST_ROWS = 5
# So many lines of an event.
EVENT_LINES = 2
# Letters that are left of a text which has to give way.
LEAST_LETTERS = 7

HELP = (
    ("q", "quit"),
    ("space", "look again now"),
    ("w", "most waiting first"),
    ("u", "most used first"),
    ("h", "longest hold first"),
    ("p", "by process id"),
    ("up, down", "scroll"),
    ("?", "this help, and back"),
    ("", ""),
    ("Size", "pool_size + max_overflow"),
    ("Idle, Used", "connections that are open; used: somebody holds them"),
    ("Waiting", "callers in the line"),
    ("Longest", "how long one has been held by now"),
    ("Wait, Hold", "p50/p99 of waits for a connection and of holds that ended"),
    ("Connect", "p50/p99 of openings; all three since the look before"),
    ("Errors", "refusals and failed openings; +: since the look before"),
    ("Engines", "! more than one for one database: each has a pool of its own"),
)


@dataclass(frozen=True)
class View:
    """How to look: the size of the terminal, and what was chosen by key.

    `height` is None where frames follow one another, as on paper.
    """

    width: int = ENDLESS
    height: int | None = None
    sort: str = "w"
    first: int = 0


@dataclass(frozen=True)
class _Column:
    head: str
    text: Callable[[Row], str]
    left: bool = False
    style: Callable[[Row], str] = lambda row: ""
    # May be cut where there is too little room.
    yields: bool = False


def _size(row: Row) -> str:
    if not row.managed:
        return "-"
    if row.capacity is None:
        return f"{row.size}+any" if row.size else "any"
    return f"{row.size}+{row.capacity - row.size}" if row.capacity != row.size else str(row.size)


def _of(row: Row) -> str:
    return str(row.used) if not row.capacity else f"{row.used}/{row.capacity}"


def _fullness(row: Row) -> str:
    return WARN if row.capacity and row.used >= row.capacity else ""


def _both(times: Times) -> str:
    if times.p50 is None:
        return "-"
    return f"{duration(times.p50)}/{_p99(times)}"


def _p99(times: Times) -> str:
    return f"{'>' if times.over else ''}{duration(times.p99)}"


def _errors(row: Row) -> str:
    return f"{row.errors} +{row.new_errors}" if row.new_errors else str(row.errors)


def _engines(row: Row) -> str:
    return f"{row.engines}!" if _too_many(row) else str(row.engines)


def _too_many(row: Row) -> str:
    return BAD if row.engines > 1 and row.pid is not None else ""


_COLUMNS: Mapping[str, _Column] = {
    "pid": _Column("PID", lambda row: "Total" if row.pid is None else str(row.pid)),
    "app": _Column("App", lambda row: row.app, left=True, yields=True),
    "pool": _Column("Pool", lambda row: row.pool, left=True, yields=True),
    "size": _Column("Size", _size),
    "idle": _Column("Idle", lambda row: str(row.idle)),
    "used": _Column("Used", lambda row: str(row.used), style=_fullness),
    "of": _Column("Used", _of, style=_fullness),
    "waiting": _Column(
        "Waiting", lambda row: str(row.waiting), style=lambda row: WARN if row.waiting else ""
    ),
    "waits": _Column(
        "Wait", lambda row: str(row.waiting), style=lambda row: WARN if row.waiting else ""
    ),
    "longest": _Column("Longest", lambda row: duration(row.longest)),
    "wait": _Column("Wait p50/p99", lambda row: _both(row.wait)),
    "hold": _Column("Hold p50/p99", lambda row: _both(row.hold)),
    "connect": _Column("Connect p50/p99", lambda row: _both(row.connect)),
    "wait99": _Column("Wait99", lambda row: _p99(row.wait)),
    "hold99": _Column("Hold99", lambda row: _p99(row.hold)),
    "connect99": _Column("Conn99", lambda row: _p99(row.connect)),
    "errors": _Column("Errors", _errors, style=lambda row: BAD if row.new_errors else ""),
    "err": _Column("Err", _errors, style=lambda row: BAD if row.new_errors else ""),
    "engines": _Column("Engines", _engines, style=_too_many),
    "eng": _Column("Eng", _engines, style=_too_many),
    "state": _Column(
        "State",
        lambda row: row.state or (f"opening {row.opening}" if row.opening else ""),
        left=True,
        style=lambda row: BAD if row.state else "",
    ),
}
# The first one that fits is taken, the last one is made to fit. The engines are always told where
# there are too many.
_LAYOUTS: tuple[tuple[str, ...], ...] = (
    (
        *("pid", "app", "pool", "size", "idle", "used", "waiting", "longest"),
        *("wait", "hold", "connect", "errors", "engines", "state"),
    ),
    (
        *("pid", "app", "pool", "size", "idle", "used", "waiting", "longest"),
        *("wait99", "hold99", "connect99", "errors", "state"),
    ),
    (
        "pid",
        "app",
        "pool",
        "of",
        "idle",
        "waits",
        "longest",
        "wait99",
        "hold99",
        "errors",
        "state",
    ),
)


def frame(seen: Overview, view: View, events: Sequence[str] = ()) -> list[Line]:
    """Return the lines of a frame.

    :param events: the last ones, the youngest first.
    """
    rows = sorted(seen.rows, key=SORTS[view.sort][1])
    top = [_headline(seen, view), *_silent(seen, view.width)]
    table = _table(rows, seen.total, view.width)
    sections = [
        [line for note in seen.notes for line in wrapped(f"! {note}", view.width, BAD)],
        _people("Held by", "connection", seen.holders, view.width),
        _people("Waiting", "caller", seen.waiters, view.width),
        _events(events, view.width),
    ]
    if view.height is not None:
        return _fitted(top, table, sections, view)
    below = [line for section in sections if section for line in [[], *section]]
    return [_cut(line, view.width) for line in [*top, *table, *below]]


def plain_text(lines: Sequence[Line]) -> str:
    """Return lines without their styles."""
    return "\n".join("".join(text for text, _ in line).rstrip() for line in lines)


def _headline(seen: Overview, view: View) -> Line:
    answered = len({row.pid for row in seen.rows})
    silent = f", {len(seen.silent)} silent" if seen.silent else ""
    words = [clock_text(seen.at), counted(answered, "process", "processes") + silent]
    since = "since start" if seen.interval is None else f"last {seen.interval:.1f} s"
    words += [since, f"by {SORTS[view.sort][0]}"]
    if view.height is not None:
        words.append("? help")
    return [("pdbpool top", "bold"), ("  " + "  ".join(words), "")]


def _silent(seen: Overview, width: int) -> list[Line]:
    told = [f"pid {pid} {why}" for pid, why in sorted(seen.silent.items())]
    return [line for text in told for line in wrapped(text, width, BAD)]


def wrapped(text: str, width: int, style: str = "") -> list[Line]:
    """Return a text on as many lines as it needs."""
    return [[(line, style)] for line in textwrap.wrap(text, width, subsequent_indent="    ")]


def _table(rows: Sequence[Row], total: Row, width: int) -> list[Line]:
    every = [*rows, total]
    manifold = any(row.engines > 1 for row in rows)
    for names in _LAYOUTS:
        added = ["eng"] if manifold and "engines" not in names else []
        columns = [_COLUMNS[name] for name in (*names[:-1], *added, names[-1])]
        widths = [
            max(len(column.head), *(len(column.text(row)) for row in every)) for column in columns
        ]
        if sum(widths) + len(widths) - 1 <= width:
            break
    _shrink(columns, widths, width)
    heads = [
        _cell(column.head, column, size) for column, size in zip(columns, widths, strict=True)
    ]
    heading = cut(" ".join(heads), width).ljust(0 if width == ENDLESS else width)
    return [[(heading, HEADING)], *(_row_line(row, columns, widths) for row in every)]


def _shrink(columns: Sequence[_Column], widths: list[int], width: int) -> None:
    """Take room away from those columns that can do with less, the widest first."""
    flexible = [i for i, column in enumerate(columns) if column.yields]
    over = sum(widths) + len(widths) - 1 - width
    while over > 0:
        widest = max(flexible, key=lambda i: widths[i])
        if widths[widest] <= LEAST_LETTERS:
            return
        widths[widest] -= 1
        over -= 1


def _row_line(row: Row, columns: Sequence[_Column], widths: Sequence[int]) -> Line:
    line: Line = []
    for column, size in zip(columns, widths, strict=True):
        if line:
            line.append((" ", ""))
        style = column.style(row) or ("bold" if row.pid is None else "")
        line.append((_cell(column.text(row), column, size), style))
    return line


def _cell(text: str, column: _Column, size: int) -> str:
    text = cut(text, size)
    return text.ljust(size) if column.left else text.rjust(size)


def _people(title: str, noun: str, people: Sequence[People], width: int) -> list[Line]:
    if not people:
        return []
    lines: list[Line] = [[(title, "bold")]]
    labels = max(len(cut(each.label, 40)) for each in people)
    for each in people:
        label = cut(each.label, 40).ljust(labels)
        text = f"  {label}  {counted(each.count, noun)}, longest {duration(each.seconds)}"
        if each.pool != "default":
            text += f", pool {each.pool}"
        line: Line = [(text, "")]
        if each.holding:
            some = "1 holds" if each.holding == 1 else f"{each.holding} hold"
            every = "each holds" if each.holding == each.count else some
            line.append((f", {every} one already", WARN))
        lines.append(line)
        if each.where:
            if sum(len(text) for text, _ in line) + len(each.where) + 2 > width:
                lines.append([(f"      {each.where}", "")])
            else:
                line.append((f", {each.where}", ""))
    return lines


def _events(texts: Sequence[str], width: int) -> list[Line]:
    """Show how each begins: what happened stands there, and advice behind it."""
    lines: list[Line] = [[("Events", "bold")]] if texts else []
    for text in texts:
        whole = wrapped(f"  {text}", width)
        lines += whole[:EVENT_LINES]
        if whole[EVENT_LINES:]:
            (last, style) = lines[-1][0]
            lines[-1] = [(cut(f"{last} …", width), style)]
    return lines


def _fitted(
    top: Sequence[Line], table: list[Line], sections: Sequence[list[Line]], view: View
) -> list[Line]:
    """Give each part its room: the rows first, then what is most wrong."""
    height = max(view.height or 0, LEAST_ROWS + 4)
    heading, rows, total = table[0], table[1:-1], table[-1]
    # One line less than there are, or the terminal would scroll.
    room = height - 1 - len(top) - 2
    wanted = min(len(rows), max(LEAST_ROWS, room // 2))
    below: list[Line] = []
    for section in sections:
        left = room - wanted - len(below) - 1
        if section and left >= min(len(section), 2):
            below += [[], *section[: min(left, 5)]]
    shown = _scrolled(rows, view.first, room - len(below))
    lines = [*top, heading, *shown, total, *below]
    return [_cut(line, view.width) for line in lines[: height - 1]]


def _scrolled(rows: Sequence[Line], first: int, room: int) -> list[Line]:
    if len(rows) <= room:
        return [*rows]
    first = max(0, min(first, len(rows) - (room - 1)))
    hidden = len(rows) - (room - 1)
    return [*rows[first : first + room - 1], [(f"  … {hidden} more: up, down", DIM)]]


def _cut(line: Line, width: int) -> Line:
    """Cut a line where the terminal ends; it would wrap, and take another one's place."""
    found: Line = []
    left = width
    for text, style in line:
        if len(text) > left:
            found.append((cut(text, left), style))
            break
        found.append((text, style))
        left -= len(text)
    return found


def row_as_json(row: Row) -> dict[str, Any]:
    """Return a row for programs; durations in seconds."""
    plain = {name: value for name, value in vars(row).items() if not isinstance(value, Times)}
    for name in ("wait", "hold", "connect"):
        times: Times = getattr(row, name)
        plain[name] = {"p50": times.p50, "p99": times.p99}
    return plain
