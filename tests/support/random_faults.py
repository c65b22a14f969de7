"""Faults of the network, one after another, as chance has it."""

import random
import threading
from collections import Counter
from collections.abc import Callable

from tests.support.servers.proxy import FaultProxy, Newcomers

MEAN_FAULT, MEAN_PEACE = 0.15, 0.25  # seconds


class Faults:
    """Lets one fault after another befall a proxy until `stop`; then it is whole again."""

    def __init__(self, proxy: FaultProxy, seed: int) -> None:
        self.struck: Counter[str] = Counter()
        self._proxy = proxy
        self._chance = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Faults {dict(self.struck)}>"

    def stop(self) -> None:
        """End the faults."""
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._pause(MEAN_PEACE):
            fault = self._chance.choice(FAULTS)
            self.struck[fault.__name__] += 1
            fault(self._proxy, self._chance)
            self._pause(MEAN_FAULT)
            heal(self._proxy)

    def _pause(self, mean: float) -> bool:
        return self._stop.wait(self._chance.expovariate(1 / mean))


def heal(proxy: FaultProxy) -> None:
    """Make the network whole; what it has swallowed ends, as a router that restarts ends it."""
    broken = proxy.faults.half_open or proxy.faults.answer_limit is not None
    proxy.faults.latency = 0.0
    proxy.faults.answer_limit = None
    proxy.faults.half_open = False
    proxy.meet(Newcomers.PASS)
    if broken:
        proxy.cut()


def cut(proxy: FaultProxy, chance: random.Random) -> None:
    """End all connections."""
    proxy.cut(abort=chance.random() < 0.5)


def outage(proxy: FaultProxy, chance: random.Random) -> None:
    """End all connections, and let nobody in."""
    ways = (Newcomers.REFUSE, Newcomers.RESET, Newcomers.SILENCE, Newcomers.DROP)
    proxy.meet(chance.choice(ways))
    proxy.cut(abort=chance.random() < 0.5)


def closed_door(proxy: FaultProxy, chance: random.Random) -> None:
    """Let nobody in; those inside stay."""
    proxy.meet(chance.choice((Newcomers.REFUSE, Newcomers.RESET, Newcomers.SILENCE)))


def silence(proxy: FaultProxy, chance: random.Random) -> None:
    """Let the open connections go silent, and end them after a while."""
    proxy.swallow()
    proxy.faults.half_open = True


def half_an_answer(proxy: FaultProxy, chance: random.Random) -> None:
    """Cut connections in the middle of an answer."""
    proxy.faults.answer_limit = chance.randrange(5000)


def lost_commit(proxy: FaultProxy, chance: random.Random) -> None:
    """Lose the answer to the next COMMIT."""
    proxy.faults.fatal_request = b"COMMIT"


def slowness(proxy: FaultProxy, chance: random.Random) -> None:
    """Delay everything."""
    proxy.faults.latency = chance.choice((0.002, 0.02, 0.1))


FAULTS: tuple[Callable[[FaultProxy, random.Random], None], ...] = (
    cut,
    outage,
    closed_door,
    silence,
    half_an_answer,
    lost_commit,
    slowness,
)
