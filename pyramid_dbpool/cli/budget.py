"""What a server allows beside what a configuration can open: does it fit, and how often?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..engines.server_view import Limit, ServerView
from ..settings import PoolSettings

__all__ = ["Shared", "shared_servers"]


@dataclass
class Shared:
    """The pools of a configuration that are on one server.

    - `wrong`: what cannot work, in sentences for people.
    - `warnings`: what will not work for long.
    - `facts`: the name of each limit, and what it allows, in words.
    - `fits`: how many processes of this configuration do.
    """

    view: ServerView
    pools: list[PoolSettings]
    wrong: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    fits: str | None = None
    _least: float = math.inf


def shared_servers(pools: Iterable[PoolSettings], views: Mapping[str, ServerView]) -> list[Shared]:
    """Put the pools together that are on one server, and compare.

    :param views: what the servers have said, by the pool's name.
    """
    found: dict[object, Shared] = {}
    for pool in pools:
        if pool.name in views:
            at = _address(pool)
            found.setdefault(at, Shared(views[pool.name], [])).pools.append(pool)
    for shared in found.values():
        for limit, concerned in _limits(shared, views):
            _compare(shared, limit, concerned)
    return list(found.values())


def _address(pool: PoolSettings) -> object:
    url = pool.url
    if url.host:
        return url.get_backend_name(), url.host, url.port
    # A file, a Unix socket, or what connect_args say.
    database = url.database if url.get_backend_name() == "sqlite" else None
    return url.get_backend_name(), database, str(sorted(pool.driver_arguments.items(), key=str))


def _limits(
    shared: Shared, views: Mapping[str, ServerView]
) -> Iterator[tuple[Limit, Sequence[PoolSettings]]]:
    """Yield each limit of a server once, with the pools that it is for."""
    if shared.view.all is not None:
        yield shared.view.all, shared.pools
    for kind in ("role", "database"):
        named: dict[str, tuple[Limit, list[PoolSettings]]] = {}
        for pool in shared.pools:
            limit: Limit | None = getattr(views[pool.name], kind)
            if limit is not None:
                named.setdefault(limit.name, (limit, []))[1].append(pool)
        yield from named.values()


def _compare(shared: Shared, limit: Limit, pools: Sequence[PoolSettings]) -> None:
    shared.facts.append((limit.name, _lets(limit)))
    if limit.allowed is None:
        return
    capacities = [pool.capacity for pool in pools]
    allowed = f"{limit.name} lets in {limit.allowed}{_less(limit)}"
    if None in capacities:
        unlimited = ", ".join(repr(p.name) for p in pools if p.capacity is None)
        text = f"pool {unlimited} has no limit, and {allowed}: a burst fills the server"
        shared.warnings.append(f"{text}; set pool_size and max_overflow.")
        return
    most = sum(capacity or 0 for capacity in capacities)
    opens = f"one process may open {most} connections ({_sum(pools)})"
    if shared.view.pooler:
        # How many it lets in itself is its own setting.
        return
    if limit.allowed / most < shared._least:
        shared._least = limit.allowed / most
        number = limit.allowed // most
        fit = "none fits" if number == 0 else "1 fits" if number == 1 else f"{number} fit"
        shared.fits = f"{fit}, with {most} connections each ({_sum(pools)})"
    if most > limit.allowed:
        keys = " or ".join(pool.source("pool_size") for pool in pools)
        text = f"{opens}, and {allowed}: lower {keys} and what may overflow, or raise the limit"
        shared.wrong.append(f"{text}.")
    elif 2 * most > limit.allowed:
        text = (
            f"{opens}, and {allowed}: that is enough for one process, and there are usually more"
        )
        shared.warnings.append(f"{text}, a worker or the next release beside the last one.")


def _sum(pools: Sequence[PoolSettings]) -> str:
    return " + ".join(f"{pool.capacity} in pool {pool.name!r}" for pool in pools)


def _less(limit: Limit) -> str:
    whole = (limit.allowed or 0) + limit.reserved
    return f" ({whole}, less {limit.reserved} reserved)" if limit.reserved else ""


def _lets(limit: Limit) -> str:
    lets = "no limit" if limit.allowed is None else f"{limit.allowed}{_less(limit)}"
    now = "" if limit.connected is None else f", {limit.connected} connected now"
    return f"{lets}{now}"
