"""What `consume` does when the network fails between it and the database."""

import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pyramid_dbpool import CommitUnknown
from pyramid_dbpool.embedded import PrivatePostgres
from tests.pool_load import until
from tests.servers.fixtures import NewDatabase, NewProxy
from tests.servers.proxy import FaultProxy, Newcomers
from tests.workers import Worker, ended_within, log_watch, outside, store

Faulty = tuple[FaultProxy, Worker]

OUTAGES = (Newcomers.REFUSE, Newcomers.RESET, Newcomers.SILENCE, Newcomers.DROP)


@pytest.fixture(params=["postgresql+psycopg", "mysql+pymysql"])
def faulty(
    request: pytest.FixtureRequest, new_database: NewDatabase, new_proxy: NewProxy
) -> Faulty:
    """Give a worker and the network between it and its database."""
    url = new_database(request.param)
    proxy = new_proxy(url)
    return proxy, Worker(proxy.url(url))


@pytest.mark.slow
@pytest.mark.parametrize("outage", OUTAGES)
@pytest.mark.parametrize("after", [0.2, 2.0])
def test_a_stop_in_the_middle_of_an_outage(faulty: Faulty, outage: Newcomers, after: float) -> None:
    """Within a second, however the database is away; nothing is acknowledged."""
    proxy, worker = faulty
    first = threading.Event()
    stop = threading.Event()

    def handle(message: str, session: Session) -> None:
        if message == "b":
            proxy.meet(outage)
            proxy.cut()
            first.set()
        session.execute(text("SELECT 1"))

    thread = worker.start("abc", handle, stop=stop)
    assert first.wait(30)
    time.sleep(after)
    stop.set()
    began = time.monotonic()
    assert ended_within(thread, 1), time.monotonic() - began
    assert (worker.acked, worker.failed) == (["a"], [])
