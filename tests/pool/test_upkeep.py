"""When the housekeeper comes to look after a pool."""

from collections.abc import Callable
from threading import Event

import pytest
from sqlalchemy import create_engine

from pyramid_dbpool import ManagedPool
from pyramid_dbpool.pool import core
from pyramid_dbpool.pool.housekeeper import Housekeeper, Task
from tests.support.makers import PATIENCE, Maker, in_thread, wait_for


class Visits(Housekeeper):
    """Notes the calls to come, and makes none."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[Task] = []

    def call_at(self, due: float, run: Callable[[], object]) -> Task:
        """Note it."""
        self.tasks.append(Task(run))
        return self.tasks[-1]


def test_returns_at_once_make_one_visit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each visit schedules the next one, so a second one would come for ever."""
    visits = Visits()
    monkeypatch.setattr(core, "housekeeper", lambda: visits)
    engine = create_engine("sqlite://", poolclass=ManagedPool, idle_timeout=60.0)
    engine.connect().close()
    pool = engine.pool
    assert isinstance(pool, ManagedPool)
    # What two threads do that both came before the housekeeper was told.
    pool._core.upkeep.schedule()
    pool._core.upkeep.schedule()
    assert sum(task.run is not None for task in visits.tasks) == 1
    engine.dispose()


def test_a_return_to_a_waiter_plans_no_visit(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing is ever idle, there is nothing to look after: the last return plans it."""
    planned: list[object] = []

    def look_after(itself: core.Core) -> None:
        planned.append(itself)

    monkeypatch.setattr(core.Core, "look_after", look_after)
    pool = ManagedPool(maker, 1, 0, idle_timeout=60.0)
    lease, got = pool.connect(), Event()
    given_back = Event()

    def wait() -> None:
        mine = pool.connect()
        got.set()
        given_back.wait(PATIENCE)
        mine.close()

    thread = in_thread(wait)
    wait_for(lambda: pool.snapshot().waiting == 1)
    lease.close()
    assert got.wait(PATIENCE)
    assert not planned
    given_back.set()
    thread.join(PATIENCE)
    assert len(planned) == 1
    pool.dispose()
