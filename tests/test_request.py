"""request.db: joined while pyramid_tm is at work, always given back."""

import logging
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
import transaction
from pyramid.config import Configurator
from pyramid.events import NewResponse
from pyramid.request import Request
from pyramid.response import Response
from pyramid.scripting import prepare
from pyramid.tweens import EXCVIEW, INGRESS
from pyramid_retry import RetryableException
from sqlalchemy import delete, func, insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from pyramid_dbpool import RequestOver, SessionInUse, TransactionFailed, stream
from pyramid_dbpool.request import RequestSessions
from tests.webapp import Row, app, database

TM = ("pyramid_dbpool", "pyramid_tm")
EXPLICIT = {"tm.manager_hook": "pyramid_tm.explicit_manager"}


@pytest.fixture(params=[{}, EXPLICIT], ids=["default-manager", "explicit-manager"])
def manager(request: pytest.FixtureRequest) -> dict[str, str]:
    """Settings for each kind of transaction manager."""
    return dict(request.param)


@pytest.fixture
def count(psycopg_url: str) -> Iterator[Callable[[], int]]:
    """What counts the rows of the database."""
    with database(psycopg_url) as counter:
        yield counter


@pytest.fixture
def settings(
    psycopg_url: str, manager: dict[str, str], count: Callable[[], int]
) -> Iterator[dict[str, Any]]:
    """Settings of an app on the database; at the end no pool has anything checked out."""
    yield {"sqlalchemy.url": psycopg_url, **manager}
    transaction.abort()


def add(request: Request) -> None:
    request.db.add(Row())


def flushes(request: Request) -> None:
    add(request)
    request.db.flush()


def commits(request: Request) -> None:
    add(request)
    request.db.commit()


def executes(statement: Any) -> Callable[[Request], None]:
    def view(request: Request) -> None:
        request.db.execute(statement)

    return view


def rows(request: Request) -> int:
    return int(request.db.scalar(select(func.count()).select_from(Row)))


class Broken(Exception):
    """What the tests' views raise."""


def fails(request: Request) -> None:
    flushes(request)
    raise Broken


def exception_view(view: Callable[[Exception, Request], Any]) -> Callable[[Configurator], None]:
    def include(config: Configurator) -> None:
        config.add_exception_view(view)

    return include


def answer_with_rows(error: Exception, request: Request) -> Response:
    return Response(text=f"{type(error).__name__} {rows(request)}", status=500)


@pytest.mark.parametrize("order", [TM, TM[::-1]], ids=["before-tm", "after-tm"])
def test_what_a_view_writes_is_committed(
    settings: dict[str, Any], count: Callable[[], int], order: tuple[str, str]
) -> None:
    """A normal response commits and gives the connection back, in either order of inclusion."""
    with app(settings, *order, index=add) as web:
        web.get()
        assert count() == 1
        assert web.checked_out() == 0


@pytest.mark.parametrize(
    "statement",
    [text("INSERT INTO rows (id) VALUES (7)"), insert(Row).values(id=7)],
    ids=["raw", "core"],
)
def test_raw_and_core_dml_is_committed(
    settings: dict[str, Any], count: Callable[[], int], statement: Any
) -> None:
    """A transaction that the ORM knows nothing of is committed too."""
    with app(settings, *TM, index=executes(statement)) as web:
        web.get()
        assert count() == 1


