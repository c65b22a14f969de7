"""How `consume` waits for the database: how long, how loudly, until when."""

import logging
import os
import signal
import threading

import pytest

from pyramid_dbpool import tries
from tests.workers import TRIED, ask, ended_within, log_watch, without_server

STOPPED = "neither handled nor acknowledged"


@pytest.mark.slow
def test_a_stop_ends_the_wait_for_the_database(caplog: pytest.LogCaptureFixture) -> None:
    """Within a second; the message is not acknowledged, nor handed on, and the log says so."""
    worker = without_server()
    stop = threading.Event()
    with log_watch(TRIED) as log:
        thread = worker.start("ab", ask, stop=stop)
        log.wait(TRIED)
        stop.set()
        assert ended_within(thread, 1)
    assert (worker.acked, worker.failed) == ([], [])
    assert f"message #1: {STOPPED}" in caplog.text


def test_sigterm_ends_the_wait_for_the_database() -> None:
    """The signal comes while the main thread waits."""
    worker = without_server()
    with log_watch(TRIED) as log:

        def kill() -> None:
            log.wait(TRIED)
            os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=kill)
        thread.start()
        worker.run("ab", ask, stop_on_sigterm=True)
        thread.join()
    assert (worker.acked, worker.failed) == ([], [])


def test_an_outage_is_logged_now_and_then(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once at its start, then at most every 30 seconds; here, at every probe."""
    monkeypatch.setattr(tries, "LOG_EVERY", 0.0)
    stop = threading.Event()
    with log_watch("still away") as log:
        thread = without_server().start("a", ask, stop=stop)
        log.wait("still away")
        stop.set()
        thread.join(30)
    levels = {record.levelno for record in caplog.records}
    assert levels == {logging.WARNING}


def test_between_reminders_an_outage_is_silent(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some probes later there is still one line."""
    stop, numbers = threading.Event(), []

    def pause(number: int) -> float:
        numbers.append(number)
        if len(numbers) > 5:
            stop.set()
        return 0.01

    monkeypatch.setattr(tries, "_pause", pause)
    without_server().start("a", ask, stop=stop).join(30)
    assert numbers == [1, 2, 3, 4, 5, 6]
    assert "still away" not in caplog.text


def test_pauses_grow_to_five_seconds_and_differ() -> None:
    """Not all of a fleet's workers come back in the same instant."""
    assert 0.05 <= tries._pause(1) <= 0.1
    assert 2.5 <= tries._pause(7) <= 5
    assert 2.5 <= tries._pause(100_000) <= 5
    assert len({tries._pause(3) for _ in range(10)}) > 1
