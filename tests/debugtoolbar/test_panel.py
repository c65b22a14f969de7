"""What the panel says of a request."""

from collections.abc import Callable
from os.path import basename

from pyramid.request import Request
from sqlalchemy import text

from tests.debugtoolbar.conftest import Shown
from tests.support.webapp import Row


def test_a_request_with_a_session(shown: Callable[..., Shown]) -> None:
    """Its checkout, by which session, in which line of the view, and how its transaction ended."""
    pids: list[int] = []

    def view(request: Request) -> None:
        pids.append(request.db.scalar(text("SELECT pg_backend_pid()")))
        request.db.add(Row())

    web = shown(index=view)
    web.get()
    (row,) = web.data()["checkouts"]
    assert (row["pool"], row["by"], row["server_pid"]) == ("default", "request.db", pids[0])
    assert not row["is_out"] and row["statements"] == 2
    assert [each["end"] for each in row["transactions"]] == ["committed"]
    place = row["where"][0]
    assert place["function"] == f"{view.__qualname__}"
    line = view.__code__.co_firstlineno + 1
    assert place["short"] == f"debugtoolbar/{basename(__file__)}:{line}"
    page = web.page()
    assert "1 checkout, 1 transaction, 2 statements" in page
    assert "request.db" in page and "committed" in page and view.__qualname__ in page


def test_a_request_without_a_database(shown: Callable[..., Shown]) -> None:
    """It says so, and how the pool is all the same."""
    web = shown(index=lambda _request: None)
    web.get()
    assert web.data()["checkouts"] == []
    assert "No connection was used." in web.page()
    (pool,) = web.data()["pools"]
    assert (pool["name"], pool["used"], pool["waiting"]) == ("default", 0, 0)
