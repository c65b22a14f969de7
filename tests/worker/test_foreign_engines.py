"""Messages on an engine of the app's own, of which nobody hears what its server says."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Pool, create_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool, QueuePool

from tests.support.makers import wait_for
from tests.support.servers.failover import PostgresPair
from tests.support.workers import Done
from tests.worker.test_failover import AtStandby, store_at_once, wrap

UNHEARD = pytest.mark.xfail(
    strict=True, reason="what a standby refuses on an engine of others is given up at once"
)


@UNHEARD
@pytest.mark.parametrize("per_class", [False, True], ids=["engine", "binds"])
@pytest.mark.parametrize("pool", [QueuePool, NullPool])
@pytest.mark.parametrize("handle", [store_at_once, wrap])
def test_messages_wait_for_the_primary(
    postgres_pair: PostgresPair,
    handle: Callable[[str, Session], None],
    pool: type[Pool],
    *,
    per_class: bool,
) -> None:
    """None is rejected, each is stored once."""
    worker = AtStandby(postgres_pair)
    engine, tries = create_engine(worker.settings["sqlalchemy.url"], poolclass=pool), list[str]()

    def make(_settings: dict[str, Any]) -> Session:
        return Session(binds={Done: engine}) if per_class else Session(engine)

    def counted(message: str, session: Session) -> None:
        tries.append(message)
        handle(message, session)

    thread = worker.start(["a", "b"], counted, session_factory=make, max_tries=1)
    wait_for(lambda: len(tries) > 1)
    worker.move()
    thread.join()
    engine.dispose()
    assert (worker.acked, worker.failed, worker.stored()) == (["a", "b"], [], ["a", "b"])
