"""A disk that is full at COMMIT: the server says so and rolls back, and nothing is in doubt."""

from collections.abc import Callable
from typing import Any

import pytest
from pyramid.request import Request

from pyramid_dbpool.embedded import PrivatePostgres
from tests.support.full import ASK, full_at_commit
from tests.support.servers.disks import SmallDisk
from tests.support.webapp import PARTS, TM, TwoPhaseSession, app
from tests.support.workers import Lost, log_watch
from tests.web.retry.views import settings_for

NewPostgres = Callable[..., PrivatePostgres]
PHASES: dict[str, tuple[str, dict[str, Any]]] = {
    "psycopg": ("psycopg", {}),
    "psycopg2": ("psycopg2", {}),
    # psycopg takes for prepared what the server has refused to prepare, and cannot roll it back.
    "two phases": ("psycopg2", {"dbpool.session_class": TwoPhaseSession}),
}
phases = pytest.mark.parametrize(("driver", "phase"), PHASES.values(), ids=list(PHASES))


@phases
@pytest.mark.parametrize("parts", [PARTS, TM], ids=["retry", "no retry"])
def test_a_commit_for_which_there_is_no_room_is_a_503(
    new_postgres: NewPostgres,
    small_disk: SmallDisk,
    driver: str,
    phase: dict[str, Any],
    parts: tuple[str, ...],
) -> None:
    """The client may come again, whatever its method."""
    full = full_at_commit(new_postgres({"max_prepared_transactions": 5}), driver, small_disk)

    def write(request: Request) -> None:
        request.db.execute(ASK, full.row(1))

    with app(settings_for(full.url) | phase, *parts, index=write) as web:
        assert int(web.client.post("/", status=503).headers["Retry-After"]) >= 1
        assert web.checked_out() == 0
        full.free()
        web.client.post("/")
    assert full.rows() == [1]


@phases
def test_messages_wait_for_room_at_commit(
    new_postgres: NewPostgres, small_disk: SmallDisk, driver: str, phase: dict[str, Any]
) -> None:
    """None is rejected, and each is stored once."""
    full = full_at_commit(new_postgres({"max_prepared_transactions": 5}), driver, small_disk)
    worker = Lost(full.url, **phase)
    with log_watch("has room") as log:
        thread = worker.start(
            [1, 2], lambda message, session: session.execute(ASK, full.row(message))
        )
        log.wait("has room")
        full.free()
        thread.join()
    assert (worker.acked, worker.failed, full.rows()) == ([1, 2], [], [1, 2])
