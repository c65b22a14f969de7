"""The engines of this process: one for each pool and its settings."""

import atexit
import logging
import os
import threading
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session, sessionmaker

from ..events import Kind, tell
from ..pool.managed import ManagedPool
from ..settings import PoolSettings, app_setting, copied, load_pool
from .build import build_engine
from .write_outage import WriteOutage

__all__ = [
    "ProcessEngine",
    "dispose_engine",
    "find_engine",
    "get_engine",
    "live_engines",
    "on_run_dir",
    "process_engine",
    "process_engines",
    "warm",
]

log = logging.getLogger(__name__)

EngineHook = Callable[[Engine], Any]


@dataclass(eq=False)
class ProcessEngine:
    """An engine and the settings that it was made from.

    :ivar number: which of this process's engines it is; no other one ever has it.
    :ivar writes: whether its server takes writes.
    :ivar maker: makes the sessions on it; `sessions.maker` sets it.
    """

    engine: Engine
    settings: PoolSettings
    writes: WriteOutage
    number: int
    hooks: list[EngineHook] = field(default_factory=list)
    maker: sessionmaker[Session] | None = None

    def run_hook(self, hook: EngineHook) -> None:
        """Call `hook(engine)`, once however many apps of this process ask for it."""
        if hook not in self.hooks:
            hook(self.engine)
            # Afterwards: one that failed is called again by the next who asks.
            self.hooks.append(hook)


class _Engines:
    """Owns the process's engines. A fork keeps them: `forks` gives them empty pools."""

    # How many settings dicts are remembered; a dict is remembered only to
    # answer in a microsecond, so forgetting one costs time, never an engine.
    REMEMBERED = 64

    def __init__(self) -> None:
        # Called with the folder of each engine's settings; `telemetry.server` sets it.
        self.answer_in: Callable[[str], object] = lambda _run_dir: None
        # Held while an engine is looked up by its settings, made or forgotten.
        # Never held while connections are opened or closed.
        self._lock = threading.RLock()
        self._by_identity: dict[Hashable, ProcessEngine] = {}
        self._numbers = count()
        # (id of a settings dict, pool name) -> (a copy of that dict, its engine).
        # The copy is compared at every call: an id may be used again, and a
        # dict may have changed.
        self._remembered: dict[tuple[int, str], tuple[dict[str, Any], ProcessEngine]] = {}

    def get(self, settings: Mapping[str, Any], name: str) -> ProcessEngine:
        remembered = self._remembered.get((id(settings), name))
        if remembered is not None and remembered[0] == settings:
            return remembered[1]
        # What is remembered is what was read, even if the dict changes meanwhile.
        copy = copied(settings)
        pool, run_dir = load_pool(copy, name), app_setting(copy, "run_dir")
        with self._lock:
            found = self._by_identity.get(pool.identity())
            if found is None:
                found = self._make_locked(pool)
            if len(self._remembered) >= self.REMEMBERED:
                self._remembered.clear()
            self._remembered[id(settings), name] = (copy, found)
        if run_dir is not None:
            self.answer_in(run_dir)
        return found

    def forget(self, settings: Mapping[str, Any], name: str) -> ProcessEngine | None:
        identity = load_pool(copied(settings), name).identity()
        with self._lock:
            found = self._by_identity.pop(identity, None)
            for key, (_, remembered) in list(self._remembered.items()):
                if remembered is found:
                    del self._remembered[key]
        return found

    def all(self) -> list[ProcessEngine]:
        with self._lock:
            return list(self._by_identity.values())

    def after_fork(self) -> None:
        # Another thread of the parent may have held it.
        self._lock = threading.RLock()

    def _make_locked(self, pool: PoolSettings) -> ProcessEngine:
        for other in self._by_identity.values():
            if other.settings.name == pool.name and other.settings.url == pool.url:
                _warn_of_a_second_engine(other.settings, pool)
                break
        writes = WriteOutage(pool)
        made = ProcessEngine(build_engine(pool, writes), pool, writes, next(self._numbers))
        hook = pool.options.engine_hook
        if hook is not None:
            made.run_hook(hook)
        self._by_identity[pool.identity()] = made
        return made


