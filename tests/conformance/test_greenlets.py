"""The same promises for greenlets: each scenario is a program with gevent patched in."""

import pytest

from tests.support.programs import run_program

from .adapters.base import Feature
from .lab import Lab

PROLOGUE = """
from gevent import monkey
monkey.patch_all()
import gc, gevent
from tests.conformance.adapters import load
from tests.conformance.lab import Lab, serve

lab = Lab(load({name!r}))
pool = lab.pool(size=1)
lease = pool.checkout()

def in_line(function):
    before = pool.waiting()
    greenlet = gevent.spawn(function)
    with gevent.Timeout(2.0):
        while pool.waiting() <= before:
            gevent.sleep(0.001)
    return greenlet

def limited():
    with gevent.Timeout(0.05, False):
        pool.checkout()
"""

EPILOGUE = """
with gevent.Timeout(3.0):
    serve(pool)
print("served", flush=True)
lab.close()
"""


def play(lab: Lab, *lines: str) -> None:
    """Run these lines as a program of its own; at its end the pool must serve."""
    lab.needs(Feature.GEVENT)
    program = PROLOGUE.format(name=lab.adapter.name) + "\n".join(lines) + EPILOGUE
    done = run_program(program)
    assert "served" in done.stdout, done.stderr[-2000:]


@pytest.mark.slow
def test_killed_greenlet_takes_nothing(lab: Lab) -> None:
    """A greenlet that is killed while it waits leaves the connection to the next."""
    play(lab, "victim = in_line(pool.checkout)", "victim.kill()", "lease.release()")


@pytest.mark.slow
def test_greenlet_killed_just_when_served_takes_nothing(lab: Lab) -> None:
    """A greenlet that is killed between hand-over and waking gives back what it got."""
    play(
        lab,
        "victim = in_line(lambda: serve(pool))",
        "lease.release()",
        "victim.kill(block=False)",
        "gevent.sleep(0.01)",
        "gc.collect()",
    )


@pytest.mark.slow
def test_timed_out_greenlet_takes_nothing(lab: Lab) -> None:
    """A `gevent.Timeout` around a checkout takes nothing from the pool."""
    play(lab, "in_line(limited).join()", "lease.release()")


@pytest.mark.slow
def test_greenlets_are_served_in_order(lab: Lab) -> None:
    """Greenlets in line are served in the order in which they came."""
    play(
        lab,
        "served = []",
        "def caller(n):",
        "    mine = pool.checkout(); served.append(n); gevent.sleep(0); mine.release()",
        "line = [in_line(lambda n=n: caller(n)) for n in range(8)]",
        "lease.release()",
        "gevent.joinall(line, timeout=3.0)",
        "assert served == list(range(8)), served",
    )
