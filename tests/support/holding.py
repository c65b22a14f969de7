"""A pool whose holders are watched, and what was said of them."""

from collections.abc import Iterator

import pytest

from pyramid_dbpool.pool.managed import ManagedPool
from tests.support.makers import Maker

LOGGER = "pyramid_dbpool.pool.watch"


@pytest.fixture
def watched(maker: Maker) -> Iterator[ManagedPool]:
    """Give a pool that warns after a minute."""
    pool = ManagedPool(maker, 2, 2, hold_warning=60.0, pool_name="jobs")
    yield pool
    pool.dispose()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """List what was warned of, without the lines that say that it is over."""
    mine = [each for each in caplog.records if each.name == LOGGER]
    return [each.getMessage() for each in mine if vars(each)["dbpool_event"] != "returned"]
