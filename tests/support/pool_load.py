"""Units of work on a real server's pool, in many threads, and how they went."""

import threading
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, create_engine, text

from pyramid_dbpool.pool.managed import ManagedPool

# Seconds after which something that should happen soon counts as never.
PATIENCE = 60.0


def plugin_engine(url: str, size: int = 5, overflow: int = 10, **changed: Any) -> Engine:
    """Make an engine as the plugin does, but for `changed`."""
    arguments = ManagedPool.plugin_arguments(size, overflow) | changed
    return create_engine(url, poolclass=ManagedPool, **arguments)


def managed(engine: Engine) -> ManagedPool:
    """Return the engine's pool."""
    assert isinstance(engine.pool, ManagedPool)
    return engine.pool


def unit(engine: Engine) -> None:
    """Do one unit of work."""
    with engine.begin() as connection:
        connection.execute(text("SELECT 1"))


def fill(engine: Engine, count: int) -> None:
    """Open `count` connections and leave them idle."""
    for lease in [engine.connect() for _ in range(count)]:
        lease.close()


def until(condition: Callable[[], object], what: str, within: float = PATIENCE) -> None:
    """Return as soon as the condition holds."""
    over, pause = time.monotonic() + within, threading.Event()
    while not condition():
        assert time.monotonic() < over, f"not within {within:g} s: {what}"
        pause.wait(0.005)


class Calls:
    """One call in each of some threads that start together; collects what they raise."""

    def __init__(self, count: int, call: Callable[[], object]) -> None:
        self.errors: list[Exception] = []
        self.seconds: list[float] = []
        self._barrier = threading.Barrier(count)
        self._call = call
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def __repr__(self) -> str:
        return f"<Calls {len(self.seconds)} over, errors {self.errors}>"

    def _run(self) -> None:
        self._barrier.wait(PATIENCE)
        began = time.monotonic()
        try:
            self._call()
        except Exception as error:
            self.errors.append(error)
        self.seconds.append(time.monotonic() - began)

    def wait(self) -> "Calls":
        """Wait until all calls are over."""
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a caller is still waiting"
        return self


class Load(Calls):
    """Threads that do units until they are told to stop."""

    def __init__(self, engine: Engine, threads: int) -> None:
        self.done = 0
        self._engine = engine
        self._stop = threading.Event()
        super().__init__(threads, lambda: None)

    def _run(self) -> None:
        self._barrier.wait(PATIENCE)
        while not self._stop.is_set():
            try:
                unit(self._engine)
                self.done += 1
            except Exception as error:
                self.errors.append(error)

    def goes_on(self, units: int = 200) -> None:
        """Wait until so many more units are done."""
        before = self.done
        until(lambda: self.done >= before + units, "units are done")

    def stop(self) -> None:
        """End the threads."""
        self._stop.set()
        self.wait()
