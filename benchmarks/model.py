"""What a benchmark measures and how it is judged."""

import gc
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

__all__ = ["Benchmark", "Figure", "Run", "measuring", "median", "percentile"]


@dataclass(frozen=True)
class Figure:
    """One line of the results: a quantity, what each pool showed, and the target."""

    what: str
    unit: str
    values: dict[str, float | None]
    """By pool; None where a pool cannot do the work or did not finish it."""
    target: str
    reached: bool | None
    """None when there is nothing of ours to judge."""
    ratio: float | None = None
    """Ours against the peer that the target names."""
    note: str = ""


@dataclass(frozen=True)
class Run:
    """How thoroughly to measure."""

    quick: bool = False

    def choose(self, full: int, quick: int) -> int:
        """Return a number of repetitions."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Benchmark:
    """A row of the table: its name, what it is about, and how to measure it."""

    name: str
    about: str
    measure: Callable[[Run], list[Figure]]


@dataclass
class Samples:
    """Repeated measurements of several pools."""

    by_pool: dict[str, list[float]] = field(default_factory=dict)

    def add(self, pool: str, value: float) -> None:
        """Keep one measurement."""
        self.by_pool.setdefault(pool, []).append(value)

    def medians(self) -> dict[str, float | None]:
        """Return each pool's median."""
        return {pool: statistics.median(values) for pool, values in self.by_pool.items()}


@contextmanager
def measuring() -> Iterator[None]:
    """Keep the garbage collector out of a measurement, as `timeit` does."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` (0 to 1) of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def quotient(values: dict[str, float | None], ours: str, peer: str) -> float | None:
    """Return our figure divided by a peer's, or None where one is missing."""
    mine, theirs = values.get(ours), values.get(peer)
    return None if mine is None or not theirs else mine / theirs


def at_most(value: float | None, limit: float) -> bool | None:
    """Judge a figure that should be small."""
    return None if value is None else value <= limit


def at_least(value: float | None, limit: float) -> bool | None:
    """Judge a figure that should be large."""
    return None if value is None else value >= limit


def machine_load() -> float:
    """Return the run queue's length of the last minute: what else the machine did."""
    return os.getloadavg()[0]
