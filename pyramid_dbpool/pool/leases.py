"""Who holds a pool's connections: the names, and the place in the code where each is now."""

from __future__ import annotations

import gc
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from types import FrameType
from typing import Any, NamedTuple, TypeVar

from ..drivers.app_errors import DRIVERS, named_place
from .inheritance import may_look_at_threads
from .labels import ENDED
from .line import LEASED, E, Entry, Line
from .stats import Holder

T = TypeVar("T")

# How many characters of a label are shown.
LONGEST_LABEL = 200
# How many of the app's functions a place names, the innermost first.
NAMED_FRAMES = 4
# The same for a stack, which is read when somebody has asked for it.
STACK_FRAMES = 8
# How many groups of holders a text names.
NAMED_HOLDERS = 5
# What stands between the app and its server, and between the app and its database.
_NOT_THE_APPS = frozenset(
    {"billiard", "celery", "gevent", "greenlet", "gunicorn", "kombu", "paste", "waitress"}
    | {"pyramid", "pyramid_dbpool", "pyramid_debugtoolbar", "pyramid_retry", "pyramid_tm"}
    | {"transaction", "webob"}
    | {"sqlalchemy", "uwsgi", "zope"}
    | DRIVERS
    | set(sys.stdlib_module_names)
)


class Lease(NamedTuple):
    """What the pool knows of a connection that is checked out.

    - `label`: what its holder has called itself, if it has.
    - `ident`: `threading.get_ident()` of its holder.
    - `held_seconds`: for how long.
    - `taken`: where in the app's code, if that was noted.
    """

    label: object | None
    ident: int
    held_seconds: float
    taken: tuple[str, ...] = ()


def leases(line: Line[E], now: float) -> list[Lease]:
    """List what is checked out, under the pool's lock; `named` without it."""
    return [
        Lease(each.label, each.holder, now - each.leased_at)
        for each in line.members
        if is_with_a_holder(each)
    ]


def is_with_a_holder(entry: Entry) -> bool:
    """Tell whether a connection is checked out; one that was just opened has no holder yet."""
    return entry.state is LEASED and entry.holder != 0


def named(leases: Iterable[Lease]) -> tuple[Holder, ...]:
    """Name the holders; calls what the app has written, so never with the pool's lock held."""
    threads = thread_names()
    return tuple(
        Holder(label_text(each.label) or worker_text(each.ident, threads), each.held_seconds)
        for each in leases
    )


def thread_names() -> dict[int | None, str]:
    """Return the name of each thread by its ident."""
    return {each.ident: each.name for each in threading.enumerate()}


def label_text(label: object | None) -> str:
    """Return a label's text; empty if there is none."""
    # An `identify` that fails must not hide the error that the label is for.
    with suppress(Exception):
        return "" if label is None else _shortened(str(label))
    return ""


def _shortened(label: str) -> str:
    # It stands in each error, event and answer: one of a megabyte would fill the log.
    return label if len(label) <= LONGEST_LABEL else f"{label[:LONGEST_LABEL]}…"


def worker_text(ident: int, threads: dict[int | None, str]) -> str:
    """Say which thread or greenlet that is, such as `thread 'MainThread'`.

    :param threads: their `thread_names`.
    """
    name, kind = threads.get(ident), worker_kind()
    # A greenlet that has written to the log stands among the threads with a made-up name.
    if name is None or (kind == "greenlet" and name.startswith("Dummy-")):
        return f"{kind} {ident}"
    return f"thread {name!r}"


def worker_kind() -> str:
    """Say what callers are told apart by: gevent and eventlet put greenlets in threads' place."""
    return "thread" if threading.get_ident.__module__ == "_thread" else "greenlet"


class Group(NamedTuple):
    """All connections of the holders with one label.

    - `connections`: how many these are.
    - `longest`: for how many seconds the one that has been out for longest is.
    - `total`: the seconds of all of them together.
    """

    label: str
    connections: int
    longest: float
    total: float


