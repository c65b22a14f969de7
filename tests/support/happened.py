"""What was told of the pools while a test ran: the log's lines as events, with their fields."""

from collections.abc import Callable

import pytest

from pyramid_dbpool.events import Event, Kind, recent

Happened = Callable[..., list[Event]]


@pytest.fixture
def happened() -> Happened:
    """Give what lists the events of this test, all of them or those of some kinds."""
    before = max((each.number for each in recent()), default=0)

    def events(*kinds: Kind) -> list[Event]:
        return [each for each in recent(before) if not kinds or each.kind in kinds]

    return events
