"""How long a request waits for connections, over all its attempts."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
from pyramid.request import Request
from pyramid_retry import RetryableException

from pyramid_dbpool import (
    retry,
)
from pyramid_dbpool.limits import current_deadline
from tests.webapp import PARTS, app


def test_all_attempts_share_one_deadline(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`request_timeout` counts from the beginning of the request."""
    settings["dbpool.request_timeout"] = "30m"
    began = time.monotonic()
    left: list[float] = []

    def view(request: Request) -> None:
        left.append((current_deadline() or 0.0) - began)
        # Ten minutes go by.
        monkeypatch.setattr(retry, "time", SimpleNamespace(monotonic=lambda: began + 600))
        if len(left) < 2:
            raise RetryableException

    with app(settings, *PARTS, index=view) as web:
        web.get()
        assert left == [pytest.approx(1800, abs=60), pytest.approx(1200, abs=60)]
        assert current_deadline() is None


def test_a_request_whose_time_is_over_waits_for_nothing(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again all the same: there may be a connection that it need not wait for."""
    settings["dbpool.request_timeout"] = "30m"
    began = time.monotonic()
    left: list[float] = []

    def view(request: Request) -> None:
        left.append((current_deadline() or 0.0) - time.monotonic())
        # An hour goes by.
        monkeypatch.setattr(retry, "time", SimpleNamespace(monotonic=lambda: began + 3600))
        if len(left) < 2:
            raise RetryableException

    with app(settings, *PARTS, index=view) as web:
        web.get()
    assert len(left) == 2 and left[1] <= 0
