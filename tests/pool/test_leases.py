"""Where in the code a holder is: threads, and greenlets."""

import gc
import sys
import threading
from typing import Any

import greenlet
import pytest

from pyramid_dbpool.pool import leases
from tests.support.makers import Maker
from tests.support.programs import run_program

GREENLETS = """
from gevent import monkey
monkey.patch_all()
import logging, gevent
from gevent.event import Event
from sqlalchemy import create_engine
from pyramid_dbpool import ManagedPool

said, over = [], Event()

class Listener(logging.Handler):
    def emit(self, record):
        if record.dbpool_event == "held":
            said.append(record.getMessage())
        if len(said) == 3:
            over.set()

logging.getLogger().addHandler(Listener())
engine = create_engine("sqlite:///%s", poolclass=ManagedPool, hold_warning=0.05)

def holding():
    with engine.connect():
        over.wait(20)

gevent.joinall([gevent.spawn(holding) for _ in range(3)])
print("\\n".join(said))
"""


@pytest.mark.programs
def test_the_places_of_greenlets_are_found(tmp_path: Any) -> None:
    """Though they are no threads, and suspended."""
    done = run_program(GREENLETS % (tmp_path / "some.db"))
    said = done.stdout.splitlines()
    assert len(said) == 3, done
    assert all("now in holding (<string>:23)" in line for line in said), done


def test_what_is_no_suspended_greenlet_has_no_place() -> None:
    """One that has ended, or runs in another thread, and what merely stands at its address."""
    ended = greenlet.greenlet(lambda: None)
    ended.switch()
    assert leases.places({id(ended), id(Maker), 1}) == {}


def test_threads_are_found_without_a_walk_over_all_objects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That takes tens of milliseconds."""
    monkeypatch.delattr(gc, "get_objects")
    (place,) = leases.places({threading.get_ident()}).values()
    assert place.startswith("now in test_threads_are_found_without_a_walk")


def test_a_place_names_a_few_functions() -> None:
    """The innermost of the app's, which are enough to find it."""

    def deep(levels: int) -> str:
        return deep(levels - 1) if levels else leases.place(sys._getframe())

    assert deep(10).count("deep (") == 4
