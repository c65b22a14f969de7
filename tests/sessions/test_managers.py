"""Units that a transaction manager commits."""

from collections.abc import Callable
from typing import Any

import pytest
import transaction
from sqlalchemy import insert, text
from sqlalchemy.exc import IntegrityError

from pyramid_dbpool import SessionInUse, unit_of_work
from tests.sessions.work import Broken
from tests.support.webapp import Row


def test_a_manager_with_hooks_or_doom_is_refused(settings: dict[str, Any]) -> None:
    """To begin it again would drop them."""
    hooked, doomed = transaction.TransactionManager(), transaction.TransactionManager()
    hooked.get().addAfterCommitHook(lambda ok: None)
    doomed.get().doom()
    for manager in (hooked, doomed):
        with (
            pytest.raises(SessionInUse),
            unit_of_work(settings, transaction_manager=manager),
        ):
            pytest.fail("not reached")
        manager.abort()


@pytest.mark.parametrize("explicit", [False, True])
def test_a_transaction_manager_commits_the_unit(
    settings: dict[str, Any], count: Callable[[], int], explicit: bool
) -> None:
    """The session joins, the manager commits or aborts, and is free afterwards."""
    manager = transaction.TransactionManager(explicit=explicit)
    for _ in range(2):
        with unit_of_work(settings, transaction_manager=manager) as session:
            session.connection().execute(insert(Row))
    with pytest.raises(Broken), unit_of_work(settings, transaction_manager=manager) as session:
        session.add(Row())
        session.flush()
        raise Broken
    with unit_of_work(settings, transaction_manager=manager) as session:
        session.add(Row())
    assert count() == 3


def test_a_manager_is_free_after_a_failed_commit(pg_settings: dict[str, Any]) -> None:
    """An explicit one would refuse to begin anything else."""
    manager = transaction.TransactionManager(explicit=True)
    with unit_of_work(pg_settings) as session:
        session.execute(text("CREATE TABLE o (i int UNIQUE DEFERRABLE INITIALLY DEFERRED)"))
    for _ in range(2):
        with (
            pytest.raises(IntegrityError),
            unit_of_work(pg_settings, transaction_manager=manager) as session,
        ):
            session.execute(text("INSERT INTO o VALUES (1), (1)"))


@pytest.mark.parametrize("explicit", [False, True])
def test_a_manager_that_is_at_work_is_refused(
    settings: dict[str, Any], count: Callable[[], int], explicit: bool
) -> None:
    """What somebody else began on it is neither aborted nor committed."""
    manager = transaction.TransactionManager(explicit=explicit)
    outer = unit_of_work(settings, transaction_manager=manager)
    with outer as session:
        session.add(Row())
        with pytest.raises(SessionInUse), unit_of_work(settings, transaction_manager=manager):
            pytest.fail("not reached")
    assert count() == 1
