"""What is noted of the statements of a transaction."""

import pytest

from pyramid_dbpool.engines.sent import Sent


@pytest.mark.parametrize("end", ["RELEASE SAVEPOINT outer", "ROLLBACK TO outer"])
def test_savepoints_that_are_over_are_forgotten(end: str) -> None:
    """A long transaction may set one for each row."""
    sent = Sent()
    said = [f"SAVEPOINT inner_{each}" for each in range(3)]
    for statement in ("SAVEPOINT outer", *said, end):
        sent.note_change(statement, "postgresql", several=False)
    assert list(sent._before) == (["outer"] if end.startswith("ROLLBACK") else [])


def test_going_back_to_a_savepoint_twice_is_the_same_again() -> None:
    """It stays where it is, with those before it."""
    sent = Sent()
    for statement in (
        *("SAVEPOINT a", "INSERT INTO t VALUES (1)", "SAVEPOINT b", "ROLLBACK TO b"),
        *("INSERT INTO t VALUES (2)", "ROLLBACK TO b"),
    ):
        sent.note_change(statement, "postgresql", several=False)
    assert sent.wrote
    for statement in ("ROLLBACK TO a", "INSERT INTO t VALUES (3)", "ROLLBACK TO a"):
        sent.note_change(statement, "postgresql", several=False)
    assert not sent.wrote