def groups(holders: Iterable[Holder]) -> list[Group]:
    """Group holders by their labels: what has kept most from others comes first."""
    seconds = defaultdict[str, list[float]](list)
    for each in holders:
        seconds[each.label].append(each.held_seconds)
    found = [Group(label, len(held), max(held), sum(held)) for label, held in seconds.items()]
    # Neither by count nor by age: one that has leaked hides no view that has all the others, and
    # many short ones hide no leak.
    return sorted(found, key=lambda each: -each.total)


def holders_text(holders: Iterable[Holder]) -> str:
    """Return a sentence that names who holds most, how many, and for how long."""
    found = groups(holders)
    listed = [_group_text(each) for each in found[:NAMED_HOLDERS]]
    if others := found[NAMED_HOLDERS:]:
        count = sum(each.connections for each in others)
        more = "1 other" if len(others) == 1 else f"{len(others)} others"
        listed.append(f"and {more}" + (f" with {count}" if count > len(others) else ""))
    leak = ""
    if any(each.label.endswith(ENDED) for each in found):
        # Whoever raises the pool's size for it has the same a little later.
        leak = (
            " Who has ended has not given its connection back: a leak, which a larger pool does"
            " not mend."
        )
    return f" Longest holders: {'; '.join(listed)}.{leak}" if listed else ""


def _group_text(group: Group) -> str:
    if group.connections == 1:
        return f"{group.label} for {group.longest:.1f} s"
    return f"{group.label}: {group.connections} connections, the longest for {group.longest:.1f} s"


def places(idents: Collection[int]) -> dict[int, str]:
    """Say where in the app's code threads and greenlets are now; those not found are left out."""
    return _of_frames(idents, place)


def stacks_of(idents: Collection[int]) -> dict[int, tuple[str, ...]]:
    """Give the stacks of threads and greenlets, innermost first; those not found are left out."""
    return _of_frames(idents, stack)


def stack(frame: FrameType) -> tuple[str, ...]:
    """Name the app's functions in a stack; where there are none, the libraries'."""
    frames = list(islice(_app_frames(frame), STACK_FRAMES)) or list(
        islice(_frames(frame), STACK_FRAMES)
    )
    return tuple(named_place(each.f_code, each.f_lineno or 0) for each in frames)


def _of_frames(idents: Collection[int], make: Callable[[FrameType], T]) -> dict[int, T]:
    """Make something of the frame in which each thread or greenlet is."""
    # Only texts: whoever keeps a frame keeps what is in it, a connection perhaps.
    frames = sys._current_frames() if may_look_at_threads() else {}
    found = {ident: make(frame) for ident, frame in frames.items() if ident in idents}
    me = threading.get_ident()
    if me in idents and me not in found:
        # A greenlet that runs is not suspended anywhere.
        found[me] = make(sys._getframe())
    return found | _of_greenlets(set(idents) - found.keys(), make)


def taken_text(taken: Sequence[str]) -> str:
    """Say where in the app's code a connection was taken."""
    return "taken in " + ", called by ".join(taken[:NAMED_FRAMES])


def place(frame: FrameType) -> str:
    """Say where in the app's code a frame is, the innermost of its functions first."""
    found = islice(_app_frames(frame), NAMED_FRAMES)
    app_frames = [named_place(each.f_code, each.f_lineno) for each in found]
    if not app_frames:
        return f"and its {worker_kind()} is not in the app's code any more"
    return "now in " + ", called by ".join(app_frames)


def is_the_apps(frame: FrameType) -> bool:
    """Tell whether a frame is that of the app's own code."""
    module = str(frame.f_globals.get("__name__", ""))
    return module.partition(".")[0] not in _NOT_THE_APPS


def _app_frames(frame: FrameType) -> Iterator[FrameType]:
    return filter(is_the_apps, _frames(frame))


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _of_greenlets(idents: Collection[int], make: Callable[[FrameType], T]) -> dict[int, T]:
    """Find the frames in which greenlets are suspended; gevent's idents are their ids."""
    greenlet = sys.modules.get("greenlet")
    if greenlet is None or not idents:
        return {}
    kind: Any = greenlet.greenlet
    # A walk over all objects: tens of milliseconds, and only for a warning.
    return {
        id(each): make(frame)
        for each in gc.get_objects()
        if id(each) in idents
        and isinstance(each, kind)
        # Another thread may resume it just now.
        and (frame := each.gr_frame) is not None
    }
