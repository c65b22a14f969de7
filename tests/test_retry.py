"""Which requests are tried again after an error of the database, and which must not be."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError

from pyramid_dbpool import CommitUnknown, get_engine, unit_of_work
from tests.webapp import Row, app, database

PARTS = ("pyramid_retry", "pyramid_tm", "pyramid_dbpool")

# Kills its own session inside COMMIT, when the server has it and has not answered.
DIES_IN_COMMIT = """
CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.id < 0 THEN
        UPDATE tickets SET n = n - 1; PERFORM pg_terminate_backend(pg_backend_pid());
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER die AFTER INSERT ON rows DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION die();
"""


@pytest.fixture
def count(psycopg_url: str) -> Iterator[Callable[[], int]]:
    with database(psycopg_url) as counter:
        yield counter


@pytest.fixture
def settings(psycopg_url: str, count: Callable[[], int]) -> dict[str, Any]:
    return {"sqlalchemy.url": psycopg_url, "tm.manager_hook": "pyramid_tm.explicit_manager"}


def kill_own(request: Request) -> None:
    request.db.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))


def attempt(request: Request) -> int:
    return int(request.environ["retry.attempt"])


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_disconnect_is_tried_again(settings: dict[str, Any], count: Callable[[], int], method: str) -> None:
    def view(request: Request) -> str:
        request.db.add(Row())
        request.db.flush()
        if attempt(request) == 0:
            kill_own(request)
        return str(attempt(request))

    with app(settings, *PARTS, index=view) as web:
        assert web.client.request("/", method=method).text == "1"
        assert count() == 1
