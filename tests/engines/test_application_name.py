"""What PostgreSQL is told when a connection is opened: whose it is, and its time limits."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from pyramid.request import Request
from pyramid.tweens import EXCVIEW
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from pyramid_dbpool import DatabaseUnavailable, SettingsError, consume, dispose_engine, get_engine
from pyramid_dbpool.engines import application_name as naming
from pyramid_dbpool.settings import load_pool
from tests.support.programs import run_program
from tests.support.webapp import app

NAME = text("SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()")
PID = os.getpid()
TIMEOUTS = {
    "dbpool.statement_timeout": "1500ms",
    "dbpool.lock_timeout": "2",
    "dbpool.idle_in_transaction_timeout": "1m",
}


@pytest.fixture(autouse=True)
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin as a process of which nothing is known."""
    monkeypatch.setattr(naming, "_process", naming._Process())
    monkeypatch.setattr(sys, "argv", ["/srv/bin/import-notes"])


def name_of(settings: dict[str, Any]) -> str:
    """Ask the server for the name of a connection."""
    with get_engine(settings).connect() as connection:
        name: str = connection.scalar(NAME) or ""
    dispose_engine(settings)
    return name


def shown(settings: dict[str, Any], parameter: str) -> str:
    """Ask the server for a parameter of a connection."""
    with get_engine(settings).connect() as connection:
        return str(connection.scalar(text(f"SHOW {parameter}")))


def test_a_script_is_named_by_its_program(postgres_url: str) -> None:
    """The program, the role and the process."""
    assert name_of({"sqlalchemy.url": postgres_url}) == f"import-notes script {PID}"


@pytest.mark.parametrize("tweens", ["", EXCVIEW], ids=["our tweens", "none of ours"])
def test_a_web_app_is_named_by_its_package(psycopg_url: str, tweens: str) -> None:
    """From the first request on."""
    settings = {"sqlalchemy.url": psycopg_url, "pyramid.tweens": tweens}
    with app(settings, "pyramid_dbpool", index=lambda request: request.db.scalar(NAME)) as web:
        assert web.get().text == f"tests.support web {PID}"


def test_a_worker_is_named_so(psycopg_url: str) -> None:
    """`consume` says it; the settings give the app's name."""
    seen: list[Any] = []

    def handle(_message: object, session: Session) -> None:
        seen.append(session.scalar(NAME))

    settings = {"sqlalchemy.url": psycopg_url, "dbpool.application_name": "notes"}
    consume([1], handle, settings)
    assert seen == [f"notes worker {PID}"]


def test_the_first_role_stays(psycopg_url: str) -> None:
    """A web process that consumes messages in a thread is still a web process."""

    def view(request: Request) -> Any:
        consume([], lambda _message, _session: None, settings)
        return request.db.scalar(NAME)

    settings = {"sqlalchemy.url": psycopg_url}
    with app(settings, "pyramid_dbpool", index=view) as web:
        assert web.get().text == f"tests.support web {PID}"


