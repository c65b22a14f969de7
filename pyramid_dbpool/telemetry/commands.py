"""What a process is told to do with its pools, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from ..engines import registry
from ..pool.managed import ManagedPool
from .http_messages import Refused

__all__ = ["COMMANDS", "run"]

Command = Callable[[ManagedPool, str, dict[str, Any]], None]


def run(name: str, said: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked, with one pool or all of them; return the names of those.

    :param said: `pool` (None: all that there are), `by` (who asks, for the log), and the
        command's own arguments.
    :raises Refused: that cannot be done.
    """
    arguments = {each: value for each, value in said.items() if each not in ("pool", "by")}
    unknown = arguments.keys() - _ARGUMENTS.get(name, frozenset())
    if unknown:
        raise Refused(
            HTTPStatus.BAD_REQUEST, f"{name} takes no {', '.join(sorted(map(repr, unknown)))}"
        )
    by, wanted = said.get("by"), said.get("pool")
    if by is not None and not isinstance(by, str):
        raise Refused(HTTPStatus.BAD_REQUEST, "by has to be a text that says who asks")
    done = []
    try:
        for pool_name, pool in _chosen(wanted):
            COMMANDS[name](pool, by or "somebody", arguments)
            done.append(pool_name)
    except ValueError as error:
        after = f" (it was done for {', '.join(done)})" if done else ""
        raise Refused(HTTPStatus.BAD_REQUEST, f"{error}{after}") from error
    return {"pools": done}


def _chosen(wanted: object) -> list[tuple[str, ManagedPool]]:
    engines = registry.live_engines()
    names = [name for name, _ in engines]
    if wanted is not None and wanted not in names:
        listed = ", ".join(dict.fromkeys(names)) or "none"
        raise Refused(
            HTTPStatus.NOT_FOUND, f"this process has no pool {wanted!r}; it has {listed}"
        )
    found = [
        (name, engine.pool)
        for name, engine in engines
        if wanted in (None, name) and isinstance(engine.pool, ManagedPool)
    ]
    if wanted is not None and not found:
        raise Refused(HTTPStatus.BAD_REQUEST, f"pool {wanted!r} takes no commands")
    return found


def _refresh(pool: ManagedPool, by: str, _arguments: dict[str, Any]) -> None:
    pool.refresh(by=by)


def _resize(pool: ManagedPool, by: str, arguments: dict[str, Any]) -> None:
    pool.resize(arguments.get("size"), arguments.get("max_overflow"), by=by)


def _pause(pool: ManagedPool, by: str, _arguments: dict[str, Any]) -> None:
    pool.pause(by=by)


def _resume(pool: ManagedPool, by: str, _arguments: dict[str, Any]) -> None:
    pool.resume(by=by)


COMMANDS: dict[str, Command] = {
    "refresh": _refresh,
    "resize": _resize,
    "pause": _pause,
    "resume": _resume,
}
_ARGUMENTS = {"resize": frozenset({"size", "max_overflow"})}
