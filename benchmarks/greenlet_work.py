"""What `greenlets` measures, to be run where gevent is patched in."""

import time
from typing import Any

import gevent
import gevent.event

from tests.conformance.stub import StubServer

from .model import measuring
from .peers import Peer, Shape, make

__all__ = ["main"]

CONNECTIONS = 20
HAND_OFFS = 20_000
WAIT = 2.0
"""Seconds after which the waiters of `time_out` give up."""


def main(work: str, name: str, callers: int) -> float:
    """Return seconds: of one hand-off, or from the time-out until all have given up."""
    timeout = WAIT if work == "time_out" else 300.0
    peer = make(name, StubServer(), Shape(size=CONNECTIONS, overflow=0, timeout=timeout))
    leases = [peer.take() for _ in range(CONNECTIONS)]
    with measuring():
        return time_out(peer, callers) if work == "time_out" else hand_off(peer, leases, callers)


def hand_off(peer: Peer, leases: list[Any], callers: int) -> float:
    """Pass one connection along a line of constant length; the others stay in use."""
    done = 0
    over = gevent.event.Event()

    def caller() -> None:
        nonlocal done
        while done < HAND_OFFS:
            lease = peer.take()
            done += 1
            peer.give(lease)
        over.set()

    greenlets = [gevent.spawn(caller) for _ in range(callers)]
    gevent.sleep(0.1)
    started = time.perf_counter()
    peer.give(leases.pop())
    over.wait()
    seconds = time.perf_counter() - started
    gevent.killall(greenlets, block=False)
    return seconds / HAND_OFFS


def time_out(peer: Peer, callers: int) -> float:
    """Let everybody in line give up; return how long that takes beyond the time-out."""

    def caller() -> None:
        try:
            peer.take()
        except Exception:
            return
        raise AssertionError("somebody was served")

    started = time.perf_counter()
    greenlets = [gevent.spawn(caller) for _ in range(callers)]
    gevent.joinall(greenlets)
    return time.perf_counter() - started - WAIT
