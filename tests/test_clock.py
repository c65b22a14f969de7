"""The one clock, under what tests do to the clocks of others."""

import time

import pytest

from pyramid_dbpool import clock
from pyramid_dbpool.stopping import Stop
from tests.support.guests import CLOCKS
from tests.support.programs import run_program


@pytest.mark.parametrize("tool", CLOCKS)
def test_seconds_pass(tool: str) -> None:
    """It goes on where it was, and says what the kernel says."""
    before = clock.monotonic()
    with CLOCKS[tool]():
        meanwhile = clock.monotonic()
        assert before < meanwhile < clock.monotonic()
    assert meanwhile < clock.monotonic()
    assert before <= time.monotonic() <= clock.monotonic()


@pytest.mark.parametrize("tool", CLOCKS)
def test_a_wait_takes_its_time(tool: str) -> None:
    """It ends, neither early nor never, and calls nothing that an app's test counts."""
    with CLOCKS[tool]():
        began = clock.monotonic()
        clock.sleep(0.01)
        assert not Stop().wait(0.01)
    assert clock.monotonic() - began >= 0.02


def test_imported_while_time_stands_still_it_goes_on() -> None:
    """An app's test may be the first to import it."""
    program = """
from freezegun import freeze_time
with freeze_time("2012-01-14"):
    from pyramid_dbpool import clock
    first = clock.monotonic()
    assert first < clock.monotonic() < 1e9
assert first < clock.monotonic()
"""
    done = run_program(program)
    assert done.returncode == 0, done.stderr


def test_imported_before_gevent_patches_it_lets_others_go_on() -> None:
    """A worker that is patched late, as gunicorn's with a preloaded app, waits as a greenlet."""
    program = """
from pyramid_dbpool import clock
from gevent import monkey
monkey.patch_all()
import gevent
seen = []
other = gevent.spawn(lambda: seen.append(1))
clock.sleep(0.01)
assert seen == [1]
"""
    done = run_program(program)
    assert done.returncode == 0, done.stderr
