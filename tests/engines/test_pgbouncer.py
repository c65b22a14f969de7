"""Through PgBouncer in transaction mode, where each transaction may have another connection."""

from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from pyramid_dbpool import unit_of_work
from pyramid_dbpool.drivers.connect_failures import ConnectFailure, connect_failure
from tests.support.servers.pgbouncer import PgBouncer

MODES = text(
    "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')"
)


def test_modes_hold_for_their_transaction_alone(bouncer_settings: dict[str, Any]) -> None:
    """The next transaction, on the same connection, may write."""
    settings = bouncer_settings
    with unit_of_work(settings, isolation_level="SERIALIZABLE", read_only=True) as session:
        assert tuple(session.execute(MODES).one()) == ("serializable", "on")
    with unit_of_work(settings) as session:
        session.execute(text("CREATE TABLE written (id integer)"))
        assert tuple(session.execute(MODES).one()) == ("read committed", "off")


def test_an_unknown_database_is_a_wrong_setting(pgbouncer: PgBouncer) -> None:
    """What PgBouncer says of it is understood: nobody waits for such a database."""
    engine = create_engine(pgbouncer.url(database="nowhere"))
    with pytest.raises(DBAPIError) as caught:
        engine.connect()
    assert connect_failure(engine.dialect, caught.value) is ConnectFailure.CONFIGURATION
