"""What the run used and what it went without, for the summary at its end."""

from collections import Counter
from collections.abc import Iterator
from typing import NoReturn

import pytest

# How a test's reason to be skipped starts when a server or a driver is missing.
REASON = "not available: "

_used: dict[str, str] = {}
_missing: dict[str, str] = {}


def used(name: str, version: str, source: str) -> None:
    """Note a server, or a driver, that the run used."""
    _used[name] = f"{version}, {source}"


def skip_without(name: str, reason: str) -> NoReturn:
    """Skip the test that asks for what cannot be had."""
    _missing[name] = reason
    pytest.skip(f"{REASON}{name}: {reason}")


def summary(skipped: list[pytest.TestReport]) -> Iterator[str]:
    """Give a line for each server: what was used, and what was skipped for want of it."""
    yield from (f"{name} {what}" for name, what in sorted(_used.items()))
    tests = Counter(name for report in skipped for name in _missing if _wanted(report, name))
    for name, reason in sorted(_missing.items()):
        yield f"{name} NOT AVAILABLE, {tests[name]} tests skipped: {reason}"


def _wanted(report: pytest.TestReport, name: str) -> bool:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
    return f"{REASON}{name}: " in reason
