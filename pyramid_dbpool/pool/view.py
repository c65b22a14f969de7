"""Who holds what and who waits, right now, and where in the code each of them is.

What stands in the books is copied under the pool's lock; texts, which the app's own code makes,
and stacks, for which all objects of the process may be walked over, are made without it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from .entry import PooledEntry
from .labels import has_ended, is_same_holder
from .leases import is_with_a_holder, label_text, stacks_of, thread_names, worker_text
from .line import Line
from .stats import Holder, PoolSnapshot

__all__ = ["Holding", "PoolView", "Seen", "Waiting", "seen_locked", "view_of"]


@dataclass(frozen=True)
class Holding:
    """One connection that is checked out.

    - `label`: what its holder is called.
    - `seconds`: for how long it has been out.
    - `worker`: the thread or greenlet that took it, such as `thread 'MainThread'`.
    - `ident`: `threading.get_ident()` of it.
    - `server_pid`: what the server's list of sessions calls the connection; None: not known.
    - `stack`: where that thread or greenlet is now, the innermost function first; empty: it
      cannot be found, was not asked for, or says nothing, because the holder is `over`.
    - `over`: whether the holder has ended (its request, its message), and has left the connection
      behind: its thread is at other work, which has nothing to do with it.
    - `taken`: with `trace_checkouts`, where in the app's code it was taken.
    """

    label: str
    seconds: float
    worker: str
    ident: int
    server_pid: int | None
    stack: tuple[str, ...] = ()
    over: bool = False
    taken: tuple[str, ...] = ()


@dataclass(frozen=True)
class Waiting:
    """One caller in the line; `holds`: whether it has a connection of this pool already."""

    label: str
    seconds: float
    worker: str
    ident: int
    holds: bool
    stack: tuple[str, ...] = ()


@dataclass(frozen=True)
class PoolView:
    """A pool at one moment: its numbers, who holds and who waits, the oldest first."""

    snapshot: PoolSnapshot
    holders: tuple[Holding, ...]
    waiters: tuple[Waiting, ...]


class _Lease(NamedTuple):
    label: object | None
    ident: int
    seconds: float
    server_pid: int | None
    taken: tuple[str, ...]


class _Place(NamedTuple):
    label: object | None
    ident: int
    seconds: float


L = TypeVar("L", _Lease, _Place)


class Seen(NamedTuple):
    """What the books say, before anybody is named."""

    leases: list[_Lease]
    places: list[_Place]


def seen_locked(line: Line[PooledEntry], now: float) -> Seen:
    """Copy who holds and who waits, the oldest first."""
    leases = [
        _Lease(each.label, each.holder, now - each.leased_at, each.server_pid, each.taken)
        for each in line.members
        if is_with_a_holder(each)
    ]
    places = [_Place(each.label, each.ident, now - each.since) for each in line.waiters]
    return Seen(_oldest_first(leases), _oldest_first(places))


def _oldest_first(found: list[L]) -> list[L]:
    return sorted(found, key=lambda each: -each.seconds)


def view_of(numbers: PoolSnapshot, seen: Seen, *, stacks: bool) -> PoolView:
    """Name whom the books show; never with the pool's lock held.

    :param numbers: of the same moment, without its holders.
    :param stacks: whether to say where in the code they are, too.
    """
    idents = {each.ident for each in seen.leases} | {each.ident for each in seen.places}
    where = stacks_of(idents) if stacks else {}
    names = thread_names()

    def named(each: _Lease | _Place) -> tuple[str, float, str, int]:
        worker = worker_text(each.ident, names)
        return label_text(each.label) or worker, each.seconds, worker, each.ident

    def holding(each: _Lease) -> Holding:
        over = has_ended(each.label)
        # Whoever works in its thread by now would be blamed for it.
        place = () if over else where.get(each.ident, ())
        return Holding(*named(each), each.server_pid, place, over, each.taken)

    holders = tuple(map(holding, seen.leases))
    waiters = tuple(
        Waiting(*named(each), _holds(each, seen.leases), where.get(each.ident, ()))
        for each in seen.places
    )
    listed = tuple(Holder(each.label, each.seconds) for each in holders)
    return PoolView(dataclasses.replace(numbers, holders=listed), holders, waiters)


def _holds(waiter: _Place, leases: Sequence[_Lease]) -> bool:
    return any(
        is_same_holder(each.label, each.ident, waiter.label, waiter.ident) for each in leases
    )
