"""What is known of a connection's transaction, while somebody observes."""

import pytest
from sqlalchemy import select

from pyramid_dbpool import dispose_engine, get_engine
from pyramid_dbpool.engines.stored import observed
from pyramid_dbpool.engines.traffic import Traffic


@pytest.mark.parametrize("begin", ["begin", "begin_twophase"])
def test_a_transaction_begins_anew(postgres_url: str, begin: str) -> None:
    """The time that its connection has lain in the pool is not its holder's."""
    settings = {"sqlalchemy.url": postgres_url}
    engine = get_engine(settings)
    with observed(), engine.begin() as connection:
        connection.execute(select(1))
    with observed(), engine.connect() as connection, getattr(connection, begin)() as begun:
        connection.execute(select(1))
        traffic = Traffic.on(connection.connection)
        assert traffic is not None
        assert traffic.idle_seconds(in_statement=True) is None
        begun.rollback()
    dispose_engine(settings)
