"""Transactions of request.tm outside of pyramid_tm's: scripts, tasks, subscribers."""

import gc
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import transaction
import zope.sqlalchemy
from pyramid import threadlocal
from pyramid.config import Configurator
from pyramid.events import NewRequest, NewResponse
from pyramid.request import Request
from pyramid.scripting import prepare
from sqlalchemy import event, insert, select, update
from sqlalchemy.orm import Session

from pyramid_dbpool import SessionInUse, session_factory, unit_of_work
from tests.support.programs import run_program
from tests.support.webapp import TM, Row, WebApp, app
from tests.web.request.views import EXPLICIT, Broken, add, commits, flushes, rows

MANAGERS: dict[str, dict[str, Any]] = {
    "thread": {},
    "explicit": EXPLICIT,
    "own": {"tm.manager_hook": lambda request: transaction.TransactionManager()},
}


@pytest.fixture(params=list(MANAGERS))
def manager(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings for each kind of manager; that of the request's own need not be explicit."""
    return dict(MANAGERS[request.param])


@pytest.fixture
def own_manager(psycopg_url: str, count: Callable[[], int]) -> dict[str, Any]:
    """Settings for a manager of each request that is not explicit."""
    return {"sqlalchemy.url": psycopg_url, **MANAGERS["own"]}


@contextmanager
def script(settings: dict[str, Any], *parts: Any) -> Iterator[tuple[WebApp, Request]]:
    """Run an app's script; whatever it did not end is ended afterwards."""
    with app(settings, *TM, *parts) as web, prepare(registry=web.registry) as env:
        yield web, env["request"]


def core(request: Request) -> None:
    request.db.connection().execute(insert(Row).values(id=7))


def bulk(request: Request) -> None:
    request.db.bulk_insert_mappings(Row, [{"id": 7}])


def raw(request: Request) -> None:
    request.db.connection().connection.cursor().execute("INSERT INTO rows VALUES (7)")


WRITES = pytest.mark.parametrize("write", [add, flushes, core, bulk, raw])


@WRITES
def test_what_a_script_writes_in_a_block_is_stored(
    settings: dict[str, Any], count: Callable[[], int], write: Callable[[Request], None]
) -> None:
    """And its connection goes back, although the request lasts."""
    with script(settings) as (web, request):
        with request.tm:
            write(request)
        assert (count(), web.checked_out()) == (1, 0)


@WRITES
def test_a_session_that_has_begun_before_belongs_to_the_block(
    settings: dict[str, Any], count: Callable[[], int], write: Callable[[Request], None]
) -> None:
    """It will not begin again, at which it would join."""
    with script(settings) as (web, request):
        for _ in range(2):
            request.db.execute(select(1))
            with request.tm:
                write(request)
            with request.tm:
                request.db.execute(update(Row).values(id=Row.id + 100))
            assert web.checked_out() == 0
        assert (count(), rows(request)) == (2, 2)


def test_an_object_that_was_loaded_before_is_changed_in_the_block(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """Whether its transaction has ended meanwhile or not."""
    with script(settings) as (_web, request):
        commits(request)
        row = request.db.scalars(select(Row)).one()
        with request.tm:
            row.id = 5
        assert list(request.db.scalars(select(Row.id))) == [5]
        row = request.db.scalars(select(Row)).one()
        request.db.commit()
        assert row.id == 5
        request.db.commit()
        with request.tm:
            row.id = 6
        assert list(request.db.scalars(select(Row.id))) == [6]


def test_a_block_that_fails_is_rolled_back(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """With what the session had read before it."""
    with script(settings) as (web, request):
        rows(request)
        with pytest.raises(Broken), request.tm:
            flushes(request)
            raise Broken
        assert (count(), web.checked_out()) == (0, 0)


@pytest.mark.parametrize("kind", ["explicit", "own"])
def test_committing_by_hand_in_a_block_is_refused(
    psycopg_url: str, count: Callable[[], int], kind: str
) -> None:
    """The manager commits it with everything else."""
    settings = {"sqlalchemy.url": psycopg_url, **MANAGERS[kind]}
    with script(settings) as (_web, request), pytest.raises(SessionInUse), request.tm:
        commits(request)


def test_a_commit_without_a_begin_stores(
    settings: dict[str, Any], manager: dict[str, Any], count: Callable[[], int]
) -> None:
    """A manager that is not explicit begins when it is asked to commit."""
    with script(settings) as (web, request):
        flushes(request)
        if manager == EXPLICIT:
            with pytest.raises(transaction.interfaces.NoTransaction):
                request.tm.commit()
            request.db.commit()
        else:
            request.tm.commit()
        assert (count(), web.checked_out()) == (1, 0)


def test_an_abort_gives_the_connection_back(own_manager: dict[str, Any]) -> None:
    """Also of a session that has begun outside of any transaction of the manager's."""
    with script(own_manager) as (web, request):
        flushes(request)
        request.tm.abort()
        assert (web.checked_out(), rows(request)) == (0, 0)


def test_a_session_outside_of_any_transaction_is_committed_by_hand(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """Before the first block, between two, and after the last one."""
    with script(settings) as (_web, request):
        for expected in (1, 3, 5):
            commits(request)
            assert count() == expected
            with request.tm:
                add(request)


def test_hooks_and_doom_find_the_session_joined(
    own_manager: dict[str, Any], count: Callable[[], int]
) -> None:
    """A before-commit hook's work is stored, a doomed transaction's is not."""
    with script(own_manager) as (_web, request):
        with request.tm as begun:
            begun.addBeforeCommitHook(add, (request,))
        assert count() == 1
        request.tm.begin()
        request.tm.doom()
        flushes(request)
        request.tm.abort()
        assert count() == 1


def test_what_is_open_in_the_thread_already_is_joined_by_a_script_alone(
    psycopg_url: str, count: Callable[[], int]
) -> None:
    """A script's author ends it; what is left behind in a server's thread, nobody may ever."""
    settings = {"sqlalchemy.url": psycopg_url, "tm.activate_hook": lambda request: False}
    transaction.get()
    with app(settings, *TM, index=commits) as web:
        web.get()
        assert count() == 1
    with script(settings) as (web, request):
        flushes(request)
        transaction.commit()
        assert (count(), web.checked_out()) == (2, 0)


@pytest.mark.parametrize("first", ["before", "inside"])
def test_a_savepoint_covers_the_session(
    settings: dict[str, Any], count: Callable[[], int], first: str
) -> None:
    """Wherever the session was used for the first time."""
    with script(settings) as (_web, request):
        if first == "before":
            rows(request)
        with request.tm:
            flushes(request)
            savepoint = request.tm.savepoint()
            flushes(request)
            savepoint.rollback()
        assert count() == 1


def test_a_savepoint_from_before_a_session_joined_is_refused(own_manager: dict[str, Any]) -> None:
    """A rollback to it could not undo what the session did."""
    with script(own_manager) as (_web, request):
        flushes(request)
        savepoint = request.tm.savepoint()
        flushes(request)
        savepoint.rollback()
        with pytest.raises(SessionInUse, match="savepoint"):
            request.tm.commit()
        request.tm.abort()


def test_a_mark_for_the_requests_manager_is_one_too_many_but_harmless(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """In a block after another one; zope.sqlalchemy's own data manager commits then."""
    with script(settings) as (web, request):
        for _ in range(2):
            with request.tm:
                zope.sqlalchemy.mark_changed(request.db, request.tm)
                request.db.execute(insert(Row))
            assert web.checked_out() == 0
        with unit_of_work(request.db, transaction_manager=request.tm) as session:
            session.add(Row())
        assert count() == 3


def test_a_request_that_is_served_in_the_thread_leaves_a_script_alone(
    psycopg_url: str, count: Callable[[], int]
) -> None:
    """A test's own session beside the app under test: neither committed nor closed."""
    with (
        app({"sqlalchemy.url": psycopg_url}, *TM, index=add) as web,
        prepare(registry=web.registry) as env,
    ):
        flushes(env["request"])
        web.get()
        assert count() == 1
        env["request"].db.rollback()
        assert count() == 1


def test_a_request_inside_of_another_ones_leaves_that_alone(
    psycopg_url: str, count: Callable[[], int]
) -> None:
    """Both of scripts, with the thread's manager."""
    with script({"sqlalchemy.url": psycopg_url}) as (web, request):
        flushes(request)
        with prepare(registry=web.registry) as env, env["request"].tm:
            flushes(env["request"])
        assert count() == 1
        request.db.rollback()
        assert count() == 1


def test_work_that_a_subrequest_aborts_is_warned_of(
    psycopg_url: str, count: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    """With tweens, an environ of its own and the thread's manager, whose begin() aborts."""

    def view(request: Request) -> None:
        flushes(request)
        request.invoke_subrequest(Request.blank("/inner"), use_tweens=True)

    with app({"sqlalchemy.url": psycopg_url}, *TM, index=view, inner=add) as web:
        caplog.clear()
        web.get()
        assert count() == 1
        (record,) = caplog.records
        assert "GET route 'index'" in record.getMessage()


@pytest.mark.parametrize("blocks", [1, 2])
def test_sessions_that_do_not_begin_by_themselves_are_begun(
    own_manager: dict[str, Any], count: Callable[[], int], blocks: int
) -> None:
    """Inside of a transaction of the manager's."""
    with script(own_manager) as (web, request):
        web.registry["dbsession_factory"].configure(autobegin=False)
        for _ in range(blocks):
            with request.tm:
                add(request)
        assert (count(), web.checked_out()) == (blocks, 0)


def test_a_helper_thread_that_comes_first_joins_the_requests_transaction(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """The thread's manager is another one in each thread."""

    def view(request: Request) -> None:
        with ThreadPoolExecutor(1) as helper:
            helper.submit(flushes, request).result()
        add(request)

    with app(settings, *TM, index=view) as web:
        web.get()
        assert (count(), web.checked_out()) == (2, 0)


def test_work_that_a_view_aborts_is_warned_of(
    own_manager: dict[str, Any], count: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    """It goes on, and says in the end that all is well."""

    def view(request: Request) -> None:
        flushes(request)
        request.tm.abort()
        request.tm.begin()
        add(request)

    with app(own_manager, *TM, index=view) as web:
        caplog.clear()
        web.get()
        assert count() == 1
        (record,) = caplog.records
        assert "GET route 'index'" in record.getMessage()


@pytest.mark.parametrize("where", ["subscriber", "callback", "outer-tween"])
def test_what_is_written_around_pyramid_tm_is_stored(
    settings: dict[str, Any], count: Callable[[], int], where: str
) -> None:
    """In a block of its own, after the response or before the view."""

    def write(request: Request) -> None:
        rows(request)
        with request.tm:
            add(request)

    def include(config: Configurator) -> None:
        if where == "subscriber":
            config.add_subscriber(lambda event: write(event.request), NewResponse)
        elif where == "callback":
            config.add_subscriber(
                lambda event: event.request.add_finished_callback(write), NewRequest
            )
        else:
            config.add_tween(f"{__name__}.writing_tween", over="pyramid_tm.tm_tween_factory")

    with app(settings, *TM, include, index=add) as web:
        web.get()
        assert (count(), web.checked_out()) == (2, 0)


def writing_tween(handler: Any, _registry: Any) -> Any:
    """Return a tween that writes in a transaction of its own."""

    def tween(request: Request) -> Any:
        rows(request)
        with request.tm:
            add(request)
        return handler(request)

    return tween


def test_a_mark_before_the_first_statement_joins_the_request(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """zope.sqlalchemy would have the session join the thread's manager, for ever."""

    def view(request: Request) -> None:
        zope.sqlalchemy.mark_changed(request.db)
        core(request)

    with app(settings, *TM, index=view) as web:
        web.get()
        assert (count(), web.checked_out()) == (1, 0)


def test_a_session_that_another_manager_commits_is_refused(own_manager: dict[str, Any]) -> None:
    """A script's mark has it join the thread's manager; what request.tm then says is no lie."""
    with script(own_manager) as (_web, request):
        zope.sqlalchemy.mark_changed(request.db)
        core(request)
        with pytest.raises(SessionInUse, match="mark_changed"):
            request.tm.commit()
        transaction.abort()


def test_a_session_of_the_factory_may_join_by_itself(
    own_manager: dict[str, Any], count: Callable[[], int]
) -> None:
    """As the cookiecutter's get_tm_session has it."""
    with script(own_manager) as (web, request):
        session = web.registry["dbsession_factory"](info={"request": request})
        assert session.info["request"] is request
        zope.sqlalchemy.register(session, transaction_manager=request.tm)
        with request.tm:
            session.add(Row())
        assert (count(), web.checked_out()) == (1, 0)


def test_what_nobody_commits_is_warned_of_when_the_request_is_dropped(
    settings: dict[str, Any], count: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    """A script that forgets it, and never ends its request, reads about it at its next one."""
    with app(settings, *TM) as web:
        flushes(prepare(registry=web.registry)["request"])
        caplog.clear()
        # Pyramid's own reference, which the end of the request would drop.
        threadlocal.manager.pop()
        gc.collect()
        assert web.checked_out() == 0
        prepare(registry=web.registry)["closer"]()
        assert not caplog.records
        rows(prepare(registry=web.registry)["request"])
        (record,) = caplog.records
        assert record.levelno == logging.WARNING and "uncommitted" in record.getMessage()
        assert count() == 0
        threadlocal.manager.pop()


SCRIPT = """
import logging, os, sys
from pyramid.config import Configurator
from pyramid.scripting import prepare
from sqlalchemy import text
logging.basicConfig(format="%(levelname)s %(message)s")
config = Configurator(settings={"sqlalchemy.url": sys.argv[1]})
config.include("pyramid_tm")
config.include("pyramid_dbpool")
config.commit()
env = prepare(registry=config.registry)
env["request"].db.execute(text("INSERT INTO rows VALUES (1)"))
"""

AT_EXIT = """
if sys.argv[2] == "commit":
    env["request"].tm.commit()
"""


@pytest.mark.parametrize("end", ["commit", "forget"])
def test_what_nobody_commits_is_warned_of_when_the_script_ends(
    psycopg_url: str, count: Callable[[], int], end: str
) -> None:
    """On its error output, though its exit says that all is well."""
    ran = run_program(SCRIPT + AT_EXIT, psycopg_url, end)
    assert ran.returncode == 0
    assert ran.stderr.count("uncommitted") == (end == "forget")
    assert count() == (end == "commit")


def test_a_read_only_pool_never_joins(psycopg_url: str, count: Callable[[], int]) -> None:
    """So that it cannot fail whoever wrote elsewhere."""
    settings = {
        "sqlalchemy.url": psycopg_url,
        "sqlalchemy.ro.url": psycopg_url,
        "dbpool.ro.read_only": "true",
        **EXPLICIT,
    }
    with script(settings) as (_web, request), request.tm:
        add(request)
        assert request.db_ro.scalars(select(Row)).all() == []
        assert not isinstance(request.db_ro.get_transaction(), type(None))
        request.db_ro.commit()
    assert count() == 1


def test_sessions_of_the_app_are_made_by_its_factory(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """One sessionmaker: what the app hangs on it, request.db and workers have too."""
    heard: list[Session] = []

    def view(request: Request) -> str:
        rows(request)
        return str(request.db.autoflush)

    with app(settings, *TM, index=view) as web:
        factory = web.registry["dbsession_factory"]
        event.listen(factory, "do_orm_execute", lambda state: heard.append(state.session))
        factory.configure(autoflush=False)
        assert web.get().text == "False"
        assert len(heard) == 1
        for session in (session_factory(settings), factory()):
            session.scalars(select(Row)).all()
            assert heard[-1] is session and not session.autoflush
            session.close()
        with unit_of_work(settings) as session:
            session.scalars(select(Row)).all()
            assert heard[-1] is session


def test_a_request_that_is_over_is_told_of_nothing_more(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """The thread's manager would tell all that have ended in it, one call for each."""
    with app(settings, *TM, index=add) as web:
        web.get()
        assert not transaction.manager.registeredSynchs()
        with script(settings) as (_web, request):
            rows(request)
            transaction.manager.clearSynchs()
    assert count() == 1


FORK = """
pid = os.fork()
if pid == 0:
    sys.exit()
os.waitpid(pid, 0)
env["request"].db.commit()
"""


def test_a_fork_is_not_warned_of_its_parents_changes(
    psycopg_url: str, count: Callable[[], int]
) -> None:
    """The parent may still commit them."""
    ran = run_program(SCRIPT + FORK, psycopg_url)
    assert (ran.returncode, ran.stderr, count()) == (0, "", 1)
