"""What is told is in the log, with its numbers as fields, and is kept for whoever looks."""

import ctypes
import logging
import os
from collections.abc import Callable

import pytest

from pyramid_dbpool import events
from pyramid_dbpool.events import KEPT, Kind, recent, tell

log = logging.getLogger(__name__)


def last() -> int:
    return max((each.number for each in recent()), default=0)


def test_an_event_is_a_line_with_fields(caplog: pytest.LogCaptureFixture) -> None:
    """The same words in both; the line says where it was told."""
    before = last()
    tell(log, Kind.HELD, "pool 'a': 100 % full", "a", logging.ERROR, seconds=2.5, label="GET /")
    (record,) = caplog.records
    assert (record.getMessage(), record.levelname) == ("pool 'a': 100 % full", "ERROR")
    assert (record.funcName, record.name) == ("test_an_event_is_a_line_with_fields", __name__)
    assert vars(record) | {
        "dbpool_event": "held",
        "dbpool_pool": "a",
        "dbpool_seconds": 2.5,
        "dbpool_label": "GET /",
    } == vars(record)
    (event,) = recent(before)
    assert (event.kind, event.pool, event.level) == (Kind.HELD, "a", "ERROR")
    assert (event.text, event.fields) == (
        "pool 'a': 100 % full",
        {"seconds": 2.5, "label": "GET /"},
    )


def test_a_pool_without_a_name_is_the_default_one() -> None:
    """Whoever looks tells pools apart by their names."""
    before = last()
    tell(log, Kind.BACK, "the pool: back", None)
    assert [each.pool for each in recent(before)] == ["default"]


def test_only_the_youngest_are_kept() -> None:
    """A process that warns for weeks does not grow."""
    first = last()
    for number in range(KEPT + 5):
        tell(log, Kind.HELD, f"{number}", "a", logging.DEBUG)
    kept = recent()
    assert [each.text for each in kept] == [f"{number}" for number in range(5, KEPT + 5)]
    assert [each.number for each in kept] == list(range(first + 6, first + KEPT + 6))


@pytest.mark.parametrize("fork", [os.fork, ctypes.PyDLL(None).fork], ids=["fork", "uWSGI's"])
def test_a_child_tells_its_own(fork: Callable[[], int]) -> None:
    """What the parent has told stands in the parent's answer already."""
    tell(log, Kind.HELD, "in the parent", "a", logging.DEBUG)
    if (pid := fork()) == 0:
        tell(log, Kind.HELD, "in the child", "a", logging.DEBUG)
        os._exit(0 if [each.text for each in events.recent()] == ["in the child"] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
