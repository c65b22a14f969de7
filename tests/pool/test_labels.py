"""Who holds a connection is named: requests, units of work, messages, streams, threads."""

import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from pyramid.request import Request
from pyramid.response import Response
from pyramid.scripting import prepare
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from pyramid_dbpool import PoolTimeout, consume, deadline, get_engine, stream, unit_of_work
from pyramid_dbpool.pool.labels import current_label, holder_label
from pyramid_dbpool.pool.managed import ManagedPool
from pyramid_dbpool.web.requests import RequestLabel
from tests.support.makers import wait_until_gone
from tests.support.programs import run_program
from tests.support.webapp import app

ROOM_FOR_ONE = {"sqlalchemy.pool_size": "1", "sqlalchemy.max_overflow": "0"}


@pytest.fixture
def settings(sqlite_url: str) -> dict[str, Any]:
    """Give the settings of a pool of one."""
    return {"sqlalchemy.url": sqlite_url, **ROOM_FOR_ONE}


def held_by(engine: Engine) -> list[str]:
    """List the labels of those who hold a connection now."""
    assert isinstance(engine.pool, ManagedPool)
    return [each.label for each in engine.pool.snapshot().holders]


def test_a_label_without_end_is_cut(settings: dict[str, Any]) -> None:
    """It stands in every error, event and report."""
    engine = get_engine(settings)
    with holder_label("x" * 1_000_000), engine.connect():
        assert held_by(engine) == ["x" * 200 + "…"]


def test_a_request_is_named_by_its_route(settings: dict[str, Any]) -> None:
    """The method and the route, while the request lasts and no longer."""
    seen: list[str] = []

    def notes(request: Request) -> None:
        request.db.execute(select(1))
        seen.extend(held_by(web.engine))

    with app(settings, "pyramid_dbpool", notes=notes) as web:
        web.get("/notes")
        assert current_label() is None
        with web.engine.connect():
            seen += held_by(web.engine)
    assert seen == ["GET route 'notes'", "thread 'MainThread'"]


def test_a_request_without_a_route_is_named_by_its_path() -> None:
    """As in a tween, before there is a route."""
    request = Request.blank("/some/where", method="PUT")
    assert str(RequestLabel(request)) == "PUT '/some/where'"


def test_a_subrequest_gives_the_name_back(settings: dict[str, Any]) -> None:
    """What the request does after it is the request's again."""
    seen: list[str] = []

    def inner(request: Request) -> None:
        request.db.execute(select(1))
        seen.extend(held_by(web.engine))

    def outer(request: Request) -> None:
        request.invoke_subrequest(Request.blank("/inner"), use_tweens=True)
        request.db.execute(select(1))
        seen.extend(held_by(web.engine))

    with app(settings, "pyramid_dbpool", outer=outer, inner=inner) as web:
        web.get("/outer")
    assert seen == ["GET route 'inner'", "GET route 'outer'"]


def test_a_script_is_not_named_after_its_made_up_request(settings: dict[str, Any]) -> None:
    """A path that nobody asked for would mislead."""
    with app(settings, "pyramid_dbpool") as web, prepare(registry=web.registry) as env:
        env["request"].db.execute(select(1))
        assert held_by(web.engine) == ["thread 'MainThread'"]


def test_an_idle_connection_keeps_no_request_alive(settings: dict[str, Any]) -> None:
    """Its last label is still there, and lets go of what it was made from."""
    seen: list[weakref.ref[Request]] = []

    def index(request: Request) -> None:
        request.db.execute(select(1))
        seen.append(weakref.ref(request))

    with app(settings, "pyramid_dbpool", index=index) as web:
        web.get()
        wait_until_gone(seen[0])


def test_a_label_keeps_no_request_alive() -> None:
    """One that never ends, as in a program that forgets to, is forgotten all the same."""
    request = Request.blank("/")
    label = RequestLabel(request)
    assert str(label) == "GET '/'"
    known = weakref.ref(request)
    del request
    wait_until_gone(known)
    assert str(label) == ""


def test_an_idle_connection_keeps_no_message_alive(settings: dict[str, Any]) -> None:
    """Its label names the message as long as that is there, and then nothing."""

    class Message:
        pass

    seen: list[weakref.ref[Message]] = []
    labels: list[object] = []

    def handle(message: Message, session: Session) -> None:
        session.execute(select(1))
        seen.append(weakref.ref(message))
        labels.append(current_label())

    consume(iter([Message()]), handle, settings)
    wait_until_gone(seen[0])
    assert str(labels[0]) == ""


def test_what_a_request_leaves_checked_out_is_still_named(settings: dict[str, Any]) -> None:
    """A leak is the case for which the name is wanted most."""
    leaked: list[Any] = []
    with app(
        settings, "pyramid_dbpool", index=lambda _: leaked.append(web.engine.connect())
    ) as web:
        web.get()
        assert held_by(web.engine) == ["GET route 'index' (ended)"]
        leaked[0].close()


def test_a_stream_is_named_by_its_request(settings: dict[str, Any]) -> None:
    """Though the request is over when the body runs."""
    seen: list[str] = []

    def export(request: Request) -> Response:
        def rows(session: Session) -> Iterator[bytes]:
            session.execute(select(1))
            seen.extend(held_by(web.engine))
            yield b"row"

        return Response(app_iter=stream(request, rows))

    with app(settings, "pyramid_dbpool", export=export) as web:
        assert web.get("/export").body == b"row"
        assert current_label() is None
    assert seen == ["GET route 'export', streaming its body"]


