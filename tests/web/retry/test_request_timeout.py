"""How long a request waits for connections, over all its attempts."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from pyramid.request import Request
from pyramid_retry import RetryableException

from pyramid_dbpool.pool.deadlines import current_deadline
from pyramid_dbpool.web import retry
from tests.support.webapp import PARTS, app


@pytest.fixture
def seconds_left(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[[float], list[float]]:
    """Run a request of half an hour's timeout; give what each of its two attempts had left."""
    settings["dbpool.request_timeout"] = "30m"

    def run(passing: float) -> list[float]:
        began = time.monotonic()
        left: list[float] = []

        def view(request: Request) -> None:
            left.append((current_deadline() or 0.0) - time.monotonic())
            monkeypatch.setattr(retry, "monotonic", lambda: began + passing)
            if len(left) < 2:
                raise RetryableException

        with app(settings, *PARTS, index=view) as web:
            web.get()
            assert current_deadline() is None
        return left

    return run


def test_all_attempts_share_one_deadline(seconds_left: Callable[[float], list[float]]) -> None:
    """`request_timeout` counts from the beginning of the request; ten minutes go by."""
    assert seconds_left(600) == [pytest.approx(1800, abs=60), pytest.approx(1200, abs=60)]


def test_a_request_whose_time_is_over_waits_for_nothing(
    seconds_left: Callable[[float], list[float]],
) -> None:
    """It is tried again all the same: there may be a connection that it need not wait for."""
    left = seconds_left(3600)
    assert len(left) == 2 and left[1] <= 0
