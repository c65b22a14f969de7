"""Sums, differences and quantiles of the histograms in reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import add, sub
from typing import Any

__all__ = ["merged", "minus", "quantile"]

Histogram = Mapping[str, Any]


def quantile(histogram: Histogram, q: float) -> float | None:
    """Estimate how long the given share of the durations took at most, in seconds.

    Within a bucket they are taken to be spread evenly. What is above the highest bound is said to
    be that bound: longer than that, nobody knows how long.

    :param q: the share, from 0 to 1.
    :return: None where nothing was counted.

    >>> quantile({"bounds_seconds": [1.0, 2.0], "counts": [1, 1, 0], "sum_seconds": 2.5}, 0.75)
    1.5
    """
    bounds, counts = histogram["bounds_seconds"], histogram["counts"]
    total = sum(counts)
    if total <= 0:
        return None
    wanted, seen, lower = min(max(q, 0.0), 1.0) * total, 0, 0.0
    for upper, here in zip(bounds, counts, strict=False):
        if here > 0 and seen + here >= wanted:
            return float(lower + (upper - lower) * max(0.0, wanted - seen) / here)
        seen, lower = seen + here, upper
    return float(lower)


def merged(histograms: Iterable[Histogram]) -> dict[str, Any] | None:
    """Add histograms up; None if there are none.

    One with other bounds, as of another version, cannot be added, and is left out.
    """
    found: dict[str, Any] | None = None
    for each in histograms:
        if found is None:
            found = _copy(each)
        elif list(each["bounds_seconds"]) == found["bounds_seconds"]:
            found["counts"] = list(map(add, found["counts"], each["counts"]))
            found["sum_seconds"] += each["sum_seconds"]
    return found


def minus(new: Histogram, old: Histogram) -> dict[str, Any]:
    """Return what has been counted between two reports of one pool.

    Where something went backwards, the pool was made anew in between: then all of `new` is.
    """
    found = _copy(new)
    if list(old["bounds_seconds"]) != found["bounds_seconds"]:
        return found
    counts = list(map(sub, new["counts"], old["counts"]))
    # Counts of the first bucket include checkouts that are still out, and a returned lease that
    # nobody received takes one back.
    if min(counts[1:], default=0) < 0 or sum(counts) < 0:
        return found
    seconds = max(0.0, new["sum_seconds"] - old["sum_seconds"])
    return found | {"counts": [max(0, each) for each in counts], "sum_seconds": seconds}


def _copy(histogram: Histogram) -> dict[str, Any]:
    return {
        "bounds_seconds": list(histogram["bounds_seconds"]),
        "counts": list(histogram["counts"]),
        "sum_seconds": float(histogram["sum_seconds"]),
    }
