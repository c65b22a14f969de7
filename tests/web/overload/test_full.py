"""A database that can store nothing: no request is to blame for it, and none is an error 500."""

from typing import Any

import pytest
from pyramid.request import Request
from sqlalchemy import text

from pyramid_dbpool import get_engine
from pyramid_dbpool.events import Kind
from tests.support.full import INSERT, Full
from tests.support.happened import Happened
from tests.support.webapp import PARTS, TM, app
from tests.web.retry.views import settings_for

FULL = "the server can store nothing"


def read(request: Request) -> Any:
    return request.db.scalar(text("SELECT 1"))


@pytest.mark.parametrize("parts", [PARTS, TM], ids=["retry", "no retry"])
def test_a_write_is_a_503_while_it_is_full(
    full_database: Full,
    parts: tuple[str, ...],
    caplog: pytest.LogCaptureFixture,
    happened: Happened,
) -> None:
    """Others may read, the log says it once, and there is room again without anybody's help."""
    settings = settings_for(full_database.url)
    full_database.prepare(get_engine(settings))
    attempts: list[None] = []

    def write(request: Request) -> None:
        attempts.append(None)
        request.db.execute(INSERT, full_database.row(1))

    with app(settings, *parts, index=write, read=read) as web:
        for _ in range(3):
            answer = web.client.post("/", status=503)
            assert int(answer.headers["Retry-After"]) >= 1
        assert len(attempts) == 3
        assert web.get("/read").text == "1"
        full_database.free()
        web.client.post("/")
        assert web.checked_out() == 0
    assert full_database.rows() == [1]
    said = [record.getMessage() for record in caplog.records if FULL in record.getMessage()]
    # Its own line, and that of the first of the requests that were answered with 503.
    assert [each.partition(" ")[0] for each in said] == ["pool", "503"], said
    assert [each.text for each in happened(Kind.FULL, Kind.REFUSED)] == said
