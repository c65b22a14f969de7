"""Connections that were opened at a fenced primary, and are in use when the fence is over."""

import pytest
from pyramid.request import Request
from sqlalchemy import insert, text

from pyramid_dbpool.engines.registry import process_engine
from tests.support.makers import wait_for
from tests.support.servers.failover import PostgresPair
from tests.support.webapp import PARTS, Row, app
from tests.web.retry.test_failover import READ_ONLY, TAKES_WRITES, Failover
from tests.web.retry.views import number

POOLS = {
    "ours": dict[str, str](),
    "queue": {"sqlalchemy.poolclass": "sqlalchemy.pool.QueuePool"},
    "null": {"sqlalchemy.poolclass": "sqlalchemy.pool.NullPool"},
}


def once(said: list[str], words: str) -> bool:
    return [words in each for each in said].count(True) == 1


@pytest.mark.parametrize("whose", ["ROLE postgres", "DATABASE postgres"])
@pytest.mark.parametrize("pool", POOLS.values(), ids=list(POOLS))
def test_what_is_in_use_across_the_end_of_a_fence_is_tried_again(
    postgres_pair: PostgresPair,
    pool: dict[str, str],
    whose: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its session stays read-only; the server is not called so anew."""
    failover = Failover(postgres_pair)
    failover.move()
    settings, fence = failover.settings | pool, f"ALTER {whose} %s default_transaction_read_only"

    def end_fence(request: Request) -> None:
        postgres_pair.execute(fence % "RESET")
        writes.look_beside()
        wait_for(lambda: writes.since is None)

    def view(request: Request) -> str:
        if number(request) == 0:
            # On another connection than the one in hand, which was opened at the fenced one too.
            request.db.execute(text("SELECT 1"))
            with web.engine.connect() as other, pytest.raises(Exception, match="read-only"):
                other.execute(insert(Row))
            end_fence(request)
        request.db.execute(insert(Row))
        return str(number(request))

    with app(settings, *PARTS, index=view) as web:
        writes = process_engine(settings).writes
        web.engine.connect().close()
        postgres_pair.execute(fence % "SET" + " = on")
        web.engine.dispose()
        try:
            assert web.client.post("/").text == "1"
        finally:
            postgres_pair.execute(fence % "RESET")
    assert failover.count() == 1
    said = [record.getMessage() for record in caplog.records]
    assert once(said, READ_ONLY) and once(said, TAKES_WRITES), said
