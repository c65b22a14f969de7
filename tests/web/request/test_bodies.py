"""Response bodies that use the database."""

from collections.abc import Iterator
from typing import Any

import pytest
from pyramid.request import Request
from pyramid.response import Response
from pyramid.scripting import prepare
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from pyramid_dbpool import RequestOver, stream
from tests.support.webapp import TM, Row, app
from tests.web.request.views import Broken, add, rows


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
