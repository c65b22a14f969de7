"""Dead connections are not handed out, and live ones cost no round trip."""

import pytest

from .adapters.base import Feature, PoolUnderTest
from .lab import Lab, Load, pause, release_all, timed, until
from .stub import Failure


def test_dead_connection_is_not_handed_out(lab: Lab) -> None:
    """A connection that the server has closed while idle is replaced."""
    pool = lab.pool(size=1, liveness=True)
    lab.warm(pool, 1)
    lab.server.kill_all()
    lease = pool.checkout()
    lease.query()
    lease.release()
    assert lab.server.open == 1


def test_silent_connection_costs_no_round_trip(lab: Lab) -> None:
    """Checking a healthy connection sends nothing to the server."""
    pool = lab.pool(size=1, liveness=True)
    for _ in range(10):
        lab.warm(pool, 1)
    assert lab.server.pings == 0
    assert lab.server.connects == 1


def test_speaking_connection_is_pinged_and_kept(lab: Lab) -> None:
    """A notice makes the socket readable: one ping, and the connection stays."""
    pool = lab.pool(size=1, liveness=True)
    lab.warm(pool, 1)
    lab.server.speak(lab.server.connections[0])
    lab.warm(pool, 1)
    assert lab.server.pings >= 1
    assert lab.server.connects == 1


def test_one_dead_connection_does_not_condemn_the_others(lab: Lab) -> None:
    """One terminated backend costs one connection, not the whole pool."""
    pool = lab.pool(size=3, liveness=True)
    lab.warm(pool, 3)
    lab.server.kill(lab.server.connections[0])
    leases = [lab.run(pool.checkout).result() for _ in range(3)]
    for lease in leases:
        lease.query()
    release_all(leases)
    assert lab.server.connects == 4


@pytest.mark.slow
def test_restart_leaves_no_string_of_reconnects(lab: Lab) -> None:
    """With 8 stale connections the first checkout takes no more than 3 connects."""
    pool = lab.pool(size=8, liveness=True)
    lab.server.connect_delay = 1.0
    lab.warm(pool, 8)
    lab.server.kill_all()
    with timed(3.0, "the first checkout after the restart"):
        lease = lab.run(pool.checkout).result()
    lease.query()
    lease.release()


def test_asked_for_ping_is_made_each_time(lab: Lab) -> None:
    """Whoever asks for a ping at each checkout gets one at each checkout."""
    pool = lab.pool(size=1, ping_each_time=True)
    lab.warm(pool, 1)
    before = lab.server.pings
    for _ in range(5):
        lab.warm(pool, 1)
    assert lab.server.pings - before == 5


@pytest.mark.slow
def test_long_idle_connection_is_pinged(lab: Lab) -> None:
    """After `ping_after` a silent socket is not believed any more."""
    pool = lab.pool(size=1, liveness=True, ping_after=0.05)
    lab.warm(pool, 1)
    assert lab.server.pings == 0
    until(lambda: pinged(lab, pool), "a ping at checkout")


def pinged(lab: Lab, pool: PoolUnderTest) -> bool:
    """Leave the connection idle for 60 ms, check it out, and look for a ping."""
    pause(0.06)
    lab.warm(pool, 1)
    return lab.server.pings > 0


@pytest.mark.slow
def test_ping_without_an_answer_is_given_up(lab: Lab) -> None:
    """On a network that drops everything, a ping does not hold its caller for minutes."""
    pool = lab.pool(size=1, liveness=True)
    lab.warm(pool, 1)
    silent = lab.server.connections[0]
    lab.server.speak(silent)
    silent.mute = True
    lease = lab.run(pool.checkout).result(15.0)
    assert lease.connection is not silent
    lease.release()


@pytest.mark.slow
def test_keepalive_pings_idle_connections(lab: Lab) -> None:
    """Idle connections are pinged in the background, so that no firewall forgets them."""
    pool = lab.pool(size=2, keepalive=0.1)
    lab.warm(pool, 2)
    until(lambda: lab.server.pings >= 4, "two rounds of pings")
    assert lab.server.open == 2


@pytest.mark.slow
def test_restart_under_load_fails_only_units_under_way(lab: Lab) -> None:
    """A server that is away for 0.3 s costs no more units than there are connections."""
    lab.needs(Feature.LINE)
    pool = lab.pool(size=4, liveness=True, timeout=20.0)
    lab.warm(pool, 4)
    load = Load(lab, pool, threads=16, hold=0.002)
    until(lambda: load.done > 50, "the load is running")
    lab.server.down = Failure.UNREACHABLE
    lab.server.kill_all()
    pause(0.3)
    lab.server.down = None
    before = load.done
    until(lambda: load.done > before + 50, "units are done again")
    load.stop()
    assert len(load.errors) <= 4, f"{len(load.errors)} units failed"
