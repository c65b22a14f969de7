"""What the panel says of a request."""

import contextvars
import gc
import re
import threading
from collections.abc import Callable
from os.path import basename
from typing import Any

import pytest
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from pyramid_dbpool import stream, unit_of_work
from pyramid_dbpool.debugtoolbar import panel, recording, watching
from tests.debugtoolbar.conftest import HERE, Shown
from tests.support.webapp import Row, TwoPhaseSession, app, database
from tests.web.request.views import answer_with_rows, exception_view, fails, rows
from tests.web.retry.views import (
    ENDS_SESSION,
    TROUBLE_IN_COMMIT,
    at_first,
    in_commit,
    lose_connection,
)

Build = Callable[..., Shown]


def ends(row: dict[str, Any]) -> list[str]:
    return [each["end"] for each in row["transactions"]]


def texts(data: dict[str, Any], level: str | None = None) -> str:
    found = [each for each in data["findings"] if level in (None, each.level)]
    return "\n".join(each.text for each in found)


def test_a_request_with_a_session(shown: Build) -> None:
    """Its checkout, by which session, in which line of the view, and how its transaction ended."""
    pids: list[int] = []

    def view(request: Request) -> None:
        pids.append(request.db.scalar(text("SELECT pg_backend_pid()")))
        request.db.add(Row())

    web = shown(index=view)
    web.get()
    (row,) = web.data()["checkouts"]
    assert (row["pool"], row["by"], row["server_pid"]) == ("default", "request.db", pids[0])
    assert (row["is_out"], row["statements"], ends(row)) == (False, "2 statements", ["committed"])
    place = row["where"][0]
    line = view.__code__.co_firstlineno + 1
    assert place["function"] == view.__qualname__
    assert place["short"] == f"debugtoolbar/{basename(__file__)}:{line}"
    # What is around the request, the test for example, is no place of the app's.
    functions = [each["function"] for each in row["where"]]
    assert functions == [view.__qualname__, "answering.<locals>.wrapped"]
    page = web.page()
    assert "1 checkout, 1 transaction, 2 statements" in page
    assert "request.db" in page and "committed" in page and view.__qualname__ in page


def test_a_request_without_a_database(shown: Build) -> None:
    """It says so, and how the pool is all the same."""
    web = shown(index=lambda _request: None)
    web.get()
    assert web.data()["checkouts"] == []
    assert "No connection was used." in web.page()
    (pool,) = web.data()["pools"]
    assert (pool["name"], pool["used"], pool["waiters"]) == ("default", 0, [])
    assert (web.panels()[0].nav_subtitle, web.panels()[0].nav_subtitle_style) == ("", "")


def test_an_app_without_our_pools(settings: dict[str, Any]) -> None:
    """The panel says so."""
    with app(settings, "pyramid_debugtoolbar", index=lambda _request: None) as web:
        Shown(web).get()
        assert "does not include pyramid_dbpool" in Shown(web).page()


def test_several_pools_and_sessions(shown: Build, settings: dict[str, Any]) -> None:
    """Each checkout has its pool's name and its session's."""
    settings["sqlalchemy.audit.url"] = settings["sqlalchemy.url"]

    def view(request: Request) -> None:
        rows(request)
        request.db_audit.add(Row())

    web = shown(index=view)
    web.get()
    data = web.data()
    assert {(each["pool"], each["by"]) for each in data["checkouts"]} == {
        ("default", "request.db"),
        ("audit", "request.db_audit"),
    }
    assert {each["name"] for each in data["pools"]} == {"default", "audit"}
    # Of two pools none waits for the other.
    assert "every connection is the first" not in texts(data)


def test_a_session_without_a_connection(shown: Build) -> None:
    """It is among the sessions all the same."""
    web = shown(index=lambda request: request.db.get_bind() and None)
    web.get()
    assert web.data()["sessions"] == [{"name": "request.db", "text": "0 checkouts"}]
    assert "request.db 0 checkouts" in web.page()


def test_release_db_makes_two_checkouts(shown: Build) -> None:
    """The first one ends where the view has said so."""

    def view(request: Request) -> None:
        rows(request)
        request.release_db()
        rows(request)

    web = shown(index=view)
    web.get()
    first, second = web.data()["checkouts"]
    assert (ends(first), ends(second)) == (["rolled back"], ["committed"])
    line = view.__code__.co_firstlineno + 2
    assert first["returned_where"][0]["short"].endswith(f":{line}")
    assert second["returned_where"] == []
    assert "every connection is the first" not in texts(web.data())


