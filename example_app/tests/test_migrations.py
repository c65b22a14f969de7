"""The tables, as the migrations make them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from processes import Program, wait_until, write_ini
from sqlalchemy import func, inspect, select, text

from example_app import main
from example_app.migrate import LOCK
from example_app.models import Base
from pyramid_dbpool import dispose_engine, get_engine


@pytest.fixture
def empty(psycopg_url: str) -> Iterator[dict[str, Any]]:
    """Give the settings of a database without tables."""
    made = {"sqlalchemy.url": psycopg_url}
    yield made
    dispose_engine(made)


def tables(settings: dict[str, Any]) -> set[str]:
    """Tell which tables there are."""
    return set(inspect(get_engine(settings)).get_table_names())


def test_they_make_what_the_models_say(settings: dict[str, Any]) -> None:
    """Alembic finds no difference between the two."""
    with get_engine(settings).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


@pytest.mark.programs
def test_workers_that_start_together(empty: dict[str, Any], tmp_path: Path) -> None:
    """One runs the migrations, the others wait for it and have nothing to do."""
    ini = str(write_ini(tmp_path, "production.ini", empty))
    with get_engine(empty).begin() as connection:
        # Until all of them are there.
        connection.execute(select(func.pg_advisory_xact_lock(LOCK)))
        programs = [Program("-m", "example_app.migrate", ini) for _ in range(2)]
        wait_until(lambda: waiting(empty) == 2)
    assert [program.end() for program in programs] == [0, 0]
    assert [program.output for program in programs] == ["", ""]
    assert tables(empty) == {"alembic_version", "notes"}


def waiting(settings: dict[str, Any]) -> int:
    """Count those who wait for the lock."""
    query = text(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    with get_engine(settings).connect() as connection:
        return int(connection.scalar(query) or 0)


def test_on_start_only_where_the_ini_file_says_so(
    empty: dict[str, Any], settings: dict[str, Any], new_database: Any
) -> None:
    """Development does, production does not."""
    settings = {**settings, **empty, "sqlalchemy.url": new_database("postgresql+psycopg")}
    main({}, **settings)
    assert tables(settings) == set()
    main({}, **settings, migrate_on_start="true")
    assert "notes" in tables(settings)
    dispose_engine(settings)
