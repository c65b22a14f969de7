"""What was told of the pools while a test ran: the log's lines as events, with their fields."""

import logging
from collections.abc import Callable, Iterator

import pytest

from pyramid_dbpool.events import Event, Kind, recent
from pyramid_dbpool.pool import watch

Happened = Callable[..., list[Event]]

_WATCH = logging.getLogger(watch.__name__)


@pytest.fixture
def happened() -> Happened:
    """Give what lists the events of this test: those of some kinds, or all but the leaks."""
    before = max((each.number for each in recent()), default=0)
    # What the collector finds now may be another test's.
    usual = frozenset(Kind) - {Kind.LEAK}

    def events(*kinds: Kind) -> list[Event]:
        return [each for each in recent(before) if each.kind in (kinds or usual)]

    return events


def is_no_leak(record: logging.LogRecord) -> bool:
    """Tell whether a line is about something else than what the collector has found."""
    return getattr(record, "dbpool_event", None) != Kind.LEAK


@pytest.fixture(autouse=True, scope="session")
def no_leaks_of_others() -> Iterator[None]:
    """Keep what another test has left to the collector out of the log."""
    _WATCH.addFilter(is_no_leak)
    yield
    _WATCH.removeFilter(is_no_leak)


@pytest.fixture
def leaks_are_logged() -> Iterator[None]:
    """Have what the collector finds in the log."""
    _WATCH.removeFilter(is_no_leak)
    yield
    _WATCH.addFilter(is_no_leak)
