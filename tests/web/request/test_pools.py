"""Named pools beside the default one."""

from collections.abc import Callable
from typing import Any

import pytest
from pyramid.request import Request
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from tests.support.webapp import TM, Row, app
from tests.web.request.views import add


@pytest.fixture
def settings(settings: dict[str, Any]) -> dict[str, Any]:
    """A read-only pool and a second writable one on the same database."""
    url = settings["sqlalchemy.url"]
    return {
        **settings,
        "sqlalchemy.replica.url": url,
        "dbpool.replica.read_only": "true",
        "sqlalchemy.audit.url": url,
    }


def test_two_writable_pools_are_both_committed(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """One after the other."""

    def view(request: Request) -> None:
        request.db.add(Row(id=1))
        request.db_audit.add(Row(id=2))

    with app(settings, *TM, index=view) as web:
        web.get()
        assert (count(), web.checked_out()) == (2, 0)


def test_a_read_only_pool_refuses_writes(settings: dict[str, Any]) -> None:
    """In every transaction of it, the second one after a commit too."""

    def view(request: Request) -> None:
        for _ in range(2):
            assert rows_of(request.db_replica) == 0
            with pytest.raises(DBAPIError, match="read-only"):
                request.db_replica.execute(text("INSERT INTO rows (id) VALUES (1)"))
            request.db_replica.rollback()

    with app(settings, *TM, index=view) as web:
        web.get()
        assert web.checked_out() == 0


def test_read_only_ends_with_the_transaction(settings: dict[str, Any]) -> None:
    """The connection itself has the server's defaults: nothing outlives the checkout."""
    with app(settings, *TM, index=lambda request: rows_of(request.db_replica)) as web:
        web.get()
        raw = web.registry["sqlalchemy.engine.replica"].raw_connection()
        with raw.cursor() as cursor:
            cursor.execute("SHOW default_transaction_read_only")
            assert cursor.fetchone() == ("off",)
        raw.close()


def test_a_failing_read_only_pool_does_not_fail_a_request_that_wrote(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """Its transaction is in error, even its backend is gone, and the write is committed."""

    def view(request: Request) -> None:
        add(request)
        with pytest.raises(DBAPIError):
            request.db_replica.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with app(settings, *TM, index=view) as web:
        web.get()
        assert (count(), web.checked_out()) == (1, 0)


def test_a_pool_has_its_keys_in_the_registry(settings: dict[str, Any]) -> None:
    """Engine and session factory, by name."""
    with app(settings, *TM) as web:
        registry = web.registry
        assert registry["sqlalchemy.engine.audit"] is not registry["sqlalchemy.engine"]
        with registry["dbsession_factory.audit"]() as session:
            assert session.get_bind() is registry["sqlalchemy.engine.audit"]


def rows_of(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(Row)) or 0
