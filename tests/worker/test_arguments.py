"""What `consume` refuses before it takes a message."""

import queue
import threading
from typing import Any

import pytest

from pyramid_dbpool.worker.loop import consume
from pyramid_dbpool.worker.sources import messages_of
from tests.support.workers import Worker, store


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ({"handle": None}, TypeError, "handle is NoneType"),
        ({"messages": 3}, TypeError, "messages is int"),
        ({"ack": "yes"}, TypeError, "ack is str"),
        ({"on_error": 1}, TypeError, "on_error is int"),
        ({"identify": "id"}, TypeError, "identify is str"),
        ({"session_factory": None}, TypeError, "session_factory is NoneType"),
        ({"stop": True}, TypeError, "stop is bool"),
        ({"max_tries": "5"}, TypeError, "max_tries is '5'"),
        ({"max_tries": True}, TypeError, "max_tries is True"),
        ({"max_tries": 0}, ValueError, "max_tries is 0"),
        ({"isolation_level": "CHAOS"}, ValueError, "CHAOS"),
        ({"deferrable": True}, ValueError, "never deferrable"),
        ({"isolation_level": "READ COMMITTED"}, ValueError, "SQLite's transactions"),
    ],
)
def test_wrong_arguments_are_refused_at_once(
    sqlite_url: str, wrong: dict[str, Any], error: type[Exception], said: str
) -> None:
    """Before the first message is taken; none would be handled."""
    work: queue.Queue[str] = queue.Queue()
    work.put("a")
    right: dict[str, Any] = {
        "messages": work,
        "handle": store,
        "settings": {"sqlalchemy.url": sqlite_url},
    }
    with pytest.raises(error, match=said):
        consume(**(right | wrong))
    assert work.qsize() == 1


def test_wrong_settings_are_refused_at_once(sqlite_url: str) -> None:
    """They are not an error of the first message."""
    with pytest.raises(ValueError, match="pool_sice"):
        consume([1], store, {"sqlalchemy.url": sqlite_url, "sqlalchemy.pool_sice": "3"})


def test_what_is_no_source_is_refused() -> None:
    """At once, not at the first message."""
    with pytest.raises(TypeError, match="has to be iterable"):
        messages_of(3, None)  # type: ignore[arg-type]


def test_sigterm_is_for_the_main_thread(sqlite_url: str) -> None:
    """Elsewhere Python cannot take signals; the error says what to do instead."""
    worker, said = Worker(sqlite_url), []

    def run() -> None:
        try:
            worker.run("a", stop_on_sigterm=True)
        except ValueError as error:
            said.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "main thread only" in said[0]
    assert "stop=threading.Event()" in said[0]
    assert worker.acked == []
