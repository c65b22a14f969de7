"""The route that says whether the app can serve: from what is known, or from a first look."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pyramid.request import Request
from pyramid.response import Response

from ..clock import monotonic
from ..drivers.connect_failures import ConnectFailure, classify_connect_failure
from ..engines.probes import try_to_connect
from ..engines.registry import ProcessEngine
from ..events import Kind, tell
from ..pool.housekeeper import start_thread
from ..pool.managed import ManagedPool
from ..pool.refusals import unavailable_text

__all__ = ["READINESS", "TWEEN", "PoolReadiness", "Readiness", "readiness_tween_factory"]

log = logging.getLogger(__name__)

TWEEN = f"{__name__}.readiness_tween_factory"

# The registry's key of the app's `Readiness`.
READINESS = "pyramid_dbpool.readiness"

# How long, in seconds, it is taken for granted that the database is there, or is not.
FRESH_GOOD = 10.0
FRESH_BAD = 1.0
# After so long nobody knows any more.
FORGOTTEN = 60.0
# A probe that takes longer has been swallowed by the network.
LONGEST_PROBE = 15.0
# How long whoever asks first waits for its outcome: Kubernetes takes a second for no.
FIRST_LOOK = 0.75

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
        for pool in self.pools:
            # All at once: one that does not answer would use up the time of the others.
            pool.ask()
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
        # Guards `_probing_since`, what a probe finds and what was said; held for a moment, never
        # during a probe.
        self._lock = threading.Lock()
        self._probing_since = float("-inf")
        # Set when the probe that was begun last is over.
        self._over = threading.Event()
        # Nobody has looked yet.
        self._ready = False
        self._known_at = float("-inf")
        self._contacts = 0
        # How often a login had been refused when the last probe began.
        self._turned_away = 0
        # Whether only connections that are open work.
        self._degraded = False
        # Since when the log has it that this is not ready; None: it has not.
        self._said_at: float | None = None
        # At the end: another thread of a child's must not take a lock of the parent's.
        self._pid = os.getpid()

    def words(self, is_ready: bool) -> str:
        """Say in the answer how it is."""
        if not is_ready:
            return "not ready: paused" if self._is_paused() else "not ready"
        return "ready, but no new connection can be opened" if self._degraded else "ready"

    def is_ready(self) -> bool:
        """Tell whether the server can be reached, as far as is known.

        Waits only where nothing is known: for a probe, and `FIRST_LOOK` at the longest.
        """
        self.ask()
        if self._is_unknown():
            # From its beginning: in an outage not everybody who asks waits for so long.
            self._over.wait(max(0.0, self._probing_since + FIRST_LOOK - self._clock()))
        return self._ready and not self._is_unknown()

    def _is_paused(self) -> bool:
        pool = self._made.engine.pool
        return isinstance(pool, ManagedPool) and pool.paused

    def _is_unknown(self) -> bool:
        return self._clock() - self._known_at >= FORGOTTEN

    def ask(self) -> None:
        """See what the pool knows; begin a probe if that is too old."""
        if self._pid != os.getpid():
            # A probe of the parent's never ends here, and its lock may be held for ever.
            self._start()
        now, writes = self._clock(), self._made.writes
        if self._is_paused():
            # Nobody is to look at the server; when it is resumed, whoever asks first does.
            self._ready, self._known_at = False, float("-inf")
            return
        if writes.since is not None:
            # It can be reached, and answers every write with an error.
            writes.look_beside()
            # Not known any more once it is over: whoever asks first then waits for a probe.
            self._ready, self._known_at = False, float("-inf")
            return
        says = self._pool_says(now)
        if says is not None:
            self._ready, self._known_at = says, now
            if says:
                self._say_ready()
        elif now - self._known_at >= (FRESH_GOOD if self._is_undoubted() else FRESH_BAD):
            self._probe(now)

    def _is_undoubted(self) -> bool:
        """Tell whether it was ready, and no caller was turned away since: by a password, say."""
        pool = self._made.engine.pool
        known = not isinstance(pool, ManagedPool) or pool.turned_away <= self._turned_away
        return self._ready and known

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
            self._probing_since, self._over = now, threading.Event()
            if isinstance(self._made.engine.pool, ManagedPool):
                self._turned_away = self._made.engine.pool.turned_away
        try:
            start_thread("dbpool-readiness", partial(self._look, now, self._over))
        except RuntimeError:
            # At the end of the interpreter, or at a limit of the machine: what is known stands,
            # and whoever asks next tries again.
            self._probing_since = float("-inf")

    def _look(self, began: float, over: threading.Event) -> None:
        try:
            self._learn(began, try_to_connect(self._made))
        finally:
            over.set()

    def _learn(self, began: float, error: Exception | None) -> None:
        # A server that is full is there.
        opens = error is None or self._is_full(error)
        ready = opens or self._open_ones_work()
        with self._lock:
            if self._probing_since != began:
                return  # given up; what another one has found since is newer
            self._probing_since = float("-inf")
            if self._is_paused():
                return
            self._ready, self._degraded = ready, not opens
            self._known_at = self._clock()
        if ready:
            self._say_ready()
        elif error is not None:
            self._say_why_not(error)

    def _say_why_not(self, error: Exception) -> None:
        """Write it to the log, once: where nobody is sent to an app, nothing else says why."""
        made = self._made
        if isinstance(made.engine.pool, ManagedPool) and made.engine.pool.outage is not None:
            return  # the pool has said so
        with self._lock:
            if self._said_at is not None:
                return
            self._said_at = self._clock()
        kind = classify_connect_failure(made.engine.dialect, error)
        why = unavailable_text(self.name, made.settings.source, kind, 0.0, error)
        text = f"dbpool.readiness_route: not ready: {why}"
        tell(log, Kind.NOT_READY, text, self.name, reason=None if kind is None else kind.value)

    def _say_ready(self) -> None:
        if self._said_at is None:
            return
        with self._lock:
            since, self._said_at = self._said_at, None
        if since is not None:
            lasted = self._clock() - since
            text = f"dbpool.readiness_route: pool {self.name!r} is ready after {lasted:.1f} s."
            tell(log, Kind.READY, text, self.name, seconds=lasted)

    def _open_ones_work(self) -> bool:
        pool = self._made.engine.pool
        return isinstance(pool, ManagedPool) and pool.answers()

    def _is_full(self, error: Exception) -> bool:
        kind = classify_connect_failure(self._made.engine.dialect, error)
        return kind is ConnectFailure.SATURATED
