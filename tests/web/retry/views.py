"""Views that are in trouble, and what troubles them."""

from collections.abc import Callable
from typing import Any

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy import Connection, Engine, text

from pyramid_dbpool import unit_of_work
from tests.support.webapp import Row, WebApp

NewDatabase = Callable[[str], str]

# Inside COMMIT, when the server has it and has not answered: a row -1 ends the session, a row
# -2 loses a race.
TROUBLE_IN_COMMIT = """
CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.id = -1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
    IF NEW.id = -2 THEN RAISE EXCEPTION 'lost the race' USING ERRCODE = '40001'; END IF;
    IF NEW.id = -3 THEN RAISE EXCEPTION 'who knows' USING ERRCODE = '40003'; END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER trouble AFTER INSERT ON rows DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION trouble();
"""
RACE = "DO $$ BEGIN RAISE EXCEPTION 'race' USING ERRCODE = '40001'; END $$"
MARIADB_RACE = "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213"
ENDS_SESSION, LOSES_RACE, UNKNOWN = -1, -2, -3


def settings_for(url: str) -> dict[str, Any]:
    return {"sqlalchemy.url": url, "tm.manager_hook": "pyramid_tm.explicit_manager"}


def number(request: Request) -> int:
    """Return the number of the attempt."""
    return int(request.environ["retry.attempt"])


def open_several(web: WebApp) -> None:
    """Have the app's pool open several connections, and give them back."""
    held = [web.engine.connect() for _ in range(3)]
    for connection in held:
        connection.close()


def lose_connection(request: Request) -> None:
    request.db.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))


def at_first(trouble: Callable[[Request], object]) -> Callable[[Request], str]:
    """Make a view that writes a row, and is in trouble at its first attempt."""

    def view(request: Request) -> str:
        request.db.add(Row())
        request.db.flush()
        if number(request) == 0:
            trouble(request)
        return str(number(request))

    return view


def in_commit(row: int) -> Callable[[Request], str]:
    """Make a view whose first attempt meets trouble inside COMMIT."""
    return at_first(lambda request: request.db.add(Row(id=row)))


def answer_500(error: Exception, request: Request) -> Response:
    return Response(text=type(error).__name__, status=500)


def exception_view(config: Configurator) -> None:
    config.add_exception_view(answer_500)


def ours_committed(request: Request) -> None:
    with unit_of_work(request.registry.settings) as session:
        session.execute(text("INSERT INTO rows (id) VALUES (1000)"))


def backend_ended(connection: Connection, outside: Engine) -> None:
    """End a connection's session on the server, and wait until it is over."""
    session_ended(connection.connection.dbapi_connection, outside)


def session_ended(dbapi: Any, outside: Engine) -> None:
    """End the session of a driver's connection, and wait until it is over."""
    with outside.connect() as other:
        if outside.dialect.name == "postgresql":
            pid = dbapi.info.backend_pid
            other.execute(text(f"SELECT pg_terminate_backend({pid}, 5000)"))
        else:
            kill_in_mariadb(other, dbapi.thread_id())


def kill_in_mariadb(other: Connection, number: int) -> None:
    other.execute(text(f"KILL {number}"))
    gone = text(f"SELECT count(*) FROM information_schema.processlist WHERE id = {number}")
    while other.scalar(gone):
        pass