def test_an_exception_rolls_back_and_gives_the_connection_back(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """What a failing view wrote is gone, and its connection is not."""
    with app(settings, *TM, index=fails) as web:
        with pytest.raises(Broken):
            web.get()
        assert (count(), web.checked_out()) == (0, 0)


def test_an_exception_view_may_query(settings: dict[str, Any], count: Callable[[], int]) -> None:
    """An exception view uses request.db, and its connection goes back."""
    with app(settings, *TM, exception_view(answer_with_rows), index=fails) as web:
        assert web.get(status=500).text.startswith("Broken")
        assert (count(), web.checked_out()) == (0, 0)


def test_a_failure_at_commit_leaves_the_exception_view_a_clean_session(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """A deferred constraint fails in COMMIT; the view queries, and may write on its own."""

    def violate(request: Request) -> None:
        request.db.execute(
            text(
                "CREATE TABLE once (id int,"
                " CONSTRAINT one UNIQUE (id) DEFERRABLE INITIALLY DEFERRED)"
            )
        )
        request.db.execute(text("INSERT INTO once VALUES (1), (1)"))
        add(request)

    def view(error: Exception, request: Request) -> Response:
        assert not request.db.in_transaction() and not request.db.new
        add(request)
        request.db.commit()
        return answer_with_rows(error, request)

    with app(settings, *TM, exception_view(view), index=violate) as web:
        assert web.get(status=500).text == "IntegrityError 1"
        assert (count(), web.checked_out()) == (1, 0)
        web.get(status=500)


def test_a_failure_at_commit_without_an_exception_view_propagates(
    settings: dict[str, Any],
) -> None:
    """The error of COMMIT is raised and nothing stays checked out."""

    def violate(request: Request) -> None:
        request.db.execute(text("CREATE TABLE o (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)"))
        request.db.execute(text("INSERT INTO o VALUES (1), (1)"))

    with app(settings, *TM, index=violate) as web:
        with pytest.raises(IntegrityError):
            web.get()
        assert web.checked_out() == 0


def test_a_swallowed_error_never_answers_2xx(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """PostgreSQL would answer this COMMIT with ROLLBACK and no error."""

    def swallow(request: Request) -> None:
        add(request)
        request.db.flush()
        with pytest.raises(DBAPIError):
            request.db.execute(text("SELECT 1 / 0"))

    with app(settings, *TM, index=swallow) as web:
        with pytest.raises(TransactionFailed, match="begin_nested"):
            web.get()
        assert (count(), web.checked_out()) == (0, 0)


def test_an_error_inside_a_savepoint_may_be_swallowed(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """A savepoint saves the transaction around it."""

    def view(request: Request) -> None:
        add(request)
        with pytest.raises(DBAPIError), request.db.begin_nested():
            request.db.execute(text("SELECT 1 / 0"))

    with app(settings, *TM, index=view) as web:
        web.get()
        assert count() == 1


def test_a_new_response_subscriber_may_query(settings: dict[str, Any]) -> None:
    """It runs after the transaction has ended; its connection goes back all the same."""
    seen: list[int] = []

    def include(config: Configurator) -> None:
        config.add_subscriber(lambda event: seen.append(rows(event.request)), NewResponse)

    with app(settings, *TM, include, index=add) as web:
        web.get()
        assert (seen, web.checked_out()) == ([1], 0)


@pytest.mark.parametrize("breaks", [False, True], ids=["returns", "raises"])
@pytest.mark.parametrize("used_before", [False, True], ids=["first-use", "used-before"])
def test_a_finished_callback_may_query(
    settings: dict[str, Any], breaks: bool, used_before: bool
) -> None:
    """Also one that was added first, or that raises: the connection goes back."""

    def callback(request: Request) -> None:
        rows(request)
        if breaks:
            raise Broken

    def view(request: Request) -> None:
        request.add_finished_callback(callback)
        if used_before:
            add(request)

    with app(settings, *TM, index=view) as web:
        if breaks:
            with pytest.raises(Broken) as raised:
                web.get()
            # The traceback keeps the request alive: nothing is left to the
            # garbage collector.
            assert raised.value.__traceback__ and web.checked_out() == 0
        else:
            web.get()
        assert web.checked_out() == 0


def test_a_callback_of_an_outer_tween_that_raises_leaks_nothing(settings: dict[str, Any]) -> None:
    """It was added before the request had any session, and Pyramid drops those after it."""

    def include(config: Configurator) -> None:
        config.add_tween(f"{__name__}.CallbackTween", under=INGRESS)

    with app(settings, *TM, include, index=add) as web:
        with pytest.raises(Broken) as raised:
            web.get()
        assert raised.value.__traceback__ and web.checked_out() == 0


class CallbackTween:
    """Adds a finished callback that raises, before anything else happens."""

    def __init__(self, handler: Callable[[Request], Response], registry: object) -> None:
        self.handler = handler

    def __call__(self, request: Request) -> Response:
        def fail(request: Request) -> None:
            raise Broken

        request.add_finished_callback(fail)
        return self.handler(request)


def test_after_an_abort_a_subscriber_writes_on_its_own(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """The vetoed transaction is over, although it calls itself active still."""

    def include(config: Configurator) -> None:
        config.add_subscriber(lambda event: commits(event.request), NewResponse)

    def view(request: Request) -> Response:
        add(request)
        return Response(status=400)

    settings["tm.commit_veto"] = "pyramid_tm.default_commit_veto"
    with app(settings, *TM, include, index=view) as web:
        web.get(status=400)
        assert (count(), web.checked_out()) == (1, 0)


def test_a_request_is_tried_again_on_a_fresh_session(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """pyramid_retry: what the failed attempts wrote is gone, and so are their connections."""
    sessions: list[Session] = []

    def view(request: Request) -> None:
        assert web.checked_out() == 0
        sessions.append(request.db)
        flushes(request)
        if len(sessions) < 3:
            raise RetryableException

    with app(settings, *TM, "pyramid_retry", index=view) as web:
        web.get()
        assert len({id(session) for session in sessions}) == 3
        assert (count(), web.checked_out()) == (1, 0)


def test_an_outer_tween_may_query(settings: dict[str, Any]) -> None:
    """Before the transaction begins and after it has ended."""
    outer_tween.seen.clear()
    with app(settings, *TM, include_outer_tween, index=add) as web:
        web.get()
        assert (outer_tween.seen, web.checked_out()) == ([0, 1], 0)


@pytest.mark.parametrize(
    "write",
    ["raw", "core", "dirty", "hook"],
)
def test_what_is_written_after_an_outer_tween_has_read_is_committed(
    settings: dict[str, Any], count: Callable[[], int], write: str
) -> None:
    """The session was in a transaction already when pyramid_tm began its own."""

    def view(request: Request) -> None:
        if write == "raw":
            request.db.execute(text("INSERT INTO rows (id) VALUES (7)"))
        elif write == "core":
            request.db.execute(insert(Row).values(id=7))
        elif write == "dirty":
            request.db.get(Row, 3).id = 7
        else:
            statement = text("INSERT INTO rows (id) VALUES (7)")
            hook = request.tm.get().addBeforeCommitHook
            hook(lambda: request.db.execute(statement))

    with app(settings, *TM, include_outer_tween, index=view) as web:
        with web.engine.begin() as connection:
            connection.execute(insert(Row).values(id=3))
        web.get()
        assert web.checked_out() == 0
        with web.engine.connect() as connection:
            assert 7 in connection.scalars(select(Row.id)).all()


class outer_tween:
    """A tween around pyramid_tm's that counts rows before and after."""

    seen: ClassVar[list[int]] = []

    def __init__(self, handler: Callable[[Request], Response], registry: object) -> None:
        self.handler = handler

    def __call__(self, request: Request) -> Response:
        self.seen.append(rows(request))
        response = self.handler(request)
        self.seen.append(rows(request))
        return response


def include_outer_tween(config: Configurator) -> None:
    over = ("pyramid_tm.tm_tween_factory", EXCVIEW)
    config.add_tween(f"{__name__}.outer_tween", under=INGRESS, over=over)


def test_a_subrequest_without_tweens_gives_its_connection_back(settings: dict[str, Any]) -> None:
    """It has no transaction manager at work; it reads, and ends."""

    def outer(request: Request) -> str:
        answer = request.invoke_subrequest(Request.blank("/inner")).text
        assert web.checked_out() == 0
        return str(answer)

    with app(settings, *TM, index=outer, inner=rows) as web:
        assert web.get().text == "0"
        assert web.checked_out() == 0


def test_a_script_gives_its_connection_back(settings: dict[str, Any]) -> None:
    """bootstrap() and prepare() end with closer()."""
    with app(settings, *TM) as web:
        with prepare(registry=web.registry) as env:
            assert rows(env["request"]) == 0
            assert web.checked_out() == 1
        assert web.checked_out() == 0


def test_without_pyramid_tm_the_app_commits(
    settings: dict[str, Any], count: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    """Committed work stays; the rest is rolled back."""

    with app(settings, "pyramid_dbpool", index=commits) as web:
        caplog.clear()
        web.get()
        assert (count(), web.checked_out()) == (1, 0)
        assert not caplog.records


@pytest.mark.parametrize(
    "write",
    [
        add,
        flushes,
        executes(delete(Row)),
        executes(text("\n insert into rows values (1)")),
    ],
    ids=["pending", "flushed", "core", "text"],
)
def test_uncommitted_changes_are_warned_of_once_with_the_route(
    settings: dict[str, Any],
    count: Callable[[], int],
    caplog: pytest.LogCaptureFixture,
    write: Callable[[Request], None],
) -> None:
    """Whoever forgets commit() reads about it."""
    with app(settings, "pyramid_dbpool", index=write) as web:
        caplog.clear()
        web.get()
        assert count() == 0
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert "GET route 'index'" in record.getMessage()
        assert "uncommitted" in record.getMessage()


def test_a_path_that_is_not_utf8_is_warned_of_and_leaks_nothing(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The warning names what it can."""

    def view(error: Exception, request: Request) -> Response:
        flushes(request)
        return Response(status=400)

    with app(settings, "pyramid_dbpool", exception_view(view)) as web:
        caplog.clear()
        web.get("/%ff", status=400)
        assert web.checked_out() == 0
        assert "uncommitted" in caplog.text


def test_what_autocommit_has_stored_is_not_called_lost(
    settings: dict[str, Any], count: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    """It is stored, and nothing is said."""
    settings["sqlalchemy.isolation_level"] = "AUTOCOMMIT"
    with app(settings, "pyramid_dbpool", index=executes(insert(Row).values(id=7))) as web:
        caplog.clear()
        web.get()
        assert count() == 1
        assert not caplog.records


def test_reading_is_not_warned_of(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A session that only read closes in silence."""
    with app(settings, "pyramid_dbpool", index=rows) as web:
        caplog.clear()
        web.get()
        assert not caplog.records


def test_a_manager_that_is_not_active_is_not_joined(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """tm.activate_hook leaves the request to itself: the app commits."""

    settings["tm.activate_hook"] = lambda request: False
    with app(settings, *TM, index=commits) as web:
        web.get()
        assert (count(), web.checked_out()) == (1, 0)


@pytest.mark.parametrize("give_back", ["rollback", "close"])
@pytest.mark.parametrize("goes_on", [False, True], ids=["ends", "goes-on"])
def test_a_view_may_give_its_connection_back_early(
    settings: dict[str, Any], count: Callable[[], int], give_back: str, goes_on: bool
) -> None:
    """Before it goes on to something slow; what it writes later is committed."""

    def view(request: Request) -> None:
        rows(request)
        getattr(request.db, give_back)()
        assert web.checked_out() == 0
        if goes_on:
            add(request)

    with app(settings, *TM, index=view) as web:
        web.get()
        assert (count(), web.checked_out()) == (int(goes_on), 0)


@pytest.mark.parametrize("tweens", [False, True])
def test_a_subrequest_that_shares_the_environ_shares_the_transaction(
    settings: dict[str, Any], count: Callable[[], int], tweens: bool
) -> None:
    """What it writes is committed with the request's own work, or rolled back with it."""

    def outer(request: Request) -> None:
        add(request)
        inner = request.copy_get()
        inner.path_info = "/inner"
        request.invoke_subrequest(inner, use_tweens=tweens)
        flushes(request)
        if request.params:
            raise Broken

    with app(settings, *TM, index=outer, inner=add) as web:
        web.get()
        assert (count(), web.checked_out()) == (3, 0)
        with pytest.raises(Broken):
            web.get("/?fail=1")
        assert (count(), web.checked_out()) == (3, 0)


def test_committing_by_hand_inside_the_transaction_is_refused(settings: dict[str, Any]) -> None:
    """pyramid_tm commits; a view that does fails at once."""
    with app(settings, *TM, index=commits) as web:
        with pytest.raises(SessionInUse, match=r"request\.tm"):
            web.get()
        assert web.checked_out() == 0


def test_what_a_before_commit_hook_writes_is_committed(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """pyramid_tm has taken tm.active away by then."""

    def view(request: Request) -> None:
        request.tm.get().addBeforeCommitHook(add, (request,))

    with app(settings, *TM, index=view) as web:
        web.get()
        assert (count(), web.checked_out()) == (1, 0)


def test_an_after_commit_hook_may_query(settings: dict[str, Any]) -> None:
    """It sees what was committed, outside of the transaction."""
    seen: list[int] = []

    def view(request: Request) -> None:
        add(request)
        request.tm.get().addAfterCommitHook(lambda ok: seen.append(rows(request)))

    with app(settings, *TM, index=view) as web:
        web.get()
        assert (seen, web.checked_out()) == ([1], 0)


def test_a_session_that_a_test_supplies_is_left_alone(
    settings: dict[str, Any], count: Callable[[], int]
) -> None:
    """Handed out untouched: not joined, not committed, not closed."""
    with app(settings, *TM, index=add) as web, Session(web.engine) as own:
        web.get(extra_environ={"app.dbsession": own})
        assert len(own.new) == 1
        own.flush()
        assert web.checked_out() == 1
        own.rollback()
        assert count() == 0


def test_late_use_in_a_body_is_a_clear_error_and_leaks_nothing(settings: dict[str, Any]) -> None:
    """A generator that touches request.db runs after everything was given back."""

    def view(request: Request) -> Response:
        add(request)

        def body() -> Iterator[bytes]:
            yield str(rows(request)).encode()

        return Response(app_iter=body())

    def first_use(request: Request) -> Response:
        return Response(app_iter=(str(rows(request)).encode() for _ in range(1)))

    def again(request: Request) -> Response:
        add(request)

        def body() -> Iterator[bytes]:
            with pytest.raises(RequestOver):
                rows(request)
            yield str(rows(request)).encode()

        return Response(app_iter=body())

    with app(settings, *TM, index=view, first=first_use, again=again) as web:
        for path, route in (("/", "index"), ("/first", "first"), ("/again", "again")):
            with pytest.raises(RequestOver, match="stream") as raised:
                web.get(path)
            assert f"route '{route}'" in str(raised.value)
            assert web.checked_out() == 0


def test_rows_stream_on_a_session_of_the_body(settings: dict[str, Any]) -> None:
    """The documented way: the session lives until the body is closed."""
    held: list[int] = []

    def view(request: Request) -> Response:
        add(request)

        def produce(session: Session) -> Iterator[bytes]:
            for row in session.scalars(select(Row).execution_options(yield_per=1)):
                held.append(web.checked_out())
                yield b"%d;" % row.id

        return Response(app_iter=stream(request, produce))

    with app(settings, *TM, index=view) as web:
        assert web.get().body.count(b";") == 1
        assert (held, web.checked_out()) == ([1], 0)


def test_a_stream_that_is_closed_early_or_fails_gives_its_connection_back(
    settings: dict[str, Any],
) -> None:
    """A client that went away, and a generator that raises."""
    with app(settings, *TM) as web, prepare(registry=web.registry) as env:

        def produce(session: Session) -> Iterator[bytes]:
            session.execute(select(1))
            yield b"first"
            raise Broken

        left = stream(env["request"], produce)
        assert next(left) == b"first"
        assert web.checked_out() == 1
        left.close()
        left.close()
        assert (list(left), web.checked_out()) == ([], 0)

        broken = stream(env["request"], produce)
        with pytest.raises(Broken):
            list(broken)
        assert web.checked_out() == 0

        stream(env["request"], produce).close()
        assert web.checked_out() == 0


def test_a_stream_that_cannot_be_closed_gives_its_connection_back(
    settings: dict[str, Any],
) -> None:
    """Its producer is told of the end, and fails at it."""
    with app(settings, *TM) as web, prepare(registry=web.registry) as env:

        def produce(session: Session) -> Iterator[bytes]:
            session.execute(select(1))
            try:
                yield b"first"
            finally:
                raise Broken

        left = stream(env["request"], produce)
        next(left)
        with pytest.raises(Broken):
            left.close()
        assert web.checked_out() == 0


@pytest.mark.parametrize(
    ("key", "name"), [("app.dbsession", "default"), ("app.dbsession.replica", "replica")]
)
def test_a_stream_uses_the_session_of_a_test(
    settings: dict[str, Any], key: str, name: str
) -> None:
    """And leaves it open."""
    with app(settings, *TM) as web, Session(web.engine) as own:
        own.add(Row())
        own.flush()
        request = Request.blank("/", environ={key: own})

        def produce(session: Session) -> Iterator[int]:
            yield from session.scalars(select(func.count()).select_from(Row))

        assert list(stream(request, produce, name)) == [1]
        assert own.in_transaction()


def test_a_request_has_one_owner_of_sessions(settings: dict[str, Any]) -> None:
    """However often it is asked for."""
    request = Request.blank("/")
    assert RequestSessions.of(request) is RequestSessions.of(request)


class TestPools:
    """Named pools beside the default one."""

    @pytest.fixture
    def settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        """A read-only pool and a second writable one on the same database."""
        url = settings["sqlalchemy.url"]
        return {
            **settings,
            "sqlalchemy.replica.url": url,
            "dbpool.replica.read_only": "true",
            "sqlalchemy.audit.url": url,
        }

    def test_two_writable_pools_are_both_committed(
        self, settings: dict[str, Any], count: Callable[[], int]
    ) -> None:
        """One after the other."""

        def view(request: Request) -> None:
            request.db.add(Row(id=1))
            request.db_audit.add(Row(id=2))

        with app(settings, *TM, index=view) as web:
            web.get()
            assert (count(), web.checked_out()) == (2, 0)

    def test_a_read_only_pool_refuses_writes(self, settings: dict[str, Any]) -> None:
        """In every transaction of it, the second one after a commit too."""

        def view(request: Request) -> None:
            for _ in range(2):
                assert rows_of(request.db_replica) == 0
                with pytest.raises(DBAPIError, match="read-only"):
                    request.db_replica.execute(text("INSERT INTO rows (id) VALUES (1)"))
                request.db_replica.rollback()

        with app(settings, *TM, index=view) as web:
            web.get()
            assert web.checked_out() == 0

    def test_read_only_ends_with_the_transaction(self, settings: dict[str, Any]) -> None:
        """The connection itself has the server's defaults: nothing outlives the checkout."""
        with app(settings, *TM, index=lambda request: rows_of(request.db_replica)) as web:
            web.get()
            raw = web.registry["sqlalchemy.engine.replica"].raw_connection()
            with raw.cursor() as cursor:
                cursor.execute("SHOW default_transaction_read_only")
                assert cursor.fetchone() == ("off",)
            raw.close()

    def test_a_failing_read_only_pool_does_not_fail_a_request_that_wrote(
        self, settings: dict[str, Any], count: Callable[[], int]
    ) -> None:
        """Its transaction is in error, even its backend is gone, and the write is committed."""

        def view(request: Request) -> None:
            add(request)
            with pytest.raises(DBAPIError):
                request.db_replica.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

        with app(settings, *TM, index=view) as web:
            web.get()
            assert (count(), web.checked_out()) == (1, 0)

    def test_a_pool_has_its_keys_in_the_registry(self, settings: dict[str, Any]) -> None:
        """Engine and session factory, by name."""
        with app(settings, *TM) as web:
            registry = web.registry
            assert registry["sqlalchemy.engine.audit"] is not registry["sqlalchemy.engine"]
            with registry["dbsession_factory.audit"]() as session:
                assert session.get_bind() is registry["sqlalchemy.engine.audit"]


def rows_of(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(Row)) or 0
