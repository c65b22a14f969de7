"""Sums, differences and quantiles of histograms."""

import pytest

from pyramid_dbpool.telemetry.numbers import merged, minus, quantile
from tests.support.reports import histogram

FAST, SLOW = 0.001, 0.5


def test_a_quantile_lies_in_its_bucket() -> None:
    """The half of all is fast, the slowest hundredth is not."""
    found = histogram({FAST: 98, SLOW: 2})
    half, last = quantile(found, 0.5), quantile(found, 0.99)
    assert half is not None and last is not None
    assert 0.0005 < half <= FAST
    assert 0.1 < last <= SLOW


def test_of_nothing_there_is_no_quantile() -> None:
    """No number is better than a zero that looks like a measurement."""
    assert quantile(histogram({}), 0.5) is None


def test_what_is_above_all_bounds_is_said_to_be_the_highest() -> None:
    """Nobody knows how long it took."""
    assert quantile(histogram({99.0: 3}), 0.5) == 10.0


def test_the_extremes_are_bounds_of_what_was_counted() -> None:
    """Not of buckets that are empty."""
    found = histogram({0.01: 4})
    assert quantile(found, 0.0) == 0.005
    assert quantile(found, 1.0) == 0.01


def test_histograms_of_many_processes_add_up() -> None:
    """One with other bounds is left out."""
    other = {"bounds_seconds": [1.0], "counts": [5, 5], "sum_seconds": 9.0}
    found = merged([histogram({FAST: 1}), other, histogram({FAST: 2, SLOW: 1})])
    assert found is not None
    assert found == histogram({FAST: 3, SLOW: 1}) | {"sum_seconds": pytest.approx(0.503)}
    assert sum(found["counts"]) == 4
    assert merged([]) is None


def test_merging_changes_none_of_them() -> None:
    """They are shown one by one as well."""
    first = histogram({FAST: 1})
    merged([first, histogram({FAST: 2})])
    assert first == histogram({FAST: 1})


def test_a_difference_is_what_came_in_between() -> None:
    """Which is what the last seconds were like."""
    before, now = histogram({FAST: 5}), histogram({FAST: 7, SLOW: 1})
    assert minus(now, before) == histogram({FAST: 2, SLOW: 1})


def test_a_pool_that_was_made_anew_begins_at_zero() -> None:
    """As in a process that took the place of another one."""
    before, now = histogram({SLOW: 5}), histogram({FAST: 2})
    assert minus(now, before) == now
    assert minus(now, {"bounds_seconds": [1.0], "counts": [1, 0], "sum_seconds": 1.0}) == now