def test_a_unit_of_work_is_named_by_its_caller(settings: dict[str, Any]) -> None:
    """The function that wrote the `with`; a name from outside stands."""
    with unit_of_work(settings) as session:
        session.execute(select(1))
        (label,) = held_by(get_engine(settings))
    assert label == (
        "unit_of_work in tests.pool.test_labels.test_a_unit_of_work_is_named_by_its_caller"
    )
    assert current_label() is None


def test_what_a_unit_of_work_leaves_checked_out_is_still_named(settings: dict[str, Any]) -> None:
    """And it is said that the unit is over."""
    engine = get_engine(settings)
    with unit_of_work(settings):
        leaked = engine.connect()
    (label,) = held_by(engine)
    assert label.endswith("leaves_checked_out_is_still_named (ended)")
    leaked.close()


def test_consume_names_the_message(settings: dict[str, Any]) -> None:
    """By what identifies it, never by its content."""
    seen: list[str] = []

    def handle(_message: dict[str, int], session: Session) -> None:
        session.execute(select(1))
        seen.extend(held_by(get_engine(settings)))

    consume([{"id": 5}, {"id": 6}], handle, settings)
    assert seen == ["message '5'", "message '6'"]
    assert current_label() is None


def test_threads_have_names_of_their_own(settings: dict[str, Any]) -> None:
    """A label does not pass from one thread to another; the thread's name stands in."""
    seen: list[str] = []

    def work() -> None:
        with get_engine(settings).connect():
            seen.extend(held_by(get_engine(settings)))

    def index(_request: Request) -> None:
        thread = threading.Thread(target=work, name="import-7")
        thread.start()
        thread.join()

    with app(settings, "pyramid_dbpool", index=index) as web:
        web.get()
    assert seen == ["thread 'import-7'"]


def test_a_timeout_says_who_holds_what(settings: dict[str, Any]) -> None:
    """So that the one who is paged knows where to look."""

    def waiter(errors: list[str]) -> None:
        try:
            with deadline(0.01):
                get_engine(settings).connect()
        except PoolTimeout as error:
            errors.append(str(error))

    def slow(request: Request) -> None:
        request.db.execute(select(1))
        thread = threading.Thread(target=waiter, args=(errors,))
        thread.start()
        thread.join()

    errors: list[str] = []
    with app(settings, "pyramid_dbpool", slow=slow) as web:
        web.get("/slow")
    assert "Longest holders: GET route 'slow' for " in errors[0]


def test_a_label_that_fails_does_not_hide_the_error(settings: dict[str, Any]) -> None:
    """The thread's name stands in for it."""
    seen: list[str] = []

    def handle(_message: int, session: Session) -> None:
        session.execute(select(1))
        seen.extend(held_by(get_engine(settings)))

    class Nameless:
        def __str__(self) -> str:
            raise ValueError("no name")

    consume([1], handle, settings, identify=lambda _: Nameless())
    assert seen == ["thread 'MainThread'"]


GREENLETS = """
from gevent import monkey
monkey.patch_all()
import gevent
from sqlalchemy import create_engine
from pyramid_dbpool import ManagedPool
from pyramid_dbpool.pool.labels import holder_label

engine = create_engine("sqlite:///%s", poolclass=ManagedPool)

def hold(name):
    with holder_label(name), engine.connect():
        gevent.sleep(0)
        gevent.sleep(0)

def labels():
    gevent.sleep(0)
    return sorted(each.label for each in engine.pool.snapshot().holders)

both = [gevent.spawn(hold, "one"), gevent.spawn(hold, "two")]
print(gevent.spawn(labels).get())
gevent.joinall(both)
"""


@pytest.mark.programs
def test_greenlets_have_labels_of_their_own(tmp_path: Any) -> None:
    """Though they share one thread."""
    done = run_program(GREENLETS % (tmp_path / "some.db"))
    assert done.stdout.strip() == "['one', 'two']", done.stderr


NAMELESS = """
from gevent import monkey
monkey.patch_all()
import gevent, logging, threading
from sqlalchemy import create_engine
from pyramid_dbpool import ManagedPool

engine = create_engine("sqlite:///%s", poolclass=ManagedPool, hold_warning=0.1)
logging.basicConfig(format="%%(message)s")
told = gevent.event.Event()

def hold(logs=False):
    if logs:
        logging.warning("logs")
    with engine.connect():
        told.wait(20)

class Told(logging.Handler):
    count = 0
    def emit(self, record):
        self.count += "has held" in record.getMessage()
        if self.count == 3:
            told.set()

logging.getLogger().addHandler(Told())
thread = threading.Thread(target=hold, name="import-7")
thread.start()
both = [gevent.spawn(hold), gevent.spawn(hold, logs=True)]
while engine.pool.checkedout() < 3:
    gevent.sleep(0)
labels = [each.label for each in engine.pool.snapshot().holders]
assert set(labels) == {f"greenlet {id(each)}" for each in both} | {"thread 'import-7'"}, labels
gevent.joinall(both)
thread.join()
"""


@pytest.mark.programs
def test_greenlets_are_called_greenlets(tmp_path: Any) -> None:
    """Also one that the logging module has made a thread of; a thread of the app's is a thread."""
    done = run_program(NAMELESS % (tmp_path / "some.db"))
    assert done.returncode == 0, done.stderr
    warned = [line for line in done.stderr.splitlines() if "has held a connection" in line]
    assert sorted(line.split()[2] for line in warned) == ["greenlet", "greenlet", "thread"]
