"""How the transaction of a unit runs: isolation level, read-only, deferrable."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.orm import Session

from pyramid_dbpool import dispose_engine, get_engine, unit_of_work
from tests.support.webapp import Row, database


def test_modes_hold_for_one_transaction(settings: dict[str, Any]) -> None:
    """A read-only unit refuses writes, the next one on the same connection does not."""
    with pytest.raises(DBAPIError), unit_of_work(settings, read_only=True) as session:
        session.add(Row())
        session.flush()
    with unit_of_work(settings, read_only=True, isolation_level="serializable"):
        pass
    with unit_of_work(settings) as session:
        session.add(Row())


def test_a_read_only_unit_refuses_what_commit_would_flush(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """Also where nothing was flushed before the end of the unit."""
    with pytest.raises(DBAPIError), unit_of_work(settings, read_only=True) as session:
        session.add(Row())
    assert count() == 0


def test_a_read_only_unit_leaves_a_read_only_pool_read_only(any_url: str) -> None:
    """What it found is what it puts back."""
    settings = {"sqlalchemy.url": any_url, "dbpool.read_only": "true"}
    with database(any_url):
        with unit_of_work(settings, read_only=True) as session:
            session.execute(text("SELECT 1"))
        with pytest.raises(DBAPIError), unit_of_work(settings) as session:
            session.add(Row())
    dispose_engine(settings)


def test_a_read_only_pool_has_no_two_phase_transactions(postgres_url: str) -> None:
    """They would not be read-only."""
    settings = {"sqlalchemy.url": postgres_url, "dbpool.read_only": "true"}
    with (
        pytest.raises(InvalidRequestError, match="two-phase"),
        get_engine(settings).connect() as connection,
    ):
        connection.begin_twophase()
    dispose_engine(settings)


def test_modes_are_refused_in_autocommit(pg_settings: dict[str, Any]) -> None:
    """There is no transaction that could have them."""
    settings = {**pg_settings, "sqlalchemy.isolation_level": "AUTOCOMMIT"}
    with pytest.raises(ValueError, match="AUTOCOMMIT"), unit_of_work(settings, read_only=True):
        pytest.fail("not reached")
    dispose_engine(settings)


def test_isolation_read_only_and_deferrable_reach_postgresql(pg_settings: dict[str, Any]) -> None:
    """And are gone with the transaction."""

    def modes(session: Session) -> list[str]:
        names = ("isolation", "read_only", "deferrable")
        return [str(session.scalar(text(f"SHOW transaction_{name}"))) for name in names]

    with unit_of_work(
        pg_settings, isolation_level="SERIALIZABLE", read_only=True, deferrable=True
    ) as session:
        assert modes(session) == ["serializable", "on", "on"]
    with unit_of_work(pg_settings) as session:
        assert modes(session) == ["read committed", "off", "off"]


def test_a_mode_that_does_not_exist_is_refused(settings: dict[str, Any], sqlite_url: str) -> None:
    """Before anything is sent, or with the database's name."""
    with (
        pytest.raises(ValueError, match="SERIALIZABLE"),
        unit_of_work(settings, isolation_level="CHAOS"),
    ):
        pytest.fail("not reached")
    lite = {"sqlalchemy.url": sqlite_url}
    with pytest.raises(ValueError, match="SQLite"), unit_of_work(lite, deferrable=True):
        pytest.fail("not reached")
    dispose_engine(lite)
