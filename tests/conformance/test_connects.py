"""What happens to a connection between its opening and its first use."""

from contextvars import ContextVar

from .adapters.base import Feature
from .lab import Lab, until
from .stub_driver import StubConnection

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


def test_listener_sees_every_connection(lab: Lab) -> None:
    """A listener that was added after the pool was made misses no connection."""
    lab.needs(Feature.LISTENERS)
    pool = lab.pool(size=3)
    seen: list[StubConnection] = []
    pool.on_connect(seen.append)
    lab.warm(pool, 3)
    assert len(seen) == lab.server.connects == 3


def test_listener_sees_connections_that_nobody_asked_for(lab: Lab) -> None:
    """Connections that fill the minimum up pass the listeners too."""
    lab.needs(Feature.LISTENERS)
    pool = lab.pool(size=3, min_idle=2)
    seen: list[StubConnection] = []
    pool.on_connect(seen.append)
    lab.warm(pool, 1)
    until(lambda: lab.server.open >= 2, "the minimum is open")
    until(lambda: len(seen) == lab.server.connects, "the listener saw them all")


def test_listener_runs_in_the_context_of_who_asked(lab: Lab) -> None:
    """A context variable that the caller set can be read when its connection opens."""
    lab.needs(Feature.LISTENERS)
    pool = lab.pool(size=1)
    seen: list[str] = []
    pool.on_connect(lambda connection: seen.append(tenant.get()))
    token = tenant.set("alice")
    try:
        lab.warm(pool, 1)
    finally:
        tenant.reset(token)
    assert seen == ["alice"]


def test_failing_listener_takes_no_slot(lab: Lab) -> None:
    """A listener that raises fails its caller, and the next one is served."""
    lab.needs(Feature.LISTENERS)
    pool = lab.pool(size=1)
    faults = [ValueError("set-up failed")]

    def listener(connection: StubConnection) -> None:
        if faults:
            raise faults.pop()

    pool.on_connect(listener)
    assert isinstance(lab.run(pool.checkout).wait().error, ValueError)
    lab.run(pool.checkout).result().release()
