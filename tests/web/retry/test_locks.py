"""Locks that are not had in time, and prepared statements that are too old."""

import json

import pytest
from pyramid.request import Request
from sqlalchemy import create_engine, insert, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from pyramid_dbpool import warm
from tests.support.servers.fixtures import MARIADB, POSTGRES
from tests.support.webapp import PARTS, Row, app, database
from tests.web.retry.views import NewDatabase, number, settings_for

SET_TIMEOUT = {
    "postgresql": "SET LOCAL lock_timeout = '1s'",
    "mysql": "SET SESSION innodb_lock_wait_timeout = 1",
}
LOCK = "SELECT id FROM {} WHERE id = 1 FOR UPDATE"


class Locked:
    """A row that somebody else has locked until the second attempt."""

    def __init__(self, url: str) -> None:
        self.other = create_engine(url, poolclass=NullPool).connect()
        self.dialect = self.other.dialect
        self.lock = text(LOCK.format(self.dialect.identifier_preparer.quote("rows")))
        self.attempts: list[int] = []

    def view(self, request: Request) -> str:
        self.attempts.append(number(request))
        if number(request) == 1:
            self.other.rollback()
        request.db.execute(text(SET_TIMEOUT[self.dialect.name]))
        request.db.execute(self.lock)
        return str(number(request))

    def __enter__(self) -> "Locked":
        self.other.execute(insert(Row).values(id=1))
        self.other.commit()
        self.other.execute(self.lock)
        return self

    def __exit__(self, *_: object) -> None:
        self.other.close()


@pytest.mark.parametrize("backend", [*POSTGRES, *MARIADB])
def test_a_lock_that_was_not_had_in_time_is_tried_again(
    new_database: NewDatabase, backend: str
) -> None:
    """Whoever had it has gone."""
    url = new_database(backend)
    with (
        database(url),
        Locked(url) as locked,
        app(settings_for(url), *PARTS, index=locked.view) as web,
    ):
        assert web.client.post("/").text == "1"


@pytest.mark.parametrize("limit", ["sqlalchemy.pool_timeout", "dbpool.request_timeout"])
@pytest.mark.parametrize("backend", [*POSTGRES, *MARIADB])
def test_a_long_wait_for_a_lock_is_not_repeated(
    new_database: NewDatabase, backend: str, limit: str
) -> None:
    """Nobody would have waited as long for a connection."""
    url = new_database(backend)
    with (
        database(url),
        Locked(url) as locked,
        app(settings_for(url) | {limit: "500ms"}, *PARTS, index=locked.view) as web,
    ):
        # On a busy machine an opening must not be what takes too long.
        warm(web.engine)
        with pytest.raises(DBAPIError):
            web.client.post("/")
    assert locked.attempts == [0]


def test_nowait_is_tried_again(new_database: NewDatabase) -> None:
    """PostgreSQL says the same as of a wait that was given up."""
    url = new_database("postgresql+psycopg")
    with database(url), Locked(url) as locked:
        locked.lock = text(f"{locked.lock} NOWAIT")
        with app(settings_for(url), *PARTS, index=locked.view) as web:
            assert web.client.post("/").text == "1"


@pytest.mark.parametrize("kind", ["view", "table"])
def test_a_prepared_statement_whose_result_has_changed_is_tried_again(
    new_database: NewDatabase, kind: str
) -> None:
    """A migration came between; nothing was executed, and the driver prepares it anew."""
    url = new_database("postgresql+psycopg")
    outside = create_engine(url, poolclass=NullPool)
    attempts: list[int] = []

    def view(request: Request) -> str:
        request.db.add(Row())
        request.db.flush()
        rows = request.db.execute(text("SELECT * FROM changing")).all()
        attempts.append(number(request))
        return str(len(rows))

    settings = settings_for(url) | {
        "sqlalchemy.connect_args": json.dumps({"prepare_threshold": 0})
    }
    make = "CREATE VIEW changing AS SELECT 1 AS a"
    change = "CREATE OR REPLACE VIEW changing AS SELECT 1 AS a, 2 AS b"
    if kind == "table":
        make, change = "CREATE TABLE changing (a int)", "ALTER TABLE changing ADD b int"
    with database(url) as count, app(settings, *PARTS, index=view) as web:
        with outside.begin() as connection:
            connection.execute(text(make))
        web.client.post("/")
        with outside.begin() as connection:
            connection.execute(text(change))
        web.client.post("/")
        assert (attempts, count()) == ([0, 1], 2)


def test_what_postgres_does_not_have_is_not_tried_again(new_database: NewDatabase) -> None:
    """It says so with the same SQLSTATE."""
    url, attempts = new_database("postgresql+psycopg"), []

    def view(request: Request) -> None:
        attempts.append(number(request))
        request.db.execute(text("DO $$ BEGIN RAISE EXCEPTION '' USING ERRCODE='0A000'; END $$"))

    with app(settings_for(url), *PARTS, index=view) as web, pytest.raises(DBAPIError):
        web.client.post("/")
    assert attempts == [0]