def test_two_connections_at_once(shown: Build) -> None:
    """Whoever holds one and takes another is told what that leads to."""

    def view(request: Request) -> None:
        rows(request)
        with unit_of_work(request.registry.settings) as session:
            session.scalar(select(1))

    web = shown(index=view)
    web.get()
    first, second = web.data()["checkouts"]
    assert (first["by"], second["by"]) == ("request.db", "GET route 'index'")
    assert "while request.db held one. When every connection is the first" in texts(web.data())
    assert web.panels()[0].nav_subtitle_style == "progress-bar-warning"


def test_a_view_that_fails(shown: Build) -> None:
    """Its transaction is rolled back; the error has no content."""
    web = shown(exception_view(answer_with_rows), index=fails)
    web.get(status=500)
    (row,) = web.data()["checkouts"]
    assert ends(row) == ["rolled back"]
    assert web.data()["attempts"][0]["error"] == "Broken"


def test_a_view_whose_error_nobody_answers(shown: Build) -> None:
    """The toolbar shows the traceback; the panel is there."""
    web = shown(index=fails)
    assert "Broken" in web.get(status=500).text
    (row,) = web.data()["checkouts"]
    assert ends(row) == ["rolled back"]


def test_a_request_that_is_refused(shown: Build, settings: dict[str, Any]) -> None:
    """It waited for so long, who held them, and where it asked."""
    settings["sqlalchemy.pool_size"] = "1"
    settings["sqlalchemy.max_overflow"] = "0"
    # The request's, for the test's own connection may take longer on a busy machine.
    settings["dbpool.request_timeout"] = "50ms"

    web = shown(index=rows)
    with web.web.engine.connect():
        web.get(status=503)
    (row,) = web.data()["checkouts"]
    assert row["where"][0]["function"] == "rows"
    assert row["waited"] != "0 ms" and row["held"] == "0 ms"
    data = web.data()
    assert texts(data, "danger").startswith("Refused a connection after ")
    # Once is enough.
    assert texts(data).count("pool 'default'") == 1
    (pool,) = data["pools"]
    assert pool["used"] == 1 and len(pool["holders"]) == 1
    page = web.page()
    assert "refused" in page and "Longest holders" in page
    assert web.panels()[0].nav_subtitle_style == "progress-bar-danger"


def test_a_request_that_is_tried_again(shown: Build) -> None:
    """Each attempt says which one it is, and why there was another."""
    web = shown(index=at_first(lose_connection))
    web.get()
    second, first = web.data(0), web.data(1)
    assert (first["number"], second["number"]) == (1, 2)
    assert "The request was tried again" in texts(first)
    assert texts(second).startswith("Attempt 2: the one before ended in AdminShutdown")
    assert [ends(each) for each in first["checkouts"]] == [["lost"]]
    assert [ends(each) for each in second["checkouts"]] == [["committed"]]
    assert "Attempts" in web.page(0) and "2 (this one)" in web.page(0)
    assert "1 (this one)" in web.page(1)


def test_a_commit_that_nobody_knows_of(shown: Build) -> None:
    """Its connection was lost under it."""

    def view(request: Request) -> str:
        return in_commit(ENDS_SESSION)(request)

    web = shown(index=view)
    with web.web.engine.begin() as connection:
        connection.exec_driver_sql(TROUBLE_IN_COMMIT)
    web.web.client.post("/", extra_environ=HERE, status=500)
    (row,) = web.data()["checkouts"]
    assert ends(row) == ["commit unknown"]
    assert "nobody knows whether it is stored" in texts(web.data(), "danger")


def test_a_commit_in_a_thread_that_nobody_knows_of(settings: dict[str, Any]) -> None:
    """Nobody observes what such a thread does, and yet it is known for what it is."""

    def view(request: Request) -> None:
        request.db.add(Row(id=ENDS_SESSION))
        request.db.flush()

        def work() -> None:
            with pytest.raises(DBAPIError):
                request.db.commit()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    with app(settings, "pyramid_debugtoolbar", "pyramid_dbpool", index=view) as web:
        with web.engine.begin() as connection:
            connection.exec_driver_sql(TROUBLE_IN_COMMIT)
        Shown(web).get()
        (row,) = Shown(web).data()["checkouts"]
        assert ends(row) == ["commit unknown"]


