"""What the web app and the streamer do when the database goes away and comes back."""

import signal
from collections.abc import Callable
from typing import Any

import pytest
from processes import Program, StartProgram, write
from sqlalchemy import create_engine, make_url, text
from webtest import TestApp

from example_app import main
from example_app.broker import connect, publish
from example_app.streamer import GIVE_UP
from pyramid_dbpool import get_engine
from pyramid_dbpool.embedded import PrivatePostgres


@pytest.fixture
def database(new_postgres: Callable[..., PrivatePostgres]) -> PrivatePostgres:
    """Give a PostgreSQL that may be stopped."""
    return new_postgres(password="admin")


@pytest.fixture
def psycopg_url(database: PrivatePostgres) -> str:
    """Let everything use that one."""
    return database.url()


def test_web_app_whose_database_is_away(
    database: PrivatePostgres, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It says so in JSON, when to come back, and in the log why."""
    settings["dbpool.outage_grace"] = settings["dbpool.replica.outage_grace"] = "0"
    app = TestApp(main({}, **settings))
    note = write(app, "before")
    database.stop()
    for path in (f"/api/notes/{note}", "/api/notes"):
        answer = app.get(path, status=503)
        assert answer.json == {"error": "the database is busy or away; try again in a moment"}
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "503 for GET" in caplog.text
    database.start()


def test_database_that_was_restarted(
    database: PrivatePostgres,
    settings: dict[str, Any],
    app: TestApp,
    start_streamer: StartProgram,
) -> None:
    """A streamer whose database goes away under its connection shows the next note."""
    streamer = start_streamer()
    streamer.wait_for(write(app, "before"))
    database.restart()
    get_engine(settings).dispose()
    streamer.wait_for(write(app, "after"))


def event_after(
    fault: Callable[[], object], streamer: Program, app: TestApp, settings: dict[str, Any]
) -> str:
    """Let a note that was shown have another event after the fault; give its id."""
    note = write(app, "before")
    streamer.wait_for(note)
    fault()
    with connect(settings) as broker:
        publish(broker, {"id": note})
    return note


def test_streamer_that_is_stopped_while_the_database_is_away(
    database: PrivatePostgres,
    settings: dict[str, Any],
    app: TestApp,
    start_streamer: StartProgram,
) -> None:
    """It ends as usual, and the next one shows what it could not."""
    streamer = start_streamer()
    note = event_after(database.stop, streamer, app, settings)
    get_engine(settings).dispose()
    streamer.wait_for("waiting for the database")
    assert streamer.end(signal.SIGTERM) == 0
    assert "Traceback" not in streamer.output
    database.start()
    start_streamer().wait_for(note)


def test_streamer_that_the_database_refuses(
    settings: dict[str, Any], app: TestApp, start_streamer: StartProgram
) -> None:
    """It ends with one line, gunicorn with it, and the note is shown when it may log in again."""
    streamer = start_streamer()
    note = event_after(lambda: change_password(settings), streamer, app, settings)
    assert streamer.end() == GIVE_UP
    assert streamer.output.count("consume ends: ") == 1
    assert "Traceback" not in streamer.output
    changed = make_url(settings["sqlalchemy.url"]).set(password="new")
    settings["sqlalchemy.url"] = changed.render_as_string(hide_password=False)
    start_streamer().wait_for(f"note {note} to")


def change_password(settings: dict[str, Any]) -> None:
    """Shut out whoever logs in with the old one, and end all connections."""
    engine = create_engine(settings["sqlalchemy.url"])
    with engine.begin() as connection:
        connection.execute(text("ALTER ROLE postgres PASSWORD 'new'"))
    # Only now that this holds: they would log in again with the old one.
    with engine.begin() as connection:
        connection.execute(text(OTHERS))
    engine.dispose()


OTHERS = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE usename = 'postgres' AND pid <> pg_backend_pid()
"""
