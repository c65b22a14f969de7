"""Who is told of what the connections of an engine do."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine.events import ConnectionEvents
from sqlalchemy.exc import OperationalError

from pyramid_dbpool import dispose_engine, get_engine
from pyramid_dbpool.engines.sent import Sent
from pyramid_dbpool.engines.steps import steps_of
from pyramid_dbpool.engines.stored import observed

EVENTS = [name for name in vars(ConnectionEvents) if name[0] != "_" and name != "dispatch"]


class Refused(Exception):
    """What an app's listener raises."""


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[Engine]:
    """Give an engine, disposed afterwards."""
    settings = {"sqlalchemy.url": sqlite_url}
    yield get_engine(settings)
    dispose_engine(settings)


def test_an_engine_has_no_listeners_of_its_own(engine: Engine) -> None:
    """With the first one SQLAlchemy looks for others at each step of each connection."""
    assert "before_cursor_execute" in EVENTS
    # Others may listen on all engines, as pyramid_debugtoolbar does from its import on.
    everywhere = create_engine("sqlite://").dispatch
    listened = [
        name
        for name in EVENTS
        if list(getattr(engine.dispatch, name)) != list(getattr(everywhere, name))
    ]
    assert listened == []


def test_an_apps_listeners_hear_all(engine: Engine) -> None:
    """They are SQLAlchemy's own events, each once and in its order."""
    heard: list[str] = []
    steps = ("engine_connect", "begin", "before_cursor_execute", "after_cursor_execute", "commit")
    for name in steps:
        event.listen(engine, name, lambda *_, name=name: heard.append(name))
    with engine.begin() as connection:
        connection.execute(text("SELECT 1"))
    assert tuple(heard) == steps


def test_engines_with_options_tell_as_well(engine: Engine) -> None:
    """Also those that are made of such ones; a COMMIT would be unknown otherwise."""
    of_options = engine.execution_options(logging_token="a").execution_options(logging_token="b")
    with observed() as outcome, of_options.begin() as connection:
        connection.execute(text("SELECT 1"))
    assert outcome.commits == 1
    assert not outcome.unseen


def test_a_connection_that_an_apps_listener_refuses_has_stored_nothing(engine: Engine) -> None:
    """One that pings, say: its checkout would count as one of whose work nobody knows."""

    def refuse(_connection: Any) -> None:
        raise Refused

    event.listen(engine, "engine_connect", refuse)
    with observed() as outcome, pytest.raises(Refused):
        engine.connect()
    assert outcome.nothing_stored


def test_what_an_app_makes_of_a_statement_is_what_counts(engine: Engine) -> None:
    """A hook may send another statement than it was given."""

    def create(_connection: Any, _cursor: Any, _statement: Any, parameters: Any, *_: Any) -> Any:
        return "CREATE TABLE made (a int)", parameters

    event.listen(engine, "before_cursor_execute", create, retval=True)
    with observed() as outcome, engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")
    assert outcome.stored


def test_first_questions_of_sqlalchemy_are_nobodys(engine: Engine) -> None:
    """It asks the first connection of all who it is, which no caller has sent."""
    noted: list[str] = []
    steps_of(engine).statement.append(lambda _connection, statement, _: noted.append(statement))
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    assert noted == ["SELECT 1"]


def test_a_listener_that_fails_as_a_connection_is_made_has_sent_nothing_unseen(
    engine: Engine,
) -> None:
    """Its statement is the connection's: a request whose first one fails may be repeated."""

    @event.listens_for(engine, "engine_connect")
    def fail(connection: Connection) -> None:
        connection.execute(text("SELECT nothing FROM nowhere"))

    judged: list[bool] = []
    with observed(lambda outcome, _error: judged.append(outcome.nothing_stored)) as outcome:
        with pytest.raises(OperationalError), engine.connect():
            pytest.fail("not reached")
        assert outcome.nothing_stored
    assert judged
    assert all(judged)


def test_a_dialect_executes_for_an_app_too(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a context, and by what has been put in the place of its class's own since."""
    measured: list[str] = []
    kind: Any = type(engine.dialect)
    plain = kind.do_execute

    def measure(dialect: Any, cursor: Any, statement: str, *rest: Any) -> None:
        measured.append(statement)
        plain(dialect, cursor, statement, *rest)

    monkeypatch.setattr(kind, "do_execute", measure)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (a int)"))
        cursor: Any = connection.connection.cursor()
        engine.dialect.do_execute(cursor, "UPDATE t SET a = 1", ())
        assert cursor.rowcount == 0
    assert measured == ["CREATE TABLE t (a int)", "UPDATE t SET a = 1"]


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "with parameters"])
def test_a_change_of_no_row_is_none(engine: Engine, plain: bool) -> None:
    """The driver's count tells, however the statement is sent."""
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (a int)"))
        sent = Sent()
        sent.listen_to(connection)
        update = text("UPDATE t SET a = 1").execution_options(no_parameters=plain)
        connection.execute(update)
        assert not sent.changed
        connection.execute(text("INSERT INTO t VALUES (0)"))
        connection.execute(update)
        assert sent.changed
        assert sent.wrote
