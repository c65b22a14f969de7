"""What `consume` does when the network fails between it and the database."""

import queue
import threading
import time
from collections import Counter

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pyramid_dbpool import CommitUnknown
from tests.support.pool_load import until
from tests.support.random_faults import Faults
from tests.support.servers.fixtures import NewDatabase, NewProxy
from tests.support.servers.proxy import FaultProxy, Newcomers
from tests.support.workers import Worker, ended_within, store

Faulty = tuple[FaultProxy, Worker]

MESSAGES, PAUSE = 150, 0.02  # seconds between two of them
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
def test_a_stop_in_the_middle_of_an_outage(faulty: Faulty, outage: Newcomers) -> None:
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
    # The worker is waiting for a connection by then, as it would for seconds more.
    time.sleep(0.3)
    stop.set()
    assert ended_within(thread, 1)
    assert (worker.acked, worker.failed) == (["a"], [])


@pytest.mark.slow
def test_no_message_is_lost_in_a_failing_network(faulty: Faulty) -> None:
    """Each is stored once, whatever happens meanwhile; twice only after an unknown commit."""
    proxy, worker = faulty
    expected = [f"m{number}" for number in range(MESSAGES)]
    broker = Broker(expected)

    def handle(message: str, session: Session) -> None:
        store(message, session)
        session.flush()
        session.execute(text("SELECT 1"))

    def all_settled() -> bool:
        if not thread.is_alive():
            raise AssertionError(f"the worker has ended: {worker}")
        return broker.acked == set(expected)

    stop = threading.Event()
    faults = Faults(proxy, seed=5)
    thread = worker.start(
        broker, handle, ack=broker.ack, on_error=broker.give_back, stop=stop, max_tries=100
    )
    until(all_settled, "all messages are acknowledged")
    faults.stop()
    stop.set()
    thread.join(30)
    counts = Counter(worker.stored())
    twice = {message for message, count in counts.items() if count > 1}
    print(faults, f"{len(broker.unknown)} unknown commits, {len(twice)} stored twice")
    assert set(counts) == set(expected)
    assert twice <= broker.unknown
    assert worker.checked_out() == 0


class Broker(queue.Queue[str]):
    """Delivers a message again when its commit is unknown, slowly enough to meet faults."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__()
        self.acked: set[str] = set()
        self.unknown: set[str] = set()
        for message in messages:
            self.put(message)

    def get(self, block: bool = True, timeout: float | None = None) -> str:
        """Give the next message."""
        time.sleep(PAUSE)
        return super().get(block, timeout)

    def ack(self, message: str) -> None:
        """Take note of it, once."""
        assert message not in self.acked
        self.acked.add(message)

    def give_back(self, message: str, error: Exception) -> None:
        """Deliver it again."""
        assert isinstance(error, CommitUnknown), error
        self.unknown.add(message)
        self.put(message)
