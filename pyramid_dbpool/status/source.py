"""Where the reports come from, and who does what a command says: the processes of the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..engines.registry import process_engines
from ..pool.managed import ManagedPool
from ..telemetry.report import process_report
from .overview import HostPool, Overview

__all__ = ["Source"]

_ALONE = (
    "Only the process that has answered is shown: with dbpool.run_dir, all processes of this host"
    " would be."
)


class Source:
    """Asks this process."""

    def overview(self) -> Overview:
        """Ask."""
        return Overview([process_report()], note=_ALONE)

    def command(self, name: str, key: str, by: str, **arguments: int) -> dict[int, str | None]:
        """Have each process that has a pool do something with it.

        :param name: "refresh", "resize", "pause" or "resume".
        :param key: the pool's, `HostPool.key`.
        :param by: who asks.
        :return: for each process what went wrong, as its predicate; None: nothing.
        :raises ValueError: there is no such pool, or it cannot do that.
        """
        pool = next((each for each in self.overview().pools if each.key == key), None)
        if pool is None:
            raise ValueError("There is no such pool any more.")
        return {pid: _here(name, pool, by, arguments) for pid in pool.pids}


def _here(name: str, pool: HostPool, by: str, arguments: dict[str, Any]) -> str | None:
    for made in process_engines():
        is_it = made.settings.name == pool.name and made.settings.masked_url == pool.database
        if is_it and isinstance(made.engine.pool, ManagedPool):
            do: Callable[..., object] = getattr(made.engine.pool, name)
            do(by=by, **arguments)
            return None
    return "has a pool of another class, which cannot do that"