def test_a_commit_that_fails(shown: Build) -> None:
    """The server has refused it, and nothing is stored."""

    def view(request: Request) -> None:
        request.db.execute(text("INSERT INTO later VALUES (1)"))

    web = shown(index=view)
    with web.web.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE later (id int REFERENCES rows DEFERRABLE INITIALLY DEFERRED)"
        )
    web.get(status=500)
    (row,) = web.data()["checkouts"]
    assert ends(row) == ["commit failed"]
    # The server's words would cite the key.
    assert web.data()["attempts"][0]["error"] == "ForeignKeyViolation 23503"


def test_a_streamed_body(shown: Build) -> None:
    """It belongs to its request, though that is over."""

    def view(request: Request) -> Response:
        def produce(session: Any) -> Any:
            for number in session.scalars(text("SELECT generate_series(1, 3)")):
                yield b"%d\n" % number

        body = stream(request, produce)
        return Response(app_iter=body, content_type="text/csv")

    web = shown(index=view)
    assert web.get().body == b"1\n2\n3\n"
    (row,) = web.data()["checkouts"]
    assert row["after_the_answer"] and not row["is_out"]
    assert row["by"] == "GET route 'index', streaming its body"
    assert row["where"][0]["function"].endswith("view.<locals>.produce")
    assert "after the answer" in web.page()


def test_a_streamed_page(shown: Build) -> None:
    """The toolbar reads it at once, to put its button in; it is shown too."""

    def view(request: Request) -> Response:
        def produce(session: Any) -> Any:
            yield b"<html><body>%d</body></html>" % session.scalar(select(1))

        return Response(app_iter=stream(request, produce))

    web = shown(index=view)
    assert "pDebugToolbarHandle" in web.get().text
    assert len(web.data()["checkouts"]) == 1


def test_a_body_that_is_closed_early(shown: Build) -> None:
    """As by a server whose client went away: its connection comes back, and is shown so."""

    def view(request: Request) -> Response:
        def produce(session: Any) -> Any:
            yield b"%d" % session.scalar(select(1))
            yield b"more"

        body = stream(request, produce)
        return Response(app_iter=body, content_type="text/csv")

    web = shown(index=view)
    environ = {**Request.blank("/").environ, **HERE}
    body = web.web.router(environ, lambda status, headers, info=None: lambda data: None)
    assert next(iter(body)) == b"1"
    assert web.data()["checkouts"][0]["is_out"]
    body.close()
    (row,) = web.data()["checkouts"]
    assert (row["is_out"], ends(row), row["returned_where"]) == (False, ["rolled back"], [])


def test_a_subrequest(shown: Build) -> None:
    """What it takes is its parent's too, which waits for it; with tweens it has a panel itself."""

    def view(request: Request) -> Response:
        use_tweens = request.path == "/tweens"
        inner = Request.blank("/inner", environ=HERE)
        return request.invoke_subrequest(inner, use_tweens=use_tweens)

    web = shown(plain=view, tweens=view, inner=rows)
    web.get("/plain")
    (row,) = web.data()["checkouts"]
    assert row["by"] == "request.db of GET route 'inner'"
    web.get("/tweens")
    inner, outer = web.data(0), web.data(1)
    assert [each["by"] for each in inner["checkouts"]] == ["request.db"]
    assert [each["by"] for each in outer["checkouts"]] == ["request.db"]


def test_a_thread_of_the_view(shown: Build) -> None:
    """Its work is the request's, by the request's session or by the context that it runs in."""

    def view(request: Request) -> None:
        settings, run = request.registry.settings, contextvars.copy_context().run

        def work() -> None:
            with unit_of_work(settings) as session:
                session.scalar(select(1))

        for target in (lambda: rows(request), lambda: run(work)):
            thread = threading.Thread(target=target, name="helper")
            thread.start()
            thread.join()

    web = shown(index=view)
    web.get()
    first, second = web.data()["checkouts"]
    assert (first["by"], first["thread"]) == ("request.db", "helper")
    assert (second["by"], second["thread"]) == ("GET route 'index'", "helper")
    assert first["where"][0]["function"] == "rows"


