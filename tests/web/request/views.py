"""What the views of these tests do."""

from collections.abc import Callable
from typing import Any

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy import func, select

from tests.support.webapp import Row

EXPLICIT = {"tm.manager_hook": "pyramid_tm.explicit_manager"}


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
