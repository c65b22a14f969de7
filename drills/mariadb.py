"""The restart and the failover drill on MariaDB."""

import time
from contextlib import suppress
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from drills import ledger, writes
from drills.failover import LATE
from drills.faults import DOWN, Fault
from drills.report import Figure
from drills.stack import Programs, ending
from tests.support.servers.failover import MariaDBPair
from tests.support.servers.mariadb import MariaDB
from tests.support.servers.proxy import FaultProxy

OTHERS = text(
    "SELECT id FROM information_schema.processlist WHERE db = 'ledger' AND id <> connection_id()"
)

# As by default, and not as in the tests: what was committed outlives a crash.
DURABLE: dict[str, Any] = {"innodb-flush-log-at-trx-commit": 1}


def restart(seconds: float, patience: float = 5.0) -> list[Figure]:
    """Let MariaDB, or the network before it, fail in four ways."""
    with ending() as (folder, ends):
        server = MariaDB(folder / "mariadb", **DURABLE)
        server.start()
        ends.callback(server.stop)
        server.create("ledger")
        proxy = FaultProxy(server.port)
        ends.callback(proxy.close)
        url = server.url(database="ledger")
        ledger.make_tables(url)
        faults = [
            Fault("restarted, 1 s down", lambda: away(server)),
            Fault("crashed", lambda: crash(server)),
            Fault("connections killed", lambda: kill_all(url)),
            Fault("connections cut", lambda: proxy.cut(abort=True)),
        ]
        made = Programs(folder, "ledger", proxy.url(url), ends, patience)
        return writes.under(made, faults, seconds, lambda: url)


def away(server: MariaDB) -> None:
    """Stop in order, stay away, start."""
    server.stop()
    time.sleep(DOWN)
    server.start()


def crash(server: MariaDB) -> None:
    """Stop without order, start."""
    server.kill()
    server.start()


def kill_all(url: str) -> None:
    """End every connection of the app's."""
    with ledger.reading(url) as session:
        for number in session.scalars(OTHERS).all():
            with suppress(OperationalError):  # it has ended
                session.execute(text(f"KILL {number}"))


def failover(seconds: float, patience: float = 5.0) -> list[Figure]:
    """Let the primary become read-only under its connections, and then crash."""
    with ending() as (folder, ends):
        pair = MariaDBPair(folder)
        ends.callback(pair.stop)
        ledger.make_tables(pair.primary.url(database="test"))
        pair.replicate()
        faults = [
            Fault("primary read-only, its connections alive", lambda: switch(pair)),
            Fault("primary crashed, back as a replica", lambda: lose(pair)),
        ]
        made = Programs(folder, "ledger", pair.url(), ends, patience)
        return writes.under(made, faults, seconds, lambda: pair.primary.url(database="test"))


def switch(pair: MariaDBPair) -> None:
    """Make the primary read-only, whose connections go on answering, and promote the other."""
    pair.demote()
    pair.catch_up()
    old = pair.promote()
    time.sleep(LATE)
    pair.lead_to(pair.primary)
    pair.rejoin(old)


def lose(pair: MariaDBPair) -> None:
    """Let the primary crash, and come back read-only where the app still looks for it."""
    pair.demote()
    pair.catch_up()
    pair.primary.kill()
    old = pair.promote()
    pair.rejoin(old)
    time.sleep(LATE)
    pair.lead_to(pair.primary)
