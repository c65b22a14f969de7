"""Run the scenarios on `ManagedPool`, or on the pool that CONFORMANCE_POOL names."""

import os
from collections.abc import Iterator

import pytest

from .adapters import load
from .lab import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Give a scenario its bench; what the pool does not offer is an error here."""
    bench = Lab(load(os.environ.get("CONFORMANCE_POOL", "ManagedPool")))
    yield bench
    bench.close()
