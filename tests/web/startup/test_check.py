"""`dbpool.startup_check`: what a server and a worker do when the database is not there."""

import itertools
import logging
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, event

from pyramid_dbpool import consume, get_engine
from pyramid_dbpool.engines import probes
from pyramid_dbpool.engines.probes import EXIT_STATUS, check_at_start
from pyramid_dbpool.engines.registry import process_engine
from pyramid_dbpool.stopping import noting_sigterm
from tests.support.webapp import PARTS, app


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == probes.__name__]


@pytest.mark.parametrize("mode", ["off", "warn", "wait", "require"])
def test_a_database_that_is_there_is_not_mentioned(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    """And nothing is left of the look at it: no connection, nothing in the pool."""
    opened: list[Engine] = []

    def hook(engine: Engine) -> None:
        event.listen(engine, "connect", lambda *_: opened.append(engine))

    settings |= {"dbpool.startup_check": mode, "dbpool.engine_hook": hook}
    with app(settings, *PARTS) as web:
        assert (lines(caplog), web.pool.checkedin()) == ([], 0)
        # With the engine that is there: a hook that counts, or starts something, does so once.
        assert opened == ([] if mode == "off" else [web.engine])


def test_warn_says_so_once_and_starts(
    away: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """One line: the key, the pool, the address, the server's words, and no password."""
    away["dbpool.startup_check"] = "warn"
    with app(away, *PARTS):
        (said,) = lines(caplog)
    assert said.startswith("dbpool.startup_check = warn: pool 'default' cannot connect to")
    assert said.endswith("starting all the same.")
    assert "geheim" not in said and "\n" not in said and "within" not in said


def test_what_the_driver_quotes_is_told_without_the_password(
    away: dict[str, Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one line."""
    away["dbpool.startup_check"] = "warn"
    error = OSError("cannot use\nwhat was given (geheim)")
    monkeypatch.setattr(probes, "try_to_connect", lambda _made: error)
    with app(away, *PARTS):
        (said,) = lines(caplog)
    assert "(cannot use; what was given (***))" in said


def test_a_named_pool_has_its_own(
    settings: dict[str, Any], away: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The default pool is not looked at because a replica is."""
    settings["sqlalchemy.replica.url"] = away["sqlalchemy.url"]
    settings["dbpool.replica.startup_check"] = "warn"
    with app(settings, *PARTS):
        (said,) = lines(caplog)
    assert said.startswith("dbpool.replica.startup_check")


def test_wait_starts_when_its_time_is_over(
    away: dict[str, Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that it waits, and that it starts."""
    away |= {"dbpool.startup_check": "wait", "dbpool.startup_timeout": "200ms"}
    # However long the first try takes, time is left after it.
    looks = itertools.count()
    monkeypatch.setattr(probes, "monotonic", lambda: next(looks) / 16)
    with app(away, *PARTS):
        waiting, starting = lines(caplog)
    assert "waiting up to" in waiting and starting.endswith("starting all the same.")


def test_wait_ends_when_the_database_is_there(
    away: dict[str, Any], settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pauses grow, at random, up to a longest one, however long that takes."""
    away |= {"dbpool.startup_check": "wait", "dbpool.startup_timeout": "1h"}
    pauses: list[float] = []
    errors = iter([ConnectionRefusedError()] * 2000)
    monkeypatch.setattr(probes, "try_to_connect", lambda _made: next(errors, None))
    check_at_start(process_engine(away), pauses.append)
    assert len(pauses) == 2000 and 0.05 <= pauses[0] <= 0.1 and 1.0 <= pauses[-1] <= 2.0


def test_the_whole_time_is_used_and_told(
    away: dict[str, Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last pause is cut short, so that the last try comes at the end."""
    away |= {"dbpool.startup_check": "wait", "dbpool.startup_timeout": "7s"}
    now = [0.0]
    monkeypatch.setattr(probes, "try_to_connect", lambda _made: ConnectionRefusedError("no"))

    def wait(pause: float) -> None:
        now[0] += pause

    monkeypatch.setattr(probes, "monotonic", lambda: now[0])
    check_at_start(process_engine(away), wait)
    assert now == [pytest.approx(7.0)]
    waiting, starting = lines(caplog)
    assert "waiting up to 7 s" in waiting and " within 7 s (" in starting


def test_require_ends_the_process(away: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """With a status that gunicorn's master understands too."""
    away |= {"dbpool.startup_check": "require", "dbpool.startup_timeout": "0"}
    with pytest.raises(SystemExit) as raised, app(away, *PARTS):
        pass
    assert raised.value.code == EXIT_STATUS
    (said,) = lines(caplog)
    assert said.endswith("the process ends.")
    assert caplog.records[-1].levelno == logging.CRITICAL


def test_nobody_waits_for_a_wrong_password(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Only a person can help."""
    nowhere = sqlite_url.replace("test_", "no/such/folder/test_")
    settings = {"sqlalchemy.url": nowhere, "dbpool.startup_check": "wait"}
    with app(settings, *PARTS):
        (said,) = lines(caplog)
    assert "waiting" not in said


@pytest.mark.slow
def test_a_server_that_says_nothing_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """PyMySQL's own limit would end where the server accepts."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        settings = {
            "sqlalchemy.url": f"mysql+pymysql://web:x@127.0.0.1:{mute.getsockname()[1]}/h",
            "dbpool.connect_timeout": "2",
            "dbpool.startup_check": "warn",
        }
        with app(settings, *PARTS):
            assert len(lines(caplog)) == 1


def test_a_worker_looks_too(away: dict[str, Any]) -> None:
    """Before its first message."""
    away |= {"dbpool.startup_check": "require", "dbpool.startup_timeout": "0"}
    with pytest.raises(SystemExit):
        consume([1], lambda *_: pytest.fail(), away)
    get_engine(away).dispose()


def test_a_worker_stops_waiting_when_it_is_to_stop(away: dict[str, Any]) -> None:
    """The stop is obeyed, and is no failure."""
    away |= {"dbpool.startup_check": "require", "dbpool.startup_timeout": "1h"}
    check_at_start(process_engine(away), lambda _seconds: True)


def test_sigterm_ends_the_wait_and_reaches_its_handler(away: dict[str, Any]) -> None:
    """A server's handler makes a note for a loop that the wait would keep from running."""
    away |= {"dbpool.startup_check": "wait", "dbpool.startup_timeout": "1h"}
    seen: list[int] = []
    former = signal.signal(signal.SIGTERM, handler := lambda number, _frame: seen.append(number))
    try:
        with noting_sigterm() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            check_at_start(process_engine(away), stop.wait)
        assert (seen, signal.getsignal(signal.SIGTERM)) == ([signal.SIGTERM], handler)
    finally:
        signal.signal(signal.SIGTERM, former)


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN])
def test_a_process_without_a_handler_keeps_it_so(handler: signal.Handlers) -> None:
    """It ends at once at SIGTERM, or never, as it wants to."""
    former = signal.signal(signal.SIGTERM, handler)
    try:
        with noting_sigterm():
            assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, former)


def test_an_app_may_be_made_in_any_thread(away: dict[str, Any]) -> None:
    """Only the main thread can handle signals."""
    away |= {"dbpool.startup_check": "warn"}

    def make() -> str:
        with app(away, *PARTS):
            return "made"

    former = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with ThreadPoolExecutor(1) as executor:
            assert executor.submit(make).result() == "made"
    finally:
        signal.signal(signal.SIGTERM, former)
