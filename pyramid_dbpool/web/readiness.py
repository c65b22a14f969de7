"""The route that says whether the app can serve: from what is known, never from a wait."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from pyramid.request import Request
from pyramid.response import Response

from ..clock import monotonic
from ..drivers.connect_failures import ConnectFailure, classify_connect_failure
from ..engines.probes import try_to_connect
from ..engines.registry import ProcessEngine
from ..pool.housekeeper import start_thread
from ..pool.managed import ManagedPool

__all__ = ["READINESS", "TWEEN", "PoolReadiness", "Readiness", "readiness_tween_factory"]

TWEEN = f"{__name__}.readiness_tween_factory"

# The registry's key of the app's `Readiness`.
READINESS = "pyramid_dbpool.readiness"

# How long, in seconds, it is taken for granted that the database is there, or is not.
FRESH_GOOD = 10.0
FRESH_BAD = 1.0
# A probe that takes longer has been swallowed by the network.
LONGEST_PROBE = 15.0

Handler = Callable[[Request], Response]


def readiness_tween_factory(handler: Handler, registry: Any) -> Handler:
    """Return the tween that answers on the readiness path.

    A tween, over pyramid_tm's: a view would come after a security policy that asks the database.
    """
    readiness: Readiness = registry[READINESS]

    def tween(request: Request) -> Response:
        if request.environ.get("PATH_INFO") == readiness.path:
            return readiness.response()
        return handler(request)

    return tween


class Readiness:
    """Answers for the pools of one app."""

    def __init__(self, path: str, pools: Sequence[PoolReadiness] = ()) -> None:
        self.path = path
        self.pools = pools

    def response(self) -> Response:
        """Say of each pool whether its database can be reached, and is no standby.

        The writable ones decide.
        """
        states = [(pool, pool.is_ready()) for pool in self.pools]
        ready = all(is_ready for pool, is_ready in states if not pool.read_only)
        lines = [f"{pool.name}: {pool.words(is_ready)}\n" for pool, is_ready in states]
        status = 200 if ready else 503
        response = Response(text="".join(lines), content_type="text/plain", status=status)
        response.cache_control = "no-store"
        return response


class PoolReadiness:
    """What is known of one pool's server; looks for itself only when that is too old."""

    def __init__(self, made: ProcessEngine, clock: Callable[[], float] = monotonic) -> None:
        self.name = made.settings.name
        self.read_only = made.settings.options.read_only
        self._made = made
        self._clock = clock
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        # Guards `_probing_since` and what a probe finds; held for a moment, never during a probe.
        self._lock = threading.Lock()
        self._probing_since = float("-inf")
        # Nobody has looked yet: not ready until somebody has.
        self._ready = False
        self._known_at = float("-inf")
        self._contacts = 0
        # Whether only connections that are open work.
        self._degraded = False

    def words(self, is_ready: bool) -> str:
        """Say in the answer how it is."""
        if not is_ready:
            return "not ready"
        return "ready, but no new connection can be opened" if self._degraded else "ready"

    def is_ready(self) -> bool:
        """Tell whether the server can be reached, as far as is known; never waits."""
        if self._pid != os.getpid():
            # A probe of the parent's never ends here, and its lock may be held for ever.
            self._start()
        writes = self._made.writes
        if writes.since is not None:
            # It can be reached, and answers every write with an error.
            writes.look_beside()
            return False
        now = self._clock()
        says = self._pool_says(now)
        if says is not None:
            self._ready, self._known_at = says, now
            return says
        ready = self._ready
        if now - self._known_at >= (FRESH_GOOD if ready else FRESH_BAD):
            self._probe(now)
        return ready

    def _pool_says(self, now: float) -> bool | None:
        """Return what the pool knows by itself, None if it has seen nothing lately."""
        pool = self._made.engine.pool
        if not isinstance(pool, ManagedPool):
            return None
        contacts, outage = pool.contacts, pool.outage
        moved, self._contacts = contacts > self._contacts, contacts
        fails = outage is not None and outage.kind is not ConnectFailure.SATURATED
        if outage is not None and fails and now < outage.known_until:
            self._degraded = True
            return not pool.is_cut_off
        if moved and not fails:
            self._degraded = False
            return True
        return None

    def _probe(self, now: float) -> None:
        with self._lock:
            if now - self._probing_since < LONGEST_PROBE:
                return
            self._probing_since = now
        look = partial(self._look, now)
        # At interpreter shutdown no thread starts any more: what is known stands.
        with suppress(RuntimeError):
            start_thread("dbpool-readiness", look)

    def _look(self, began: float) -> None:
        error = try_to_connect(self._made)
        # A server that is full is there.
        opens = error is None or self._is_full(error)
        ready = opens or self._open_ones_work()
        with self._lock:
            if self._probing_since != began:
                return  # given up; what another one has found since is newer
            self._probing_since = float("-inf")
            self._ready, self._degraded = ready, not opens
            self._known_at = self._clock()

    def _open_ones_work(self) -> bool:
        pool = self._made.engine.pool
        return isinstance(pool, ManagedPool) and pool.answers()

    def _is_full(self, error: Exception) -> bool:
        kind = classify_connect_failure(self._made.engine.dialect, error)
        return kind is ConnectFailure.SATURATED
