"""When the housekeeper comes to look after a pool."""

from collections.abc import Callable

import pytest
from sqlalchemy import create_engine

from pyramid_dbpool import ManagedPool
from pyramid_dbpool.pool import core
from pyramid_dbpool.pool.housekeeper import Housekeeper, Task


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
