"""Errors of pings, which come by where statements' errors are heard."""

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from pyramid_dbpool import dispose_engine, get_engine
from pyramid_dbpool.engines.stored import observed
from tests.support.servers.fixtures import MARIADB, POSTGRES, NewDatabase

POOLS = {
    "ours": {"dbpool.liveness": "false"},
    "another": {"sqlalchemy.poolclass": "sqlalchemy.pool.QueuePool"},
}


def end_session(url: str, number: int) -> None:
    """End a session of the server from outside."""
    outside = create_engine(url, poolclass=NullPool)
    with outside.connect() as other:
        if outside.dialect.name == "postgresql":
            other.execute(text(f"SELECT pg_terminate_backend({number}, 10000)"))
        else:
            other.execute(text(f"KILL {number}"))


@pytest.mark.parametrize("pool", POOLS.values(), ids=list(POOLS))
@pytest.mark.parametrize("backend", [*POSTGRES, *MARIADB])
def test_a_ping_that_finds_a_dead_connection_is_not_the_callers(
    new_database: NewDatabase, backend: str, pool: dict[str, str]
) -> None:
    """It is replaced, also while somebody observes; nothing has failed that he has sent."""
    url = new_database(backend)
    settings = {"sqlalchemy.url": url, "sqlalchemy.pool_pre_ping": "true", **pool}
    engine = get_engine(settings)
    number = "pg_backend_pid()" if engine.dialect.name == "postgresql" else "CONNECTION_ID()"
    ask = text(f"SELECT {number}")
    with engine.connect() as connection:
        before = connection.scalar(ask)
    end_session(url, before)
    with observed() as outcome:
        with engine.connect() as connection:
            assert connection.scalar(ask) != before
        assert outcome.nothing_stored and outcome.heard is None
    dispose_engine(settings)