def test_a_connection_that_waits_for_the_view(
    shown: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was held for long without a statement: after which one, and what helps."""
    now = [1000.0]
    for module in (recording, watching, panel):
        monkeypatch.setattr(module, "monotonic", lambda: now[0])

    def view(request: Request) -> None:
        rows(request)
        now[0] += 2.5
        request.db.add(Row())

    web = shown(index=view)
    web.get()
    said = texts(web.data(), "warning")
    assert said.startswith("request.db held a connection of pool 'default' for 2.5 s without a")
    assert "after that in rows (request/views.py:" in said and "request.release_db()" in said
    (row,) = web.data()["checkouts"]
    assert (row["held"], row["idle"], row["bar"]["idle"]) == ("2.5 s", "2.5 s", "100.00%")


def test_a_statement_that_fails(shown: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes after it is no part of it."""
    now = [1000.0]
    for module in (recording, watching, panel):
        monkeypatch.setattr(module, "monotonic", lambda: now[0])

    def view(request: Request) -> None:
        with pytest.raises(DBAPIError), request.db.begin_nested():
            request.db.execute(text("SELECT 1 / 0"))
        now[0] += 2.5

    web = shown(index=view)
    web.get()
    (row,) = web.data()["checkouts"]
    assert row["idle"] == "2.5 s"


def test_a_connection_that_is_not_given_back(shown: Build) -> None:
    """It is shown as held, until it comes back."""
    kept = []

    def view(request: Request) -> None:
        kept.append(request.registry["sqlalchemy.engine"].connect())

    web = shown(index=view)
    web.get()
    (row,) = web.data()["checkouts"]
    assert row["is_out"] and "still held" in web.page()
    assert "still held a connection of pool 'default' when the answer was made" in texts(
        web.data()
    )
    assert web.data()["pools"][0]["holders"][0].startswith("GET route 'index'")
    kept.pop().close()
    assert not web.data()["checkouts"][0]["is_out"]


def test_a_connection_that_is_dropped(shown: Build, settings: dict[str, Any]) -> None:
    """The pool takes it back, and rolls back what was left open."""
    # The toolbar's own panel for SQLAlchemy keeps it.
    settings["debugtoolbar.panels"] = "dbpool"

    def view(request: Request) -> None:
        connection = request.registry["sqlalchemy.engine"].connect()
        connection.execute(select(1))
        del connection
        gc.collect()

    web = shown(index=view)
    web.get()
    (row,) = web.data()["checkouts"]
    assert (row["is_out"], ends(row)) == (False, ["left open"])


def test_a_connection_that_is_detached(shown: Build) -> None:
    """The pool has it no more."""

    def view(request: Request) -> None:
        with request.registry["sqlalchemy.engine"].connect() as connection:
            connection.detach()

    web = shown(index=view)
    web.get()
    (row,) = web.data()["checkouts"]
    assert row["was_detached"] and not row["is_out"]
    assert "detached" in web.page()


def test_a_commit_in_two_phases(shown: Build, settings: dict[str, Any], mariadb_url: str) -> None:
    """It is committed when it is no longer prepared only; with MariaDB's number of it."""
    settings["sqlalchemy.url"] = mariadb_url
    settings["dbpool.session_class"] = f"{TwoPhaseSession.__module__}.TwoPhaseSession"
    numbers: list[int] = []

    def view(request: Request) -> None:
        request.db.add(Row())
        numbers.append(request.db.scalar(text("SELECT connection_id()")))

    with database(mariadb_url) as count:
        web = shown(index=view)
        web.get()
        assert count() == 1
    (row,) = web.data()["checkouts"]
    assert (ends(row), row["server_pid"]) == (["committed"], numbers[0])


def test_after_the_engine_was_disposed_of(shown: Build) -> None:
    """The pool that takes the place of the first one is watched, too."""
    web = shown(index=rows)
    web.get()
    web.web.engine.dispose()
    web.get()
    assert len(web.data()["checkouts"]) == 1


def test_another_class_of_pool(shown: Build, settings: dict[str, Any]) -> None:
    """Whatever it can say of itself."""
    settings["sqlalchemy.poolclass"] = "sqlalchemy.pool.NullPool"
    web = shown(index=rows)
    web.get()
    (row,) = web.data()["checkouts"]
    assert (row["by"], row["is_out"], ends(row)) == ("request.db", False, ["committed"])
    assert "NullPool" in web.page()


def test_nothing_that_is_secret(shown: Build, settings: dict[str, Any]) -> None:
    """No password, no bound parameter, and nothing of what a server cites of them."""
    request_row = select(Row).where(Row.id == 77_123)

    def view(request: Request) -> None:
        request.db.scalars(request_row).all()
        request.db.add_all([Row(id=66_321), Row(id=66_321)])
        request.db.flush()

    web = shown(index=view)
    web.get(status=500)
    page, data = web.page(), repr(web.data())
    for said in (page, data):
        assert "UniqueViolation 23505" in said
        assert not re.search("77_?123|66_?321", said)
        password = re.search(r"//\w+:([^@]+)@", settings["sqlalchemy.url"])
        assert password is None or password[1] not in said
