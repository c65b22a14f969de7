"""What `consume` does when the answer to a COMMIT is lost."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pyramid_dbpool import CommitUnknown
from tests.support.servers.fixtures import MARIADB, POSTGRES, NewDatabase, NewProxy
from tests.support.servers.proxy import FaultProxy
from tests.support.workers import Worker, store


@pytest.fixture(params=[*POSTGRES, *MARIADB])
def worker(request: pytest.FixtureRequest, new_database: NewDatabase) -> Worker:
    """Give a worker on each database that has a server."""
    return Worker(new_database(request.param))


@pytest.fixture
def cut(worker: Worker, new_proxy: NewProxy) -> tuple[Worker, FaultProxy]:
    """Give a worker and the proxy between it and its database."""
    url = worker.settings["sqlalchemy.url"]
    proxy = new_proxy(url)
    worker.settings["sqlalchemy.url"] = proxy.url(url)
    return worker, proxy


def cutting(proxy: FaultProxy) -> Callable[[str, Session], None]:
    """Return a handler during whose first commit the network breaks."""
    calls: list[str] = []

    def handle(message: str, session: Session) -> None:
        calls.append(message)
        store(f"{message}{len(calls)}", session)
        session.flush()
        if len(calls) == 1:
            proxy.faults.fatal_request = b"COMMIT"

    return handle


def test_an_unknown_commit_is_not_tried_again(cut: tuple[Worker, FaultProxy]) -> None:
    """The work is stored, though the worker cannot know: twice would be wrong."""
    worker, proxy = cut
    worker.run("ab", cutting(proxy))
    ((message, error),) = worker.failed
    assert (message, type(error)) == ("a", CommitUnknown)
    assert (worker.acked, worker.stored()) == (["b"], ["a1", "b2"])


def test_an_unknown_commit_is_raised_without_on_error(cut: tuple[Worker, FaultProxy]) -> None:
    """And the message is not acknowledged."""
    worker, proxy = cut
    with pytest.raises(CommitUnknown):
        worker.run("ab", cutting(proxy), on_error=None)
    assert worker.acked == []


def test_an_unknown_commit_of_an_idempotent_handler_is_tried_again(
    cut: tuple[Worker, FaultProxy],
) -> None:
    """Its author said that another try does no harm."""
    worker, proxy = cut
    worker.run("ab", cutting(proxy), idempotent=True)
    assert (worker.acked, worker.failed) == (["a", "b"], [])
    assert worker.stored() == ["a1", "a2", "b3"]


def test_an_unknown_commit_of_a_reader_is_tried_again(cut: tuple[Worker, FaultProxy]) -> None:
    """A read-only transaction has nothing that could be stored twice."""
    worker, proxy = cut
    seen: list[Any] = []

    def handle(message: str, session: Session) -> None:
        seen.append(session.scalar(text("SELECT 1")))
        if len(seen) == 1:
            proxy.faults.fatal_request = b"COMMIT"

    worker.run("a", handle, read_only=True)
    assert (seen, worker.acked, worker.failed) == ([1, 1], ["a"], [])