def test_the_first_app_stays() -> None:
    """An app that the first one makes beside itself is part of it; a script has a better name."""
    naming.name_app("__main__")
    assert naming.application_name() == f"import-notes script {PID}"
    naming.name_app("notes")
    naming.name_app("other")
    assert naming.application_name() == f"notes script {PID}"


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["/usr/bin/gunicorn"], "gunicorn web"),
        (["/lib/gunicorn/__main__.py"], "gunicorn web"),
        (["/usr/bin/celery"], "celery worker"),
        (["tools/load.py"], "load script"),
        (["-c"], "python script"),
        ([], "python script"),
    ],
)
def test_known_programs_have_a_role(
    argv: list[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before they have served anything."""
    monkeypatch.setattr(sys, "argv", argv)
    assert naming.application_name() == f"{name} {PID}"


def test_a_long_name_is_cut_before_the_process_id() -> None:
    """PostgreSQL would cut off the part that tells the processes apart."""
    name = naming.application_name("n\u00f6tes\n" * 30)
    assert len(name) == 63
    assert name.startswith("n?tes n?tes")
    assert name.endswith(f" script {PID}")


OWN_NAMES = {
    "url": "?application_name=mine",
    "fallback": "?fallback_application_name=mine",
    "options": "?options=-c%20application_name%3Dmine",
    "long option": "?options=--application-name%3Dmine%20-c%20work_mem%3D5MB",
}


@pytest.mark.parametrize("query", OWN_NAMES.values(), ids=OWN_NAMES)
@pytest.mark.parametrize("more", [{}, TIMEOUTS], ids=["", "timeouts"])
def test_a_name_of_the_urls_stands(postgres_url: str, query: str, more: dict[str, str]) -> None:
    """The server would take ours after its options, and prefer it."""
    assert name_of({"sqlalchemy.url": postgres_url + query, **more}) == "mine"


@pytest.mark.parametrize("key", ["application_name", "fallback_application_name", "options"])
def test_a_name_of_the_drivers_arguments_stands(postgres_url: str, key: str) -> None:
    """As an app sets it that is more than its package."""
    value = "-c Application_Name=mine" if key == "options" else "mine"
    arguments = json.dumps({key: value})
    settings = {"sqlalchemy.url": postgres_url, "sqlalchemy.connect_args": arguments}
    assert name_of(settings) == "mine"


@pytest.mark.parametrize("given", ["application_name", "fallback_application_name"])
def test_a_name_of_a_connection_string_stands(psycopg2_url: str, given: str) -> None:
    """psycopg2 takes one beside the URL."""
    arguments = json.dumps({"dsn": f"{given}=mine"})
    settings = {"sqlalchemy.url": psycopg2_url, "sqlalchemy.connect_args": arguments}
    assert name_of(settings) == "mine"


def test_a_name_of_the_environments_stands(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libpq takes it itself; its options do not count where others are given."""
    settings = {"sqlalchemy.url": postgres_url}
    monkeypatch.setenv("PGOPTIONS", "-c application_name=theirs")
    assert name_of(settings) == name_of(settings | TIMEOUTS) == "theirs"
    other = settings | {"sqlalchemy.connect_args": '{"options": "-c work_mem=5MB"}'}
    assert name_of(other) == f"import-notes script {PID}"
    monkeypatch.setenv("PGAPPNAME", "mine")
    assert name_of(settings) == "mine"


def test_a_name_of_a_service_stands(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whether the URL names the service or the environment."""
    services = tmp_path / "services"
    services.write_text("[notes]\napplication_name=mine\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    assert name_of({"sqlalchemy.url": f"{postgres_url}?service=notes"}) == "mine"
    monkeypatch.setenv("PGSERVICE", "notes")
    assert name_of({"sqlalchemy.url": postgres_url}) == "mine"


@pytest.mark.parametrize("how", ["do_connect", "connect"])
def test_a_name_of_a_hook_stands(postgres_url: str, how: str) -> None:
    """It says the last word, before the connection is opened or after."""

    def name(*args: Any) -> None:
        if how == "do_connect":
            args[-1]["application_name"] = "mine"
        else:
            args[0].cursor().execute("SET application_name = 'mine'")
            args[0].commit()

    settings = {
        "sqlalchemy.url": postgres_url,
        "dbpool.engine_hook": lambda engine: event.listen(engine, how, name),
    }
    assert name_of(settings) == "mine"


def test_off_leaves_the_name_empty(postgres_url: str) -> None:
    """For whoever wants to see none."""
    assert name_of({"sqlalchemy.url": postgres_url, "dbpool.application_name": "off"}) == ""


FORK = """
import os, sys
from sqlalchemy import text
from pyramid_dbpool import get_engine

engine = get_engine({"sqlalchemy.url": sys.argv[1], "dbpool.application_name": "notes"})

def tell():
    with engine.connect() as connection:
        print(connection.scalar(text("SHOW application_name")), os.getpid(), flush=True)

tell()
child = os.fork()
tell()
if child:
    os.waitpid(child, 0)
"""


@pytest.mark.programs
def test_a_child_has_an_id_of_its_own(postgres_url: str) -> None:
    """The parent's would lead to the wrong process."""
    done = run_program(FORK, postgres_url)
    assert not done.returncode, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len({pid for *_, pid in lines}) == 2
    for name, role, named_pid, pid in lines:
        assert (name, role, named_pid) == ("notes", "script", pid)


def test_the_name_goes_through_pgbouncer(bouncer_settings: dict[str, Any]) -> None:
    """It is no start-up option."""
    with get_engine(bouncer_settings).connect() as connection:
        assert connection.scalar(NAME) == f"import-notes script {PID}"


def test_pgbouncer_refuses_the_timeouts_and_the_error_says_so(
    bouncer_settings: dict[str, Any],
) -> None:
    """At once, with the keys: it is no outage that one could wait for."""
    settings = bouncer_settings | TIMEOUTS | {"sqlalchemy.pool_timeout": "60"}
    engine = get_engine(settings)
    with pytest.raises(DatabaseUnavailable) as caught:
        engine.connect()
    dispose_engine(settings)
    assert "check dbpool.statement_timeout and the timeouts beside it" in str(caught.value)
    assert "unreachable" not in str(caught.value)


def test_timeouts_hold_from_the_start(postgres_url: str) -> None:
    """Each under PostgreSQL's own name, beside the options that the URL has."""
    settings = {"sqlalchemy.url": f"{postgres_url}?options=-c%20work_mem%3D5MB", **TIMEOUTS}
    assert shown(settings, "statement_timeout") == "1500ms"
    assert shown(settings, "lock_timeout") == "2s"
    assert shown(settings, "idle_in_transaction_session_timeout") == "1min"
    assert shown(settings, "work_mem") == "5MB"
    dispose_engine(settings)


def test_options_that_are_given_twice_stand() -> None:
    """Such a URL has two values under one name; the driver's arguments come before it."""
    url = "postgresql+psycopg://web@localhost/h?options=-c%20a%3D1&options=-c%20b%3D2"
    settings = {"sqlalchemy.url": url, "dbpool.lock_timeout": "2"}

    def options(**more: str) -> str:
        arguments = load_pool({**settings, **more}).engine_options["connect_args"]
        return str(arguments["options"])

    assert options() == "-c a=1 -c b=2 -c lock_timeout=2000"
    own = options(**{"sqlalchemy.connect_args": '{"options": "-c c=3"}'})
    assert own == "-c c=3 -c lock_timeout=2000"


def test_options_of_the_environment_stand(
    psycopg_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libpq looks at PGOPTIONS only where it is given no options."""
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=5MB")
    settings = {"sqlalchemy.url": psycopg_url, **TIMEOUTS}
    assert shown(settings, "work_mem") == "5MB"
    assert shown(settings, "lock_timeout") == "2s"
    dispose_engine(settings)


def test_a_statement_is_cancelled(postgres_url: str) -> None:
    """By the server, in time."""
    settings = {"sqlalchemy.url": postgres_url, "dbpool.statement_timeout": "500ms"}
    cancelled = pytest.raises(DBAPIError, match="statement timeout")
    with get_engine(settings).connect() as connection, cancelled:
        connection.execute(text("SELECT pg_sleep(30)"))
    dispose_engine(settings)


def test_no_timeout_sends_no_option(postgres_url: str) -> None:
    """So that PgBouncer has nothing to refuse."""
    assert "options" not in load_pool({"sqlalchemy.url": postgres_url}).engine_options.get(
        "connect_args", {}
    )


@pytest.mark.parametrize("key", [*TIMEOUTS, "dbpool.application_name"])
@pytest.mark.parametrize("url", ["sqlite:///some.db", "mysql+pymysql://web@localhost/h"])
def test_a_server_that_cannot_be_told_is_no_place_for_them(url: str, key: str) -> None:
    """A limit that does not hold must not look as if it did."""
    with pytest.raises(SettingsError, match=rf"{key} = '1' has no effect: only PostgreSQL"):
        load_pool({"sqlalchemy.url": url, key: "1"})
    load_pool({"sqlalchemy.url": url, key: "off"})


def test_mariadb_has_a_setting_of_its_own() -> None:
    """The refusal names it."""
    settings = {"sqlalchemy.url": "mariadb+pymysql://web@localhost/h"}
    with pytest.raises(SettingsError, match="see the server's innodb_lock_wait_timeout"):
        load_pool({**settings, "dbpool.lock_timeout": "1"})


def test_a_creator_tells_the_server_what_it_likes(psycopg_url: str) -> None:
    """Ours would never reach it."""
    settings = {"sqlalchemy.url": psycopg_url, "sqlalchemy.creator": lambda: None}
    with pytest.raises(SettingsError, match="the creator opens the connections"):
        load_pool({**settings, "dbpool.lock_timeout": "1"})
