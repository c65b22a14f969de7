"""Threads at work on a real server, through a network that fails all the time.

`DBPOOL_SOAK_SECONDS` sets how long they are at it in all, on one driver after another.
"""

import gc
import os
import random
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError, TimeoutError
from sqlalchemy.pool import NullPool

from pyramid_dbpool import CommitUnknown, deadline, dispose_engine, get_engine, unit_of_work
from tests.support.pool_load import managed, until
from tests.support.random_faults import Faults
from tests.support.servers.fixtures import NewDatabase, NewProxy

DRIVERS = ("postgresql+psycopg", "postgresql+psycopg2", "mysql+pymysql", "mysql+mysqldb")
SECONDS = float(os.environ.get("DBPOOL_SOAK_SECONDS", "6")) / len(DRIVERS)
THREADS, SIZE, OVERFLOW = 12, 3, 3
SETTINGS = {
    "sqlalchemy.pool_size": SIZE,
    "sqlalchemy.max_overflow": OVERFLOW,
    "sqlalchemy.pool_timeout": "2s",
    "dbpool.connect_timeout": "2s",
    "dbpool.idle_timeout": "300ms",
    "dbpool.overflow_linger": "100ms",
    "dbpool.max_lifetime": "1s",
    "dbpool.ping_after": "200ms",
    "dbpool.keepalive": "200ms",
    "dbpool.outage_grace": "500ms",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(60 + 10 * SECONDS),
]


class Crowd:
    """Threads that each write one number after another, and keep books of how it went."""

    def __init__(self, settings: dict[str, object]) -> None:
        self.did: Counter[str] = Counter()
        self.stored: set[str] = set()
        self.unknown: set[str] = set()
        self.faults: list[BaseException] = []
        self._settings = settings
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number,), daemon=True)
            for number in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def __repr__(self) -> str:
        return f"<Crowd {dict(self.did)}, {len(self.unknown)} unknown commits>"

    def stop(self) -> None:
        """Let everybody finish."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "somebody hangs"

    def _run(self, number: int) -> None:
        chance, count = random.Random(number), 0
        while not self._stop.is_set():
            count += 1
            name = f"{number}.{count}"
            try:
                self._write(name, chance)
                self.stored.add(name)
                self.did["stored"] += 1
            except CommitUnknown:
                self.unknown.add(name)
            except (DBAPIError, TimeoutError) as error:
                self.did[type(error).__name__] += 1
                # Who is refused at once is not to ask all the time.
                time.sleep(0.005)
            except BaseException as error:
                self.faults.append(error)
                raise

    def _write(self, name: str, chance: random.Random) -> None:
        with deadline(chance.choice((0.05, 0.5, 5))), unit_of_work(self._settings) as session:
            # Answers that belong to somebody else would show here.
            said = session.scalar(text("SELECT CAST(:name AS char(20))"), {"name": name})
            assert said is not None
            assert said.strip() == name, f"{said!r} is not the answer to {name!r}"
            session.execute(text("INSERT INTO soak VALUES (:name)"), {"name": name})
            if chance.random() < 0.1:
                time.sleep(0.01)


@pytest.mark.parametrize("backend", DRIVERS)
def test_nothing_is_lost_in_a_failing_network(
    backend: str, new_database: NewDatabase, new_proxy: NewProxy
) -> None:
    """What was acknowledged is stored, once; in the end the process is as it was before."""
    url = new_database(backend)
    outside = create_engine(url, poolclass=NullPool)
    with outside.begin() as connection:
        connection.execute(text("CREATE TABLE soak (name char(20))"))
    before = resources()
    proxy = new_proxy(url)
    settings = {"sqlalchemy.url": proxy.url(url), **SETTINGS}
    crowd, faults = Crowd(settings), Faults(proxy, seed=int(SECONDS))
    time.sleep(SECONDS)
    faults.stop()
    served = len(crowd.stored)
    until(lambda: crowd.faults or len(crowd.stored) > served, "they are served again", within=30)
    crowd.stop()
    print(crowd, faults)
    assert not crowd.faults, crowd.faults
    check_pool(get_engine(settings))
    check_books(crowd, outside)
    dispose_engine(settings)
    proxy.close()
    until(lambda: resources() <= before, f"{resources()} is {before} again", within=15)


def check_pool(engine: Engine) -> None:
    """Nothing is in use, and the pool counts the connections that there are."""
    pool = managed(engine)
    until(lambda: serves(engine), "the pool serves again")
    assert pool.checkedout() == 0

    def at_rest() -> bool:
        seen = pool.snapshot()
        assert (seen.leased, seen.waiting) == (0, 0)
        assert seen.idle + seen.held + seen.opening <= SIZE + OVERFLOW
        # The last one may be over its lifetime, and another one not open yet.
        return seen.opening == 0 and seen.idle + seen.held > 0

    until(at_rest, "nothing is being opened, and a connection is kept")


def serves(engine: Engine) -> bool:
    """Tell whether there is a connection to be had."""
    with suppress(DBAPIError, TimeoutError), engine.connect() as connection:
        return bool(connection.scalar(text("SELECT 1")))
    return False


def check_books(crowd: Crowd, outside: Engine) -> None:
    """All that was acknowledged is there; what else is there, nobody could know."""
    with outside.connect() as connection:
        rows = Counter(name.strip() for name in connection.scalars(text("SELECT name FROM soak")))
    assert crowd.stored <= set(rows)
    assert set(rows) - crowd.stored <= crowd.unknown
    assert set(rows.values()) == {1}


def resources() -> tuple[int, int]:
    """Count this process's threads and open files."""
    gc.collect()
    return threading.active_count(), len(os.listdir(Path("/proc/self/fd")))
