"""The streamer of the app of h's shape: its own loop, one session, the process's engine."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session
from webtest import TestApp

from pyramid_dbpool import get_engine, session_factory
from tests.support.h_shape.app import Annotations, Broken
from tests.support.h_shape.streamer import process_work_queue
from tests.web.h_shape.conftest import Outside


def test_a_loop_of_its_own_goes_on(
    settings: dict[str, Any], web: TestApp, outside: Outside, caplog: pytest.LogCaptureFixture
) -> None:
    """Each message sees what requests have stored before it, whatever happened to the last one."""
    seen: list[int] = []
    idle: list[int] = []

    def messages() -> Iterator[str]:
        for number, message in enumerate(("", "fails", "", "is cut off", "", "writes", "")):
            web.post("/annotations", {"text": f"{number}"})
            idle.append(outside.idle_in_transaction())
            yield message

    def handle(message: str, session: Session) -> None:
        seen.append(Annotations(session).count())
        if message == "fails":
            raise Broken
        if message == "writes":
            Annotations(session).create("never")
        if message == "is cut off":
            session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    process_work_queue(settings, messages(), session_factory, handle)
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    assert idle == [0] * 7
    assert caplog.text.count("a message failed") == 3
    assert outside.annotations == list("0123456")
    assert get_engine(settings).pool.checkedout() == 0  # type: ignore[attr-defined]