_engines = _Engines()
os.register_at_fork(after_in_child=_engines.after_fork)


def get_engine(settings: Mapping[str, Any], name: str = "default") -> Engine:
    """Return this process's one engine for `settings`.

    The same object comes back on every call, in every thread and for the app
    that included pyramid_dbpool with these settings. Nothing connects and no
    thread starts before the engine is used. A forked child may go on using the
    engine: it has an empty pool there.

    :param settings: the app's settings, as Pyramid has them (ini strings).
    :param name: the pool: ``"default"``, or NAME of ``sqlalchemy.NAME.url``.
    :raises SettingsError: a setting is unknown or wrong.
    :raises TypeError: `settings` is no mapping.
    """
    return _engines.get(settings, name).engine


def process_engine(settings: Mapping[str, Any], name: str = "default") -> ProcessEngine:
    """Return the engine of `get_engine` together with its pool's settings.

    :raises SettingsError: a setting is unknown or wrong.
    """
    return _engines.get(settings, name)


def dispose_engine(settings: Mapping[str, Any], name: str = "default") -> None:
    """Close this process's engine for `settings` and forget it.

    What is idle is closed now, what is checked out when it is given back. The
    next `get_engine` makes a new engine. Does nothing if there is none.

    :param settings: the app's settings, those with which the engine was made.
    :param name: the pool: ``"default"``, or NAME of ``sqlalchemy.NAME.url``.
    :raises SettingsError: a setting is unknown or wrong.
    """
    found = _engines.forget(settings, name)
    if found is not None:
        found.engine.dispose()


def warm(engine: Engine) -> None:
    """Open connections now, until the pool's `min_idle` are open.

    For a server's start-up hook, so that the first requests need not wait for
    connections to be opened. Does nothing for a pool that is no `ManagedPool`. ::

        warm(get_engine(settings))

    :param engine: an engine, as `get_engine` returns it.
    :raises DatabaseUnavailable: the server cannot be reached, after a wait of `pool_timeout`
        at the longest, or it refuses the login.
    :raises PoolTimeout: no connection could be opened in that time.
    :raises TypeError: `engine` is none.
    """
    if not isinstance(engine, Engine):
        raise TypeError(
            f"warm() takes an engine, not {type(engine).__name__}: warm(get_engine(settings))."
        )
    if isinstance(engine.pool, ManagedPool):
        engine.pool.warm()


def on_run_dir(answer_in: Callable[[str], object]) -> None:
    """Have `answer_in` called with each `dbpool.run_dir` for which there is an engine."""
    _engines.answer_in = answer_in


def process_engines() -> list[ProcessEngine]:
    """Return the engines of this process with their settings, oldest first."""
    return _engines.all()


def live_engines() -> list[tuple[str, Engine]]:
    """Return the pool name and the engine of each engine of this process, oldest first."""
    return [(made.settings.name, made.engine) for made in _engines.all()]


def find_engine(bind: Engine | Connection | None) -> ProcessEngine | None:
    """Return this process's engine behind a session's bind; None for one that is not ours."""
    if bind is None:
        return None
    # By the pool: `execution_options` of an engine make another engine on the same one.
    return next((made for made in _engines.all() if made.engine.pool is bind.engine.pool), None)


def _warn_of_a_second_engine(first: PoolSettings, second: PoolSettings) -> None:
    keys = ", ".join(first.differing(second))
    text = (
        f"pool {second.name!r}: a second engine for the same URL, because these settings differ"
        f" from those of an earlier one: {keys}. Each engine has a pool of its own: use the same"
        " settings everywhere."
    )
    tell(log, Kind.SECOND_ENGINE, text, second.name, settings=keys)


@atexit.register
def _close_all() -> None:
    for made in reversed(_engines.all()):
        # The pool's: the engine's dispose() makes a new pool, and says so in the log.
        made.engine.pool.dispose()
