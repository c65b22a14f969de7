"""An outage writes two lines to the log, and its errors are one line each."""

import logging
import threading
from collections.abc import Callable

import pytest
from sqlalchemy import event, text

from pyramid_dbpool import CommitUnknown, DatabaseUnavailable, deadline, dispose_engine, get_engine
from pyramid_dbpool.drivers.connect_failures import ConnectFailure
from pyramid_dbpool.drivers.driver_errors import driver_text
from pyramid_dbpool.embedded import PrivatePostgres
from pyramid_dbpool.errors import PoolTimeout
from pyramid_dbpool.events import Field, Kind
from pyramid_dbpool.pool.deadlines import (
    cited_setting,
    current_deadline,
    is_callers,
    pool_limit,
    setting_limit,
)
from pyramid_dbpool.pool.leases import holders_text
from pyramid_dbpool.pool.managed import ManagedPool
from pyramid_dbpool.pool.options import argument_name
from pyramid_dbpool.pool.outage import Outage, OutageLog
from pyramid_dbpool.pool.refusals import line_full_text, slow_text
from pyramid_dbpool.pool.stats import Holder
from tests.support.happened import Happened
from tests.support.makers import PATIENCE, Connection, Maker, in_thread, wait_for

NewPostgres = Callable[..., PrivatePostgres]
LOGGER = "pyramid_dbpool.pool.outage"


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """List what was said of outages, all of it as warnings."""
    mine = [each for each in caplog.records if each.name == LOGGER]
    assert {each.levelno for each in mine} <= {logging.WARNING}
    return [each.getMessage() for each in mine]


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_an_outage_is_said_once_and_so_is_its_end(
    driver: str, new_postgres: NewPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    """However many callers meet it; the end says how long it was and how many got nothing."""
    server = new_postgres()
    settings = {
        "sqlalchemy.url": server.url(driver),
        "sqlalchemy.pool_timeout": "60",
        "dbpool.min_idle": "0",
    }
    engine = get_engine(settings)
    server.stop()
    patient = in_thread(lambda: engine.connect().close())
    wait_for(lambda: lines(caplog))
    for _ in range(3):
        with pytest.raises(DatabaseUnavailable) as caught, deadline(0.05):
            engine.connect()
        assert "\n" not in str(caught.value)
        assert caught.value.orig is not None
    server.start()
    patient.join(PATIENCE)
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    # Written by the thread that has opened the connection, when that is used already.
    wait_for(lambda: len(lines(caplog)) > 1)
    away, back = lines(caplog)
    assert away.startswith("pool 'default': the database server is unreachable (")
    assert "refused at once after 10 s" in away
    assert "\n" not in away
    assert back.startswith("pool 'default': the database server is back after ")
    assert "3 callers got no connection meanwhile" in back
    dispose_engine(settings)


def test_the_line_shows_no_secret(maker: Maker, caplog: pytest.LogCaptureFixture) -> None:
    """Drivers quote what they were given."""
    maker.error = ConnectionRefusedError("no way to\n\thost=db password=s3cret")
    pool = ManagedPool(maker, 1, 0, background=True, outage_grace=0.0, pool_name="jobs")
    with pytest.raises(DatabaseUnavailable) as caught:
        pool.connect()
    wait_for(lambda: lines(caplog))
    (away,) = lines(caplog)
    for said in (away, str(caught.value)):
        assert "no way to; host=db password=***" in said
        assert "s3cret" not in said
    pool.dispose()


def test_the_line_is_written_without_the_lock(maker: Maker) -> None:
    """A handler may wait for a table that is written through this very pool."""
    free: list[bool] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            taken = threading.Event()
            thread = threading.Thread(target=lambda: (pool.snapshot(), taken.set()))
            thread.start()
            free.append(taken.wait(PATIENCE))

    maker.error = ConnectionRefusedError("nobody listens")
    pool = ManagedPool(maker, 1, 0, background=True, outage_grace=0.0)
    handler = Handler()
    logging.getLogger(LOGGER).addHandler(handler)
    try:
        with pytest.raises(DatabaseUnavailable):
            pool.connect()
        wait_for(lambda: free)
    finally:
        logging.getLogger(LOGGER).removeHandler(handler)
        pool.dispose()
    assert free == [True]


def test_a_callers_deadline_is_named_and_not_the_pools(maker: Maker) -> None:
    """Whoever set half a second himself gains nothing from a longer pool_timeout."""
    pool = ManagedPool(maker, 1, 0, timeout=30.0)
    lease = pool.connect()
    with pytest.raises(PoolTimeout) as caught, deadline(0.0):
        pool.connect()
    assert "the deadline of the caller" in str(caught.value)
    assert "allow a longer deadline" in str(caught.value)
    assert "pool_timeout" not in str(caught.value)
    lease.close()


def test_the_pools_own_timeout_is_named(maker: Maker) -> None:
    """Also where it counts for more than one attempt, and inside a longer deadline."""
    pool = ManagedPool(maker, 1, 0, timeout=0.0)
    lease = pool.connect()
    with pytest.raises(PoolTimeout, match="or raise pool_timeout"), deadline(9):
        pool.connect()
    lease.close()
    listening = ManagedPool(maker, 1, 0, timeout=0.02, background=True, min_idle=1)
    listening.warm()
    event.listen(listening, "checkout", lambda *_: None)
    lease = listening.connect()
    with pytest.raises(PoolTimeout, match="or raise pool_timeout"):
        listening.connect()
    lease.close()
    listening.dispose()


def test_whose_deadline_it_is_is_known_at_every_depth() -> None:
    """The one that comes first counts."""
    with pool_limit(1.0):
        until = current_deadline()
        assert until is not None
        assert not is_callers(until)
        with deadline(0.5):
            until = current_deadline()
            assert until is not None
            assert is_callers(until)
    with deadline(0.5), pool_limit(1.0):
        until = current_deadline()
        assert until is not None
        assert is_callers(until)


def test_a_settings_deadline_is_cited_only_where_it_comes_first() -> None:
    """A caller's own one inside or around it may be shorter."""
    with setting_limit(1.0, "dbpool.request_timeout = 1 s"):
        assert cited_setting(current_deadline()) == "dbpool.request_timeout = 1 s"
        with deadline(9):
            assert cited_setting(current_deadline()) == "dbpool.request_timeout = 1 s"
        with deadline(0.5):
            assert cited_setting(current_deadline()) is None
    with deadline(0.5), setting_limit(1.0, "dbpool.request_timeout = 1 s"):
        assert cited_setting(current_deadline()) is None


def test_a_drivers_words_stand_on_one_line_without_its_question() -> None:
    """libpq asks whether the server runs: whoever reads the log cannot answer."""
    said = OSError(
        'connection to server at "::1", port 1 failed: Connection refused\n'
        "\tIs the server running on that host and accepting TCP/IP connections?\n"
        'connection to server at "127.0.0.1", port 1 failed: timeout expired\n'
    )
    assert driver_text(said) == (
        'connection to server at "::1", port 1 failed: Connection refused; '
        'connection to server at "127.0.0.1", port 1 failed: timeout expired'
    )
    assert driver_text(OSError()) == "OSError"
    listed = OSError("all failures were:\n- host: 'a'\n- host: 'b'")
    assert driver_text(listed) == "all failures were: - host: 'a'; - host: 'b'"


def test_the_longest_holders_are_named_and_not_all_of_them() -> None:
    """The longest first; a pool of fifty would fill a screen."""
    holders = [Holder(f"GET route '{number}'", float(number)) for number in range(1, 8)]
    named = "; ".join(f"GET route '{number}' for {number}.0 s" for number in (7, 6, 5, 4, 3))
    assert holders_text(holders[1:]) == f" Longest holders: {named}; and 1 other."
    assert holders_text(holders) == f" Longest holders: {named}; and 2 others."
    assert holders_text([*holders, *holders[:1]]).endswith("; and 2 others with 3.")


def test_what_it_means_that_a_holder_has_ended_is_said() -> None:
    """To somebody at night: nobody is going to give that connection back."""
    text = holders_text([Holder("GET route 'keep' (ended)", 3.0)])
    assert "Who has ended has not given its connection back: a leak, which" in text
    assert "a leak" not in holders_text([Holder("GET route 'slow'", 3.0)])
    assert holders_text([]) == ""


def test_the_holders_with_one_name_are_one() -> None:
    """The view that eats the pool comes before one that has leaked a moment ago."""
    holders = [Holder("GET /slow", 12.3 - number) for number in range(8)]
    holders += [Holder("GET /leaks", 20.0), Holder("GET /leaks", 5.0), Holder("GET /", 0.04)]
    assert holders_text(holders) == (
        " Longest holders: GET /slow: 8 connections, the longest for 12.3 s;"
        " GET /leaks: 2 connections, the longest for 20.0 s; GET / for 0.0 s."
    )


def test_one_is_no_plural() -> None:
    """In the errors of a pool with one connection."""

    def full(waiting: int, capacity: int) -> str:
        return line_full_text("default", argument_name, waiting, capacity)

    def slow(opening: int) -> str:
        return slow_text("default", argument_name, 1.0, opening)

    assert "1 caller waits already for its only connection, as many as" in full(1, 1)
    assert "3 callers wait already for its 2 connections" in full(3, 2)
    assert "max_waiting = 0 lets nobody wait" in full(0, 2)
    assert "1 connection is still being opened" in slow(1)
    assert "2 connections are still being opened" in slow(2)


def test_a_slow_server_is_no_reason_to_change_what_does_not_hold(maker: Maker) -> None:
    """The same where the time is over before a connection is open."""
    opening = threading.Event()
    maker.before = lambda: opening.wait(PATIENCE)
    pool = ManagedPool(maker, 1, 0, timeout=30.0, background=True)
    said = "the deadline of the caller says how long"
    with pytest.raises(PoolTimeout, match=said), deadline(0.02):
        pool.connect()
    opening.set()
    pool.connect().close()
    pool.dispose()
    assert isinstance(maker.made[0], Connection)


def test_an_unknown_commit_is_one_line_too() -> None:
    """Its driver's error as well."""
    assert "\n" not in str(CommitUnknown(OSError("gone\nbefore the answer")))


def test_every_outage_has_its_own_two_lines(
    caplog: pytest.LogCaptureFixture, happened: Happened
) -> None:
    """What goes on failing, or working, is not said again; the next outage is."""
    outages = OutageLog("jobs", None)
    for begin in (10.0, 20.0):
        outage = Outage(ConnectFailure.UNREACHABLE, begin, OSError("away"))
        outages.note(outage, begin)
        outages.refused()
        outages.note(outage, begin + 1)
        outages.note(None, begin + 2)
        outages.note(None, begin + 3)
    outages.write()
    away = (
        "pool 'jobs': the database server is unreachable (away)."
        " Callers wait until it is back or their time is over."
    )
    back = (
        "pool 'jobs': the database server is back after 2.0 s;"
        " 1 caller got no connection meanwhile."
    )
    assert lines(caplog) == [away, back] * 2
    began: dict[str, Field] = {"reason": "unreachable"}
    over = began | {"seconds": 2.0, "refused": 1}
    assert [(each.kind, each.text, each.fields) for each in happened()] == [
        (Kind.OUTAGE, away, began),
        (Kind.BACK, back, over),
    ] * 2
    assert {each.pool for each in happened()} == {"jobs"}


def test_a_login_that_is_refused_is_an_outage_with_its_reason(happened: Happened) -> None:
    """So that whoever alarms can tell it from a server that is away."""
    outages = OutageLog("jobs", None)
    outages.note(Outage(ConnectFailure.CONFIGURATION, 1.0, OSError("no such role")), 1.0)
    outages.note(None, 3.5)
    outages.write()
    assert [(each.kind, each.fields) for each in happened()] == [
        (Kind.OUTAGE, {"reason": "configuration"}),
        (Kind.BACK, {"reason": "configuration", "seconds": 2.5, "refused": 0}),
    ]


def test_a_server_that_is_full_is_not_away(caplog: pytest.LogCaptureFixture) -> None:
    """It answers: the end of an outage, and not the beginning of one."""
    outages = OutageLog("jobs", None)
    outages.note(Outage(ConnectFailure.SATURATED, 1.0, OSError("full")), 1.0)
    outages.write()
    assert lines(caplog) == []
