"""Requests of the app of h's shape: what they commit, in and after pyramid_tm's transaction."""

from sqlalchemy import text
from webtest import TestApp

from tests.support.h_shape.app import Annotation
from tests.web.h_shape.conftest import Outside

AFTER = ["finished", "response"]


def test_all_that_a_request_commits_is_stored(web: TestApp, outside: Outside) -> None:
    """By the view, by subscribers after the commit, and by the last callback."""
    for number in range(3):
        web.post("/annotations", {"text": f"text {number}"})
    assert outside.annotations == ["text 0", "text 1", "text 2"]
    assert outside(Annotation.indexed) == [True] * 3
    assert outside.notes == sorted([*AFTER, "subscriber"] * 3)
    assert web.get("/annotations").json == {"annotations": 3}
    assert outside.idle_in_transaction() == 0


def test_a_subscriber_that_fails_takes_nothing_with_it(web: TestApp, outside: Outside) -> None:
    """What it has written is rolled back; what the others commit stays."""
    web.post("/annotations", {"text": "unlucky"})
    assert web.app.registry["reported"] == ["unlucky"]
    assert (outside.annotations, outside(Annotation.indexed)) == (["unlucky"], [True])
    assert outside.notes == AFTER
    assert outside.idle_in_transaction() == 0


def test_an_exception_view_sees_and_stores(web: TestApp, outside: Outside) -> None:
    """The view's work is gone, and the exception view's own transaction is kept."""
    web.post("/annotations", {"text": "kept"})
    answer = web.post("/annotations", {"text": "broken"}, status=500)
    assert answer.json == {"error": "broken", "annotations": 1}
    assert outside.annotations == ["kept"]
    assert outside.notes == sorted([*AFTER, "subscriber", "exception view", *AFTER])
    assert outside.idle_in_transaction() == 0


def test_it_all_works_with_one_connection(web: TestApp, outside: Outside) -> None:
    """Each transaction gives its connection back before the next one of the request begins."""
    web.post("/annotations", {"text": "text"})
    pool = web.app.registry["sqlalchemy.engine"].pool
    assert (pool.snapshot().opened, pool.checkedout()) == (1, 0)


def test_a_lost_connection_after_the_commit_is_the_subscribers_own(
    web: TestApp, outside: Outside
) -> None:
    """The next request, and the rest of this one, take another connection."""
    web.get("/annotations")
    with outside.engine.begin() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    web.post("/annotations", {"text": "text"})
    assert (outside.annotations, outside.notes) == (
        ["text"],
        sorted([*AFTER, "response", "subscriber"]),
    )
